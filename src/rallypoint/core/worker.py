"""One worker process as a state machine.

Laws:
1. A worker ends in GONE exactly once, or is given up as STUCK (and may still become GONE).
2. No signal is ordered before the process exists, and none after it ended.
3. STOPPING and KILLING are entered by order only; they never go back.
4. Input that the table calls ILLEGAL raises and changes nothing.
"""

from __future__ import annotations

import signal

from rallypoint.model.errors import IllegalTransitionError
from rallypoint.model.order import Abandon, Order, Signal
from rallypoint.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.model.node import Assignment
    from rallypoint.model.result import Exit, WorkerId

SPAWNING = "SPAWNING"
RUNNING = "RUNNING"
STOPPING = "STOPPING"
KILLING = "KILLING"
GONE = "GONE"
STUCK = "STUCK"
STATES = (SPAWNING, RUNNING, STOPPING, KILLING, GONE, STUCK)

SPAWNED = "spawned"
SPAWN_FAILED = "spawn failed"
EXITED = "exited"
STOP = "stop"
KILL = "kill"
GIVE_UP = "give up"
INPUTS = (SPAWNED, SPAWN_FAILED, EXITED, STOP, KILL, GIVE_UP)

IGNORE = "IGNORE"
ILLEGAL = "ILLEGAL"

TABLE = {
    (SPAWNING, SPAWNED): RUNNING,
    (SPAWNING, SPAWN_FAILED): GONE,
    (SPAWNING, EXITED): ILLEGAL,
    (SPAWNING, STOP): STOPPING,
    (SPAWNING, KILL): KILLING,
    (SPAWNING, GIVE_UP): IGNORE,
    (RUNNING, SPAWNED): ILLEGAL,
    (RUNNING, SPAWN_FAILED): ILLEGAL,
    (RUNNING, EXITED): GONE,
    (RUNNING, STOP): STOPPING,
    (RUNNING, KILL): KILLING,
    (RUNNING, GIVE_UP): IGNORE,
    (STOPPING, SPAWNED): STOPPING,
    (STOPPING, SPAWN_FAILED): GONE,
    (STOPPING, EXITED): GONE,
    (STOPPING, STOP): IGNORE,
    (STOPPING, KILL): KILLING,
    (STOPPING, GIVE_UP): IGNORE,
    (KILLING, SPAWNED): KILLING,
    (KILLING, SPAWN_FAILED): GONE,
    (KILLING, EXITED): GONE,
    (KILLING, STOP): IGNORE,
    (KILLING, KILL): IGNORE,
    (KILLING, GIVE_UP): STUCK,
    (GONE, SPAWNED): ILLEGAL,
    (GONE, SPAWN_FAILED): ILLEGAL,
    (GONE, EXITED): ILLEGAL,
    (GONE, STOP): IGNORE,
    (GONE, KILL): IGNORE,
    (GONE, GIVE_UP): IGNORE,
    (STUCK, SPAWNED): ILLEGAL,
    (STUCK, SPAWN_FAILED): ILLEGAL,
    (STUCK, EXITED): GONE,
    (STUCK, STOP): IGNORE,
    (STUCK, KILL): IGNORE,
    (STUCK, GIVE_UP): IGNORE,
}


class Step(Value):
    """What one input did: the state before and after."""

    before: str
    after: str


class Worker:
    """The machine of one worker. ``exit`` is how it ended, ``stopped`` whether we had asked it to."""

    def __init__(self, worker: WorkerId, assignment: Assignment) -> None:
        self.id = worker
        self.assignment = assignment
        self.state = SPAWNING
        self.pid = 0
        self.exit: Exit | None = None
        self._stop_signal: int = signal.SIGTERM
        self._asked = False

    @property
    def stopped(self) -> bool:
        """Whether it is ending, or has ended, because we asked it to."""
        return self.state in (STOPPING, KILLING, STUCK) or (self.state == GONE and self._asked)

    @property
    def over(self) -> bool:
        return self.state in (GONE, STUCK)

    def spawned(self, pid: int) -> list[Order]:
        """The process exists. A stop that was asked for meanwhile is carried out now."""
        self._step(SPAWNED)
        self.pid = pid
        if self.state == STOPPING:
            return [Signal(self.id, self._stop_signal)]
        return [Signal(self.id, signal.SIGKILL)] if self.state == KILLING else []

    def spawn_failed(self) -> None:
        self._step(SPAWN_FAILED)

    def exited(self, how: Exit) -> None:
        asked = self.stopped
        self._step(EXITED)
        self._asked = asked
        self.exit = how

    def stop(self, number: int) -> list[Order]:
        """Ask it to end with signal ``number``."""
        step = self._step(STOP)
        if step.before == SPAWNING:
            self._stop_signal = number
        return [Signal(self.id, number)] if step == Step(RUNNING, STOPPING) else []

    def kill(self) -> list[Order]:
        step = self._step(KILL)
        return [Signal(self.id, signal.SIGKILL)] if step.before in (RUNNING, STOPPING) else []

    def give_up(self) -> list[Order]:
        """KILL did not end it in time."""
        step = self._step(GIVE_UP)
        return [Abandon(self.id)] if step.before != step.after else []

    def _step(self, what: str) -> Step:
        before = self.state
        after = TABLE[before, what]
        if after is ILLEGAL:
            raise IllegalTransitionError(f"worker {self.id.local_rank}", before, what)
        if after is not IGNORE:
            self.state = after
        return Step(before, self.state)

    def __repr__(self) -> str:
        return f"<Worker {self.id.local_rank} of round {self.id.round}: {self.state}, pid {self.pid or None}>"
