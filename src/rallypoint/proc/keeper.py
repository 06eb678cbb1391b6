"""The launcher's side of the orphan guard: start it, tell it the workers' pids, replace it if it dies."""

from __future__ import annotations

import os
import signal
import sys

from rallypoint.proc import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.model.reactor import Reactor, Timer

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guard.py")
RETRY = 1.0
"""Seconds between two attempts to start a guard."""


class GuardKeeper:
    """Keeps one guard process alive. ``close`` ends it quietly, or leaves it to kill what is left."""

    def __init__(self, reactor: Reactor, mark: str) -> None:
        self._reactor = reactor
        self._mark = mark
        self._workers: set[int] = set()
        self.pid = 0
        self._pidfd = -1
        self._pipe = -1
        self._tried_at = -RETRY
        self._timer: Timer | None = None
        self._closed = False

    def add(self, pid: int) -> None:
        """Name a worker. The first call starts the guard, in the next turn: after the first workers."""
        if not self._workers and not self.pid and self._timer is None:
            self._start_later()
        self._workers.add(pid)
        self._tell(f"+{pid}\n")

    def remove(self, pid: int) -> None:
        """Take back a worker: it is gone, and so is all that it left behind."""
        self._workers.discard(pid)
        self._tell(f"-{pid}\n")

    def close(self, quiet: bool) -> None:
        """Release everything. ``quiet``: nothing is left to kill, so end the guard; else let it act."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
        if self.pid and quiet:
            os.kill(self.pid, signal.SIGKILL)  # our unreaped child: the number is its own
            launch.await_end(self._pidfd, 0.2)
        self._release()

    def _start_later(self) -> None:
        # At most one attempt each RETRY seconds: a guard that cannot start must not keep us busy.
        wait = self._tried_at + RETRY - self._reactor.now()
        self._timer = self._reactor.call_at(self._reactor.now() + max(0.0, wait), self._start)

    def _start(self) -> None:
        self._timer = None
        self._tried_at = self._reactor.now()
        if self._closed or not sys.executable:
            return
        reading, self._pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(reading, True)
        try:
            self.pid, self._pidfd = self._spawn(reading)
        except OSError:
            self._release()
            self._start_later()
            return
        finally:
            os.close(reading)
        self._reactor.add_reader(self._pidfd, self._ended)
        self._tell("".join(f"+{pid}\n" for pid in sorted(self._workers)))

    def _spawn(self, reading: int) -> tuple[int, int]:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            # Its output goes nowhere: it must not hold the launcher's pipes open.
            # Its environment is the launcher's: the guard of an outer launcher finds it by that.
            argv = [sys.executable, "-I", "-S", SCRIPT, "0", self._mark, str(os.getpid())]
            pid = launch.start(argv[0], argv, os.environ, (reading, null, null), blocked=signal.valid_signals())
        finally:
            os.close(null)
        return pid, launch.watch(pid)

    def _tell(self, text: str) -> None:
        if self._pipe < 0:
            return
        try:
            os.write(self._pipe, text.encode())
        except BrokenPipeError:
            pass  # it has just died; the next one is told everything
        except BlockingIOError:
            os.kill(self.pid, signal.SIGKILL)  # it does not read: have another one

    def _ended(self) -> None:
        self._release()
        if self._workers and not self._closed:
            self._start_later()

    def _release(self) -> None:
        if self._pidfd >= 0:
            self._reactor.remove_reader(self._pidfd)
            launch.reap(self.pid)
            os.close(self._pidfd)
        if self._pipe >= 0:
            os.close(self._pipe)
        self.pid, self._pidfd, self._pipe = 0, -1, -1

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.pid else "closed" if self._closed else "not running"
        return f"<GuardKeeper {state}, {len(self._workers)} workers>"
