"""Worker processes in virtual time: what ``proc.Processes`` does for the driver, from a script."""

from __future__ import annotations

import signal as signals

from rallypoint.model.event import Exited, Spawned, SpawnFailed, Swept
from rallypoint.model.result import ALL, Exit, WorkerError
from rallypoint.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.event import Event
    from rallypoint.model.node import Assignment
    from rallypoint.model.result import WorkerId
    from rallypoint.testing.clock import ManualClock, SkewedClock

PATIENCE = 5.0
"""Seconds from KILL to giving up what a worker left behind (as ``proc.sweep``)."""


class Script(Value):
    """What one worker process does. Times are seconds.

    ``after``: ends by itself then (None: runs until it is asked), as ``code``, ``signal`` and ``error`` say.
    ``saves``: from SIGTERM to its end (None: ignores it). ``unkillable``: from SIGKILL to its end.
    ``leaves``: how long descendants need after SIGTERM (None: nothing is left). ``starts``: from the
    order to the process. ``refuses``: why it cannot be started.
    """

    after: float | None = None
    code: int | None = 0
    signal: int | None = None
    error: WorkerError | None = None
    last_lines: tuple[str, ...] = ()
    saves: float | None = 0.0
    unkillable: float = 0.0
    leaves: float | None = None
    starts: float = 0.0
    refuses: str = ""


class SimulatedWorker:
    """One process: it is ``alive`` from its start to its end, whoever watches."""

    def __init__(self, worker: WorkerId, assignment: Assignment, script: Script) -> None:
        self.id = worker
        self.assignment = assignment
        self.script = script
        self.pid = 0
        self.alive = False
        self.abandoned = False
        self.signals: list[int] = []

    def __repr__(self) -> str:
        return f"<SimulatedWorker {self.id}: {'alive' if self.alive else 'not alive'}, got {self.signals}>"


class SimulatedProcesses:
    """All worker processes of one node. ``emit`` takes the events."""

    def __init__(self, clock: ManualClock | SkewedClock, emit: Callable[[Event], None]) -> None:
        self._clock = clock
        self._emit = emit
        self._pids = 100
        self._closed = False
        self._killed_at: dict[tuple[int, int], float] = {}
        self.workers: dict[WorkerId, SimulatedWorker] = {}

    @property
    def alive(self) -> list[SimulatedWorker]:
        return [w for w in self.workers.values() if w.alive]

    def spawn(self, worker: WorkerId, assignment: Assignment, script: Script) -> None:
        """Start a process that follows ``script``. Ends as Spawned or SpawnFailed."""
        if script.refuses:
            self._emit(SpawnFailed(worker, script.refuses))
            return
        process = self.workers[worker] = SimulatedWorker(worker, assignment, script)
        if script.starts:
            self._later(script.starts, lambda: self._started(process))
        else:
            self._started(process)

    def signal(self, worker: WorkerId, number: int) -> None:
        process = self.workers.get(worker)
        if process is None or not process.alive:
            return
        process.signals.append(number)
        if number == signals.SIGKILL:
            self._later(process.script.unkillable, lambda: self._end(process, None, number))
        elif number in (signals.SIGTERM, signals.SIGINT) and process.script.saves is not None:
            self._later(process.script.saves, lambda: self._end(process, None, number))

    def abandon(self, worker: WorkerId) -> None:
        """Tell nothing of this worker's end any more."""
        self.workers[worker].abandoned = True

    def sweep(self, round_: int, deadline: float, local_rank: int = ALL) -> None:
        """End the descendants of a round (or of one worker), at ``deadline`` by force; a second call moves that."""
        which = (round_, local_rank)
        again = which in self._killed_at
        if again and self._killed_at[which] <= deadline:
            return
        self._killed_at[which] = deadline
        ranks = [w for w in self.workers.values() if local_rank in (ALL, w.id.local_rank)]
        needs = [w.script.leaves for w in ranks if w.id.round == round_ and w.script.leaves is not None]
        end = min(self._clock.now() + max(needs, default=0.0), max(deadline, self._clock.now()))
        self._clock.call_at(end, lambda: self._swept(which, deadline))

    def end_soon(self, process: SimulatedWorker, seconds: float, code: int = 0) -> None:
        """Have a process end by itself, whatever its script says, ``seconds`` from now."""
        self._later(seconds, lambda: self._end(process, code, None))

    def kill_all(self, within: float) -> None:
        """The launcher is dead: the guard ends everything within ``within`` seconds."""
        self._closed = True
        for process in self.workers.values():
            self._later(within, lambda process=process: self._end(process, None, signals.SIGKILL))  # type: ignore[misc]

    def _started(self, process: SimulatedWorker) -> None:
        if self._closed:
            return
        self._pids += 1
        process.pid = self._pids
        process.alive = True
        script = process.script
        self._emit(Spawned(process.id, process.pid))
        if script.after is not None:
            self._later(script.after, lambda: self._end(process, script.code, script.signal, script.error))

    def _end(
        self, process: SimulatedWorker, code: int | None, number: int | None, error: WorkerError | None = None
    ) -> None:
        if not process.alive:
            return
        process.alive = False
        lines = process.script.last_lines if number is None else ()
        how = Exit(process.pid, code if number is None else None, number, error=error, last_lines=lines)
        if not process.abandoned:
            self._emit(Exited(process.id, how))

    def _swept(self, which: tuple[int, int], deadline: float) -> None:
        if self._killed_at.get(which) == deadline:
            del self._killed_at[which]
            self._emit(Swept(which[0], local_rank=which[1]))

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._clock.call_at(self._clock.now() + seconds, call)

    def __repr__(self) -> str:
        return f"<SimulatedProcesses {list(self.workers.values())}>"
