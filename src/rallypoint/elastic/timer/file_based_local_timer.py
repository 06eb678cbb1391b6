"""Timers by way of a named pipe: nothing needs to be handed to the workers but its path."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from rallypoint.elastic.timer.api import TimerClient, TimerRequest
from rallypoint.elastic.timer.reaping import offer_stacks, reap
from rallypoint.proc.deadlines import parse

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FileTimerClient", "FileTimerRequest", "FileTimerServer"]

logger = logging.getLogger(__name__)

_TRIES, _PAUSE = 10, 0.1


class FileTimerRequest(TimerRequest):
    """A request with the ``signal`` that is to reap the worker (0 or less: none)."""

    __slots__ = ["signal", "version"]

    def __init__(self, worker_pid: int, scope_id: str, expiration_time: float, signal: int = 0) -> None:
        super().__init__(worker_id=worker_pid, scope_id=scope_id, expiration_time=expiration_time)
        self.version = 1
        self.signal = signal

    @property
    def worker_pid(self) -> int:
        """The worker's process."""
        return int(self.worker_id)

    def _content(self) -> tuple[object, ...]:
        return (*super()._content(), self.version, self.signal)

    def to_json(self) -> str:
        """Return the line that goes through the pipe, without its end."""
        return json.dumps(
            {
                "version": self.version,
                "pid": self.worker_pid,
                "scope_id": self.scope_id,
                "expiration_time": self.expiration_time,
                "signal": self.signal,
            }
        )


