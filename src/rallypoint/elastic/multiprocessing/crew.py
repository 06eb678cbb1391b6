"""The processes of one context, on a loop of their own that turns while somebody waits."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager

from rallypoint.driver.loop import Loop
from rallypoint.model.event import Exited, Spawned, SpawnFailed, Swept
from rallypoint.model.result import WorkerId
from rallypoint.proc.calls import Calls
from rallypoint.proc.processes import Processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rallypoint.model.event import Event
    from rallypoint.model.result import Exit
    from rallypoint.proc.pack import Packed

_PATIENCE = 5.0
"""Seconds from SIGKILL to giving a process up, at least."""
_TURNING: list[Crew] = []
"""Crews whose loops the main thread is turning now; the last is the innermost."""


def interrupt(error: BaseException) -> bool:
    """Have ``error`` raised as soon as the loop that the main thread turns has done its work; False: there is none.

    A signal handler that raised at any place could tear the end of a process out of the hands of the loop.
    """
    if not _TURNING:
        return False
    _TURNING[-1].pending = error
    _TURNING[-1].wake()
    return True


class Crew:
    """Workers by rank: ``pids``, ``exits`` (in order of their ends), ``values`` that functions returned.

    Blocking, for one thread at a time; only ``wake`` may be called from others.
    """

    def __init__(self, packed: Packed | None = None) -> None:
        self.pids: dict[int, int] = {}
        self.exits: dict[int, Exit] = {}
        self.values: dict[int, object] = {}
        self.errors: dict[int, BaseException] = {}
        self.pending: BaseException | None = None
        self._refused: dict[int, str] = {}
        self._swept = False
        self._closed = False
        self._loop = Loop()
        self._mark = os.urandom(8).hex()
        self._processes = Processes(self._loop, self._told, self._mark)
        self._calls = Calls(self._loop, self._processes, packed, self._told) if packed else None

    def spawn(self, rank: int, argv: Sequence[str], env: Mapping[str, str], stdio: tuple[int, int, int]) -> None:
        """Start a command, or the packed function if ``argv`` is empty."""
        outer = os.environ.get("RALLYPOINT_MARK")
        marked = {**env, "RALLYPOINT_MARK": f"{outer}:{self._mark}" if outer else self._mark}
        if self._calls is not None:
            self._calls.spawn(WorkerId(0, rank), marked, stdio)
        else:
            self._processes.spawn(WorkerId(0, rank), argv, marked, stdio)

    def settle(self, count: int) -> None:
        """Wait until ``count`` workers are started. Raises OSError if one cannot be."""
        self.until(lambda: self._refused or len(self.pids) == count)
        for rank, words in sorted(self._refused.items()):
            raise _start_error(f"worker {rank} cannot be started: {words}", words)
        self.turn(0)  # the orphan guard starts after the first workers

    def turn(self, seconds: float | None) -> None:
        """Wait for news, at most ``seconds`` (None: as long as it takes). Raises what a signal handler left."""
        if not self._closed:
            with self._attended():
                self._loop.turn(seconds)
        if self.pending is not None:
            error, self.pending = self.pending, None
            raise error

    def until(self, done: Callable[[], object], seconds: float | None = None) -> bool:
        """Turn until ``done()``; False if ``seconds`` have passed first."""
        end = None if seconds is None else self._loop.now() + seconds
        while not done():
            left = None if end is None else end - self._loop.now()
            if left is not None and left <= 0:
                return False
            self.turn(left)
        return True

    def wake(self) -> None:
        """End a wait of another thread, or of the code that a signal interrupted."""
        self._loop.soon(lambda: None)

    def running(self) -> list[int]:
        """Return the ranks whose processes have not ended."""
        return [rank for rank in self.pids if rank not in self.exits]

    def stop(self, number: int, seconds: float, warn: Callable[[str], None]) -> None:
        """End all workers and what they left behind: signal ``number`` now, SIGKILL after ``seconds``.

        What a signal handler raises meanwhile hastens the end, and is raised when it has come.
        """
        if self._closed:
            return
        end = self._loop.now() + seconds
        with self._attended():
            self._signal(number)
            if not self._loop.run_until(lambda: self.pending or not self.running(), seconds) or self.running():
                warn(f"processes {self._names(self.running())} are still running: killing them")
                self._signal(signal.SIGKILL)
                self._loop.run_until(lambda: not self.running(), max(seconds, _PATIENCE))
            self._abandon(warn)
            self._processes.sweep(0, end)
            self._loop.run_until(lambda: self.pending or self._swept)
            if not self._swept:
                self._processes.sweep(0, self._loop.now())
                self._loop.run_until(lambda: self._swept)
        if self.pending is not None:
            error, self.pending = self.pending, None
            raise error

    def close(self) -> None:
        """Release everything; whatever still runs is killed."""
        if self._closed:
            return
        self._closed = True
        if self._calls is not None:
            self._calls.close()
        self._processes.close()
        self._loop.close()

    @contextmanager
    def _attended(self) -> Iterator[None]:
        """Within, signal handlers of the main thread leave to us what they would raise."""
        ours = threading.current_thread() is threading.main_thread()
        if ours:
            _TURNING.append(self)
        try:
            yield
        finally:
            if ours:
                _TURNING.pop()

    def _signal(self, number: int) -> None:
        for rank in self.running():
            self._processes.signal(WorkerId(0, rank), number)

    def _abandon(self, warn: Callable[[str], None]) -> None:
        for rank in self.running():
            warn(f"process {self._names([rank])} did not end after SIGKILL: it is left (uninterruptible sleep?)")
            self._processes.abandon(WorkerId(0, rank))

    def _names(self, ranks: Sequence[int]) -> str:
        return ", ".join(f"{self.pids[rank]} (local rank {rank})" for rank in ranks)

    def _told(self, event: Event) -> None:
        if isinstance(event, Spawned):
            self.pids[event.worker.local_rank] = event.pid
        elif isinstance(event, SpawnFailed):
            self._refused[event.worker.local_rank] = event.reason
        elif isinstance(event, Exited):
            self._ended(event.worker, event.exit)
        elif isinstance(event, Swept):
            self._swept = True

    def _ended(self, worker: WorkerId, exit: Exit) -> None:
        rank = worker.local_rank
        if self._calls is not None:
            result = self._calls.result(worker, exit)
            exit = result.exit
            if exit.succeeded:
                self.values[rank] = result.value
            elif result.error is not None:
                self.errors[rank] = result.error
        self.exits[rank] = exit

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self.running())} running"
        return f"<Crew of {len(self.pids)}: {state}, {len(self.exits)} ended>"


def _start_error(text: str, words: str) -> OSError:
    """Return the exception that ``subprocess`` would raise."""
    if words.startswith("not executable"):
        return PermissionError(text)
    return FileNotFoundError(text) if words.startswith(("no such file", "the interpreter")) else OSError(text)
