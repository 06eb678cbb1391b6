"""The file timer: workers say until when they mean to be done with something; who overstays is killed.

The protocol is torch's (``FileTimerClient``): a named pipe, a line of JSON for each request with ``pid``,
``scope_id``, ``expiration_time`` (seconds since the epoch; negative: done) and ``signal`` (0 or less: do not kill).
"""

from __future__ import annotations

import json
import os
import signal as signals
import stat
import time

from rallypoint.model.errors import UsageError
from rallypoint.model.result import signal_name
from rallypoint.model.spec import STACK_SIGNAL
from rallypoint.model.value import Value
from rallypoint.proc import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.reactor import Reactor, Timer

VARIABLE = "TORCHELASTIC_TIMER_FILE"
STACK_TIME = 0.25
"""Seconds that a process gets to write its stacks before it is killed."""


class Request(Value):
    """One line: until ``expires`` (seconds since the epoch; negative: done with it) ``pid`` is within ``scope``."""

    pid: int
    scope: str
    expires: float
    signal: int = 0


def parse(line: bytes) -> Request | None:
    """Read one line; None if it is none of ours."""
    try:
        content = json.loads(line)
        pid, number = int(content["pid"]), int(content["signal"])
        request = Request(pid, str(content["scope_id"]), float(content["expiration_time"]), number)
    except (ValueError, TypeError, KeyError):
        return None
    return request if pid > 0 and number <= signals.NSIG else None


class Deadlines:
    """What is running, by (pid, scope)."""

    def __init__(self) -> None:
        self._running: dict[tuple[int, str], Request] = {}

    def note(self, request: Request) -> None:
        if request.expires < 0:
            self._running.pop((request.pid, request.scope), None)
        else:
            self._running[request.pid, request.scope] = request

    def next(self) -> float | None:
        """When the first expires; None if nothing runs."""
        return min((request.expires for request in self._running.values()), default=None)

    def take(self, now: float) -> list[Request]:
        """Return what has expired, the first of each process, and forget all of those processes."""
        due: dict[int, Request] = {}
        for request in sorted(self._running.values(), key=lambda r: (r.signal <= 0, r.expires)):
            if request.expires <= now:
                due.setdefault(request.pid, request)
        self._running = {key: request for key, request in self._running.items() if key[0] not in due}
        return list(due.values())

    def __len__(self) -> int:
        return len(self._running)


class TimerFile:
    """Serves the named pipe ``path``. ``mine(pid)`` says whether a process is one that may be killed from here.

    ``warn`` is told of each process that overstays. ``close`` removes the pipe.
    """

    def __init__(self, reactor: Reactor, path: str, mine: Callable[[int], bool], warn: Callable[[str], None]) -> None:
        self._reactor = reactor
        self._path = path
        self._mine = mine
        self._warn = warn
        self._deadlines = Deadlines()
        self._rest = b""
        self._timer: Timer | None = None
        _make(path)
        # With a writer of our own, the pipe never ends when the last worker closes it.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        reactor.add_reader(self._fd, self._read)

    def close(self) -> None:
        if self._fd >= 0:
            self._reactor.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            if self._timer:
                self._timer.cancel()
            try:
                os.unlink(self._path)
            except OSError:
                pass  # somebody else was quicker

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for request in map(parse, lines):
            if request is not None:
                self._deadlines.note(request)
        self._arm()

    def _arm(self) -> None:
        if self._timer:
            self._timer.cancel()
        due = self._deadlines.next()
        if due is not None:
            self._timer = self._reactor.call_at(self._reactor.now() + max(0.0, due - time.time()), self._expire)

    def _expire(self) -> None:
        for request in self._deadlines.take(time.time()):
            process = procfs.read(request.pid)
            if process is None or not process.alive:
                continue
            who = f"process {request.pid} has overstayed its time within {request.scope}"
            if request.signal <= 0:
                self._warn(f"{who}; it asked not to be killed")
            elif not self._mine(request.pid):
                self._warn(f"{who}; it is none of this run's workers and is left alone")
            else:
                self._warn(f"{who}: sending {signal_name(request.signal)}")
                self._kill(process, request.signal)
        self._arm()

    def _kill(self, process: procfs.Process, number: int) -> None:
        if not procfs.catches(process.pid, STACK_SIGNAL):
            procfs.send_to(process, number)
            return
        procfs.send_to(process, STACK_SIGNAL)
        self._reactor.call_at(self._reactor.now() + STACK_TIME, lambda: procfs.send_to(process, number))

    def __repr__(self) -> str:
        return f"<TimerFile {self._path if self._fd >= 0 else 'closed'}, {len(self._deadlines)} running>"


def _make(path: str) -> None:
    """Make the pipe; one that a dead launcher has left is replaced. Raises UsageError, OSError."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        os.mkfifo(path, 0o600)
        return
    if not stat.S_ISFIFO(there.st_mode):
        raise UsageError(VARIABLE, path, "something else than a named pipe is there; name a file that does not exist")
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:  # nobody reads there any more
        os.unlink(path)
        os.mkfifo(path, 0o600)
        return
    raise UsageError(VARIABLE, path, "another launcher is using it")