class FileTimerClient(TimerClient):
    """Speaks to whoever serves the named pipe ``file_path``: a ``FileTimerServer``, the launcher, or torch's.

    ``signal`` is what this worker is to be killed with. Raises BrokenPipeError if nobody serves the pipe
    within a second, RuntimeError for a request that is too long for one write.
    """

    def __init__(self, file_path: str, signal: Any = signal.SIGKILL) -> None:
        super().__init__()
        self._file_path = file_path
        self.signal = signal

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        offer_stacks()
        self._send(FileTimerRequest(os.getpid(), scope_id, expiration_time, int(self.signal)))

    def release(self, scope_id: str) -> None:
        self._send(FileTimerRequest(os.getpid(), scope_id, -1, 0))

    def _send(self, request: FileTimerRequest) -> None:
        line = (request.to_json() + "\n").encode()
        if len(line) > select.PIPE_BUF:  # up to here, one write never mixes with another's
            raise RuntimeError(f"a request may have {select.PIPE_BUF} bytes, this one has {len(line)}: {request}")
        fd = self._open()
        try:
            os.set_blocking(fd, True)
            os.write(fd, line)
        finally:
            os.close(fd)

    def _open(self) -> int:
        for attempt in range(_TRIES):
            try:
                # Blocking, this would wait for a server for ever.
                return os.open(self._file_path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                reason = error
            if attempt < _TRIES - 1:
                time.sleep(_PAUSE)
        raise BrokenPipeError(f"no timer server is at {self._file_path}: {reason.strerror}") from reason


class FileTimerServer:
    """Kills processes whose timers have expired, as soon as they have.

    ``file_path`` is where the named pipe is made; what is there is replaced. ``run_id`` is for messages.
    ``max_interval``: at most this many seconds pass between two looks. ``daemon``: whether the watching
    thread lets the process end. ``log_event`` is told of each step.
    """

    def __init__(
        self,
        file_path: str,
        run_id: str,
        max_interval: float = 10,
        daemon: bool = True,
        log_event: Callable[[str, FileTimerRequest | None], None] | None = None,
    ) -> None:
        self._file_path = file_path
        self._run_id = run_id
        self._max_interval = max_interval
        self._daemon = daemon
        self._log_event = log_event or (lambda _name, _request: None)
        self._timers: dict[tuple[int, str], FileTimerRequest] = {}
        self._request_count = 0
        self._last_progress_time = int(time.time())
        self._rest = b""
        self._once = False
        self._watchdog_thread: threading.Thread | None = None
        self._unlink()
        os.mkfifo(file_path, 0o600)
        # With a writer of our own, the pipe never ends when the last client closes it.
        self._fd = os.open(file_path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def start(self) -> None:
        """Watch, in a thread of its own."""
        self._watchdog_thread = threading.Thread(target=self._watchdog_loop, name="timer-server", daemon=self._daemon)
        self._watchdog_thread.start()
        self._log_event("watchdog started", None)

    def stop(self) -> None:
        """End the watch at once and remove the pipe."""
        self._end()
        self._log_event("watchdog stopped", None)

    def run_once(self) -> None:
        """Take in what is in the pipe, act on it, then end as ``stop`` does."""
        self._once = True
        self._end()

    @staticmethod
    def is_process_running(pid: int) -> bool:
        """Say whether there is a process ``pid`` that we may signal."""
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True

    def register_timers(self, timer_requests: list[FileTimerRequest]) -> None:
        """Take in requests; a negative time takes a timer back."""
        for request in timer_requests:
            self._request_count += 1
            if request.expiration_time < 0:
                self._timers.pop((request.worker_pid, request.scope_id), None)
            else:
                self._timers[request.worker_pid, request.scope_id] = request

    def clear_timers(self, worker_pids: set[int]) -> None:
        """Forget the timers of these processes, and of all that are gone."""
        kept = {pid for pid, _ in self._timers if pid not in worker_pids and self.is_process_running(pid)}
        self._timers = {key: request for key, request in self._timers.items() if key[0] in kept}

    def get_expired_timers(self, deadline: float) -> dict[int, list[FileTimerRequest]]:
        """Return the timers that have expired at ``deadline``, for each process."""
        expired: dict[int, list[FileTimerRequest]] = {}
        for request in self._timers.values():
            if request.expiration_time <= deadline:
                expired.setdefault(request.worker_pid, []).append(request)
        return expired

    def get_last_progress_time(self) -> int:
        """Return when the watch last turned, in seconds since the epoch."""
        return self._last_progress_time

    def _end(self) -> None:
        if self._watchdog_thread:
            os.write(self._wake_write, b"\0")
            self._watchdog_thread.join()
            self._watchdog_thread = None
        for fd in (self._fd, self._wake_read, self._wake_write):
            if fd >= 0:
                os.close(fd)
        self._fd = self._wake_read = self._wake_write = -1
        self._unlink()

    def _unlink(self) -> None:
        try:
            os.unlink(self._file_path)
        except FileNotFoundError:
            pass

    def _watchdog_loop(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        stop = False
        while not stop:
            soonest = min((request.expiration_time for request in self._timers.values()), default=float("inf"))
            wait = min(self._max_interval, max(0.0, soonest - time.time()))
            stop = any(fd == self._wake_read for fd, _ in poll.poll(wait * 1000))
            if stop and not self._once:
                return
            try:
                self._run_watchdog()
            except Exception:
                logger.exception("the timer server goes on after an error")
            self._last_progress_time = int(time.time())

    def _run_watchdog(self) -> None:
        self.register_timers(self._requests())
        expired = self.get_expired_timers(time.time())
        for pid, timers in expired.items():
            self._overstayed(pid, sorted(timers, key=lambda timer: timer.expiration_time))
        self.clear_timers(set(expired))

    def _requests(self) -> list[FileTimerRequest]:
        data = b""
        try:
            while piece := os.read(self._fd, 1 << 16):
                data += piece
        except BlockingIOError:
            pass
        *lines, self._rest = (self._rest + data).split(b"\n")
        read = [request for request in map(parse, lines) if request is not None]
        if len(read) < len(lines):
            logger.warning("%d lines in %s are no timer requests", len(lines) - len(read), self._file_path)
        return [FileTimerRequest(r.pid, r.scope, r.expires, r.signal) for r in read]

    def _overstayed(self, pid: int, timers: list[FileTimerRequest]) -> None:
        scopes = [timer.scope_id for timer in timers]
        logger.warning("run %s: process %d has overstayed its time within %s", self._run_id, pid, scopes)
        for timer in timers:
            self._log_event("timer expired", timer)
        deadly = next((timer for timer in timers if timer.signal > 0), None)
        if deadly is None:
            return  # it asked not to be killed
        if reap(pid, deadly.signal):
            self._log_event("kill worker process", deadly)
        else:
            logger.error("process %d may not be signalled from here", pid)

    def __repr__(self) -> str:
        state = "closed" if self._fd < 0 else "watching" if self._watchdog_thread else "not watching"
        return f"<FileTimerServer {self._file_path} {state}, {len(self._timers)} timers>"
