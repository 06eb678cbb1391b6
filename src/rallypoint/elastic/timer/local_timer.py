"""Timers by way of a ``multiprocessing`` queue, for workers of one machine."""

from __future__ import annotations

import os
import time
from queue import Empty
from typing import TYPE_CHECKING, Any

from rallypoint.elastic.timer.api import RequestQueue, TimerClient, TimerRequest, TimerServer
from rallypoint.elastic.timer.reaping import offer_stacks, reap

if TYPE_CHECKING:
    import multiprocessing.queues

__all__ = ["LocalTimerClient", "LocalTimerServer", "MultiprocessingRequestQueue"]


class LocalTimerClient(TimerClient):
    """Speaks to the ``LocalTimerServer`` at the other end of ``mp_queue``. Works in the process that made it."""

    def __init__(self, mp_queue: Any) -> None:
        super().__init__()
        self._mp_queue = mp_queue

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        offer_stacks()
        self._mp_queue.put(TimerRequest(os.getpid(), scope_id, expiration_time))

    def release(self, scope_id: str) -> None:
        self._mp_queue.put(TimerRequest(os.getpid(), scope_id, -1))


class MultiprocessingRequestQueue(RequestQueue):
    """Requests that arrive in a ``multiprocessing`` queue."""

    def __init__(self, mp_queue: multiprocessing.queues.Queue[Any]) -> None:
        super().__init__()
        self._mp_queue = mp_queue

    def size(self) -> int:
        return self._mp_queue.qsize()

    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        """Return up to ``size`` requests; a None in the queue ends the wait (that is how a server is woken)."""
        requests: list[TimerRequest] = []
        end = time.monotonic() + timeout
        while len(requests) < size:
            try:
                request = self._mp_queue.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                break
            if request is None:
                break
            requests.append(request)
        return requests


class LocalTimerServer(TimerServer):
    """Kills workers whose timers have expired, as soon as they have. A worker is known by its pid."""

    def __init__(
        self, mp_queue: multiprocessing.queues.Queue[Any], max_interval: float = 60, daemon: bool = True
    ) -> None:
        super().__init__(MultiprocessingRequestQueue(mp_queue), max_interval, daemon)
        self._mp_queue = mp_queue
        self._timers: dict[tuple[Any, str], TimerRequest] = {}

    def register_timers(self, timer_requests: list[TimerRequest]) -> None:
        for request in timer_requests:
            key = (request.worker_id, request.scope_id)
            if request.expiration_time < 0:
                self._timers.pop(key, None)
            else:
                self._timers[key] = request

    def clear_timers(self, worker_ids: set[int]) -> None:
        self._timers = {key: request for key, request in self._timers.items() if key[0] not in worker_ids}

    def get_expired_timers(self, deadline: float) -> dict[Any, list[TimerRequest]]:
        expired: dict[Any, list[TimerRequest]] = {}
        for request in self._timers.values():
            if request.expiration_time <= deadline:
                expired.setdefault(request.worker_id, []).append(request)
        return expired

    def stop(self) -> None:
        """End the watch at once."""
        self._stop_signaled = True
        if self._watchdog_thread:
            self._mp_queue.put(None)
        super().stop()

    def _patience(self) -> float:
        soonest = min((request.expiration_time for request in self._timers.values()), default=float("inf"))
        return min(self._max_interval, max(0.0, soonest - time.time()))

    def _reap_worker(self, worker_id: int) -> bool:
        return reap(worker_id)
