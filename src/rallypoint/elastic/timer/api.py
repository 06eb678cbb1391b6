"""Timers: what a client says, what a server does with it."""

from __future__ import annotations

import abc
import logging
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RequestQueue", "TimerClient", "TimerRequest", "TimerServer", "configure", "expires"]

logger = logging.getLogger(__name__)


class TimerRequest:
    """Until ``expiration_time`` (seconds since the epoch; negative: done) ``worker_id`` is within ``scope_id``."""

    __slots__ = ["expiration_time", "scope_id", "worker_id"]

    def __init__(self, worker_id: Any, scope_id: str, expiration_time: float) -> None:
        self.worker_id = worker_id
        self.scope_id = scope_id
        self.expiration_time = expiration_time

    def _content(self) -> tuple[object, ...]:
        return type(self), self.worker_id, self.scope_id, self.expiration_time

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TimerRequest) and self._content() == other._content()

    __hash__ = None  # type: ignore[assignment]  # as torch's: it can be changed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.worker_id} within {self.scope_id} until {self.expiration_time}>"


class TimerClient(abc.ABC):
    """The worker's side."""

    @abc.abstractmethod
    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Tell the server until when this worker means to be within ``scope_id``."""

    @abc.abstractmethod
    def release(self, scope_id: str) -> None:
        """Tell the server that this worker has left ``scope_id``."""


class RequestQueue(abc.ABC):
    """Where a server finds requests."""

    @abc.abstractmethod
    def size(self) -> int:
        """Return how many requests are there now."""

    @abc.abstractmethod
    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        """Return up to ``size`` requests, waiting for them at most ``timeout`` seconds."""


class TimerServer(abc.ABC):
    """Watches timers and reaps the workers whose timers have expired.

    ``max_interval``: at most this many seconds pass between two looks. ``daemon``: whether the watching
    thread lets the process end.
    """

    def __init__(self, request_queue: RequestQueue, max_interval: float, daemon: bool = True) -> None:
        super().__init__()
        self._request_queue = request_queue
        self._max_interval = max_interval
        self._daemon = daemon
        self._watchdog_thread: threading.Thread | None = None
        self._stop_signaled = False

    @abc.abstractmethod
    def register_timers(self, timer_requests: list[TimerRequest]) -> None:
        """Take in requests; a negative time takes a timer back."""

    @abc.abstractmethod
    def clear_timers(self, worker_ids: set[Any]) -> None:
        """Forget all timers of these workers."""

    @abc.abstractmethod
    def get_expired_timers(self, deadline: float) -> dict[str, list[TimerRequest]]:
        """Return the timers that have expired at ``deadline``, for each worker."""

    @abc.abstractmethod
    def _reap_worker(self, worker_id: Any) -> bool:
        """Reap a worker and say whether it is gone; if not, it is tried again. Raising counts as gone."""

    def start(self) -> None:
        """Watch, in a thread of its own."""
        self._stop_signaled = False
        self._watchdog_thread = threading.Thread(target=self._watchdog_loop, name="timer-server", daemon=self._daemon)
        self._watchdog_thread.start()

    def stop(self) -> None:
        """End the watch; waits at most ``max_interval`` seconds for it."""
        self._stop_signaled = True
        if self._watchdog_thread:
            self._watchdog_thread.join(self._max_interval)
            self._watchdog_thread = None

    def _patience(self) -> float:
        """How long the next look may wait for requests, in seconds."""
        return self._max_interval

    def _watchdog_loop(self) -> None:
        while not self._stop_signaled:
            try:
                self._run_watchdog()
            except Exception:
                logger.exception("the timer server goes on after an error")

    def _run_watchdog(self) -> None:
        batch = max(1, self._request_queue.size())
        self.register_timers(self._request_queue.get(batch, self._patience()))
        reaped = set()
        for worker_id, expired in self.get_expired_timers(time.time()).items():
            logger.warning("worker %s has overstayed its time within %s", worker_id, [r.scope_id for r in expired])
            if self._reap_worker_no_throw(worker_id):
                reaped.add(worker_id)
        self.clear_timers(reaped)

    def _reap_worker_no_throw(self, worker_id: Any) -> bool:
        try:
            return self._reap_worker(worker_id)
        except Exception:
            logger.exception("worker %s could not be reaped", worker_id)
            return True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'watching' if self._watchdog_thread else 'not watching'}>"


_client: TimerClient | None = None


def configure(timer_client: TimerClient) -> None:
    """Set the client that ``expires`` uses in this process."""
    global _client  # noqa: PLW0603  the process's one client is the point
    _client = timer_client


@contextmanager
def expires(after: float, scope: str | None = None, client: TimerClient | None = None) -> Iterator[None]:
    """Within the block, a timer of ``after`` seconds runs: if it expires, this worker is reaped.

    ``scope`` names the block (default: the caller's file and line). Raises RuntimeError without a client.
    """
    client = _client if client is None else client
    if client is None:
        raise RuntimeError("no timer client is configured: call configure() first, or give expires() a client")
    if scope is None:
        caller = sys._getframe(2)  # 1 is contextlib
        scope = f"{caller.f_code.co_filename}#{caller.f_lineno}"
    client.acquire(scope, time.time() + after)
    try:
        yield
    finally:
        client.release(scope)
