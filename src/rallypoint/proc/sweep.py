"""End what the workers of a round left behind: SIGTERM at once, SIGKILL at the deadline."""

from __future__ import annotations

import os
import signal

from rallypoint.proc import launch, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.reactor import Reactor, Timer

PATIENCE = 5.0
"""Seconds from SIGKILL to giving a process up as uninterruptible."""
RELOOK = 0.005
"""Seconds to the next look while killing, or when a process could not be watched (it has just gone)."""


class Sweep:
    """One sweep. ``find(seen)`` returns the living processes that belong, given what was seen before
    (pid -> start); ``told(process)`` says that SIGTERM has reached it already; ``done(stuck)`` is
    called once, perhaps from within ``start``.

    What is found is watched by pidfd; when the last of it has ended, another look shows what was forked
    meanwhile. The sweep is done when a look finds nothing.
    """

    def __init__(
        self,
        reactor: Reactor,
        find: Callable[[dict[int, int]], list[procfs.Process]],
        told: Callable[[procfs.Process], bool],
        done: Callable[[tuple[procfs.Process, ...]], None],
    ) -> None:
        self._reactor = reactor
        self._find = find
        self._told = told
        self._done = done
        self._watched: dict[int, tuple[int, procfs.Process]] = {}
        self._seen: dict[int, int] = {}
        self._hunt: procfs.Hunt | None = None  # from the deadline on
        self._finished = False
        self._deadline: Timer | None = None
        self._relook: Timer | None = None

    def start(self, deadline: float) -> None:
        """Look, tell, watch; kill at ``deadline`` (the reactor's clock)."""
        if deadline <= self._reactor.now():
            self._kill()
        else:
            self._look()
            self.hasten(deadline)

    def hasten(self, deadline: float) -> None:
        """Kill at ``deadline`` instead of the time set before."""
        if self._finished or self._hunt:
            return
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self._reactor.call_at(deadline, self._kill)

    def close(self) -> None:
        """Forget everything, without calling ``done``."""
        self._finished = True
        for timer in (self._deadline, self._relook):
            if timer:
                timer.cancel()
        for fd, _ in self._watched.values():
            self._reactor.remove_reader(fd)
            os.close(fd)
        self._watched.clear()

    def _look(self) -> None:
        found = self._find(self._seen)
        taken = [process.pid in self._watched or self._take(process) for process in found]
        settled = self._hunt.step(found) if self._hunt and found else True
        if not all(taken) or not settled:
            if self._relook:
                self._relook.cancel()
            self._relook = self._reactor.call_at(self._reactor.now() + RELOOK, self._look)
        elif not self._watched:
            self._finish()

    def _take(self, process: procfs.Process) -> bool:
        """Watch a process and ask it to stop; False if it could not be watched."""
        try:
            fd = procfs.open_pidfd(process)
        except OSError:
            return False
        self._seen[process.pid] = process.start
        self._watched[process.pid] = (fd, process)
        self._reactor.add_reader(fd, lambda: self._ended(process.pid))
        if not self._hunt and not self._told(process):
            procfs.send(fd, signal.SIGTERM)
        return True

    def _ended(self, pid: int) -> None:
        fd, _ = self._watched.pop(pid)
        self._reactor.remove_reader(fd)
        os.close(fd)
        launch.reap(pid)  # it is our child if we are process 1 of a container
        if not self._watched:
            self._look()

    def _kill(self) -> None:
        self._hunt = procfs.Hunt(self._seen)
        self._deadline = self._reactor.call_at(self._reactor.now() + PATIENCE, self._finish)
        self._look()

    def _finish(self) -> None:
        if not self._finished:
            stuck = tuple(process for _, process in self._watched.values())
            self.close()
            self._done(stuck)

    def __repr__(self) -> str:
        state = "done" if self._finished else "killing" if self._hunt else "asking"
        return f"<Sweep {state}, {len(self._watched)} processes left>"
