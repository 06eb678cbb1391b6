"""The workers of one round on this node: start, watch, stop ladder, sweep.

Laws:
1. One dies badly, all are stopped (the default strategy).
2. Stopping is one ladder for all at once: the signal, after the grace KILL, after that giving up.
3. DOWN is reached once for each round, after the sweep: nothing of the round is left on the node.
4. Nothing here waits: deadlines are given in, orders come out.
"""

from __future__ import annotations

import signal

from rallypoint.core import policy, worker
from rallypoint.model import exits
from rallypoint.model.errors import IllegalTransitionError
from rallypoint.model.event import DeadlinePassed, Event, Exited, Spawned, SpawnFailed, Swept
from rallypoint.model.order import DumpStacks, Order, Publish, Spawn, Sweep
from rallypoint.model.result import ALL, Failure, WorkerId
from rallypoint.model.spec import IGNORE as IGNORED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rallypoint.model.node import Assignment, NodeInfo
    from rallypoint.model.spec import ExitRule, Timing

EMPTY = "EMPTY"
STARTING = "STARTING"
UP = "UP"
DRAINING = "DRAINING"
DOWN = "DOWN"
STATES = (EMPTY, STARTING, UP, DRAINING, DOWN)
EVENTS = (Spawned, SpawnFailed, Exited, Swept, DeadlinePassed)

IGNORE = "IGNORE"
ILLEGAL = "ILLEGAL"

TABLE = {
    (EMPTY, Spawned): ILLEGAL,
    (EMPTY, SpawnFailed): ILLEGAL,
    (EMPTY, Exited): ILLEGAL,
    (EMPTY, Swept): ILLEGAL,
    (EMPTY, DeadlinePassed): IGNORE,
    (STARTING, Spawned): "_spawned",
    (STARTING, SpawnFailed): "_spawn_failed",
    (STARTING, Exited): "_exited",
    (STARTING, Swept): ILLEGAL,
    (STARTING, DeadlinePassed): "_deadline",
    (UP, Spawned): ILLEGAL,
    (UP, SpawnFailed): ILLEGAL,
    (UP, Exited): "_exited",
    (UP, Swept): ILLEGAL,
    (UP, DeadlinePassed): "_deadline",
    (DRAINING, Spawned): "_spawned",
    (DRAINING, SpawnFailed): "_spawn_failed",
    (DRAINING, Exited): "_exited",
    (DRAINING, Swept): "_swept",
    (DRAINING, DeadlinePassed): "_deadline",
    (DOWN, Spawned): ILLEGAL,
    (DOWN, SpawnFailed): ILLEGAL,
    (DOWN, Exited): IGNORE,  # one that was given up as stuck ended after all
    (DOWN, Swept): IGNORE,  # the sweep was hurried at the moment when it was done
    (DOWN, DeadlinePassed): IGNORE,
}

CAUSE_WAIT = 1.0
"""Seconds that workers whose peer broke its connection wait for the peer to end and say why."""
STACKS_WAIT = 0.5
"""Seconds that overdue workers get to write down their stacks before they are stopped."""


class Group:
    """The machine of workers that stop together: this node's, or the one of ``local_rank``.

    ``failures`` are those of the present ``life``: how often it was started in this round, less one.
    """

    def __init__(self, timing: Timing, rules: Sequence[ExitRule] = (), local_rank: int = ALL) -> None:
        self.state = EMPTY
        self.round = 0
        self.life = 0
        self.local_rank = local_rank
        self.workers: list[worker.Worker] = []
        self.failures: list[Failure] = []
        self._timing = timing
        self._rules = rules
        self._info: NodeInfo | None = None
        self._kill_at: float | None = None
        self._give_up_at: float | None = None
        self._overdue_at: float | None = None
        self._cause_by: float | None = None
        self._told = 0  # of the failures: how many were published
        self._stacks_until: float | None = None
        self._sweeping = False

    @property
    def active(self) -> bool:
        """Whether anything of the round may be running."""
        return self.state in (STARTING, UP, DRAINING)

    @property
    def running(self) -> bool:
        """Whether it was not told to stop, and nothing in it failed."""
        return self.state in (STARTING, UP)

    @property
    def succeeded(self) -> bool:
        """Whether the round is over on this node and all workers succeeded, and in time."""
        return self.state == DOWN and not self.failures and self._all_succeeded()

    @property
    def some_succeeded(self) -> bool:
        return any(w.exit is not None and w.exit.succeeded for w in self.workers)

    def start(self, round_: int, given: Iterable[Assignment], info: NodeInfo, life: int = 0) -> list[Order]:
        """Start the workers of a round, or start them again. Raises IllegalTransitionError while it is active."""
        if self.active:
            raise IllegalTransitionError("group", self.state, "start")
        self.state = STARTING
        self.round, self.life = round_, life
        self._info = info
        self.workers = [worker.Worker(WorkerId(round_, a.local_rank, life), a) for a in given]
        self.failures = []
        self._kill_at = self._give_up_at = self._overdue_at = self._stacks_until = self._cause_by = None
        self._told = 0
        self._sweeping = False
        return [Spawn(w.id, w.assignment) for w in self.workers]

    def handle(self, event: Event, now: float) -> list[Order]:
        """Take in one fact about the workers (one of EVENTS). Facts about an earlier start are ignored."""
        action = TABLE[self.state, type(event)]
        if action is IGNORE or self._is_late(event):
            return []
        if action is ILLEGAL:
            raise IllegalTransitionError("group", self.state, event)
        orders: list[Order] = getattr(self, action)(event, now)
        return orders + self._settle(now)

    def stop(self, number: int, now: float) -> list[Order]:
        """Begin the ladder with signal ``number``. Does nothing if it has begun."""
        if self.state not in (STARTING, UP):
            return []
        self.state = DRAINING
        self._kill_at = now + self._timing.shutdown_timeout
        orders = [order for w in self.workers for order in w.stop(number)]
        return orders + self._settle(now)

    def kill(self, now: float) -> list[Order]:
        """Go to the end of the ladder at once."""
        if self.state in (STARTING, UP):
            self.state = DRAINING
        if self.state != DRAINING:
            return []
        self._kill_at = None
        if self._give_up_at is None:
            self._give_up_at = now + self._timing.kill_timeout
        orders = [order for w in self.workers for order in w.kill()]
        if self._sweeping:
            return [*orders, Sweep(self.round, now, self.local_rank)]
        return orders + self._settle(now)

    def expect_success(self, now: float) -> None:
        """A worker of the run has succeeded: ours have ``success_timeout`` from now on (once)."""
        limit = self._timing.success_timeout
        counting = self._overdue_at is not None or self._stacks_until is not None
        if limit is not None and not counting and self.state in (STARTING, UP):
            self._overdue_at = now + limit

    def wake_at(self) -> float | None:
        times = (self._kill_at, self._give_up_at, self._overdue_at, self._stacks_until, self._cause_by)
        return min((t for t in times if t is not None), default=None) if self.active else None

    def _spawned(self, event: Spawned, _now: float) -> list[Order]:
        orders = self._find(event.worker).spawned(event.pid)
        if self.state == STARTING and all(w.state != worker.SPAWNING for w in self.workers):
            self.state = UP
        return orders

    def _spawn_failed(self, event: SpawnFailed, _now: float) -> list[Order]:
        failed = self._find(event.worker)
        failed.spawn_failed()
        self.failures.append(policy.spawn_failure(failed, self._node, event.reason, len(self.failures)))
        return []

    def _exited(self, event: Exited, _now: float) -> list[Order]:
        ended = self._find(event.worker)
        ended.exited(event.exit)
        failure = policy.worker_failure(ended, self._node, len(self.failures))
        rule = policy.rule_for(failure, self._rules) if failure else None
        if rule is not None and rule.action == IGNORED:
            ended.exit = event.exit.replace(code=0, signal=None)  # it counts as a success
            return []
        # One failure for each worker: that of an overdue one is known already.
        if failure and all(f.local_rank != failure.local_rank for f in self.failures):
            self.failures.append(failure)
        return []

    def _tell(self, now: float) -> list[Order]:
        """Publish the failures that are news, and stop the others for them."""
        news = self.failures[self._told :]
        if not news or self._awaits_cause(now):
            return []
        self._told = len(self.failures)
        self._cause_by = None
        return [*(Publish(f) for f in news), *self.stop(signal.SIGTERM, now)]

    def _awaits_cause(self, now: float) -> bool:
        """Only consequences are known, and the cause may be about to end by itself: our signal would silence it."""
        alone = all(f.consequence for f in self.failures)
        if not alone or self.state == DRAINING or all(w.over for w in self.workers):
            return False
        if self._cause_by is None:
            self._cause_by = now + CAUSE_WAIT
        return now < self._cause_by

    def _swept(self, _event: Swept, _now: float) -> list[Order]:
        self.state = DOWN
        return []

    def _deadline(self, _event: DeadlinePassed, now: float) -> list[Order]:
        orders: list[Order] = []
        if self._overdue_at is not None and now >= self._overdue_at:
            self._overdue_at = None
            self._stacks_until = now + STACKS_WAIT
            orders += [DumpStacks(w.id) for w in self.workers if w.state == worker.RUNNING]
        if self._stacks_until is not None and now >= self._stacks_until:
            self._stacks_until = None
            self._give_overdue_up()
        if self._kill_at is not None and now >= self._kill_at:
            orders += self.kill(now)
        if self._give_up_at is not None and now >= self._give_up_at:
            self._give_up_at = None
            orders += [order for w in self.workers for order in w.give_up()]
        return orders

    def _give_overdue_up(self) -> None:
        limit = self._timing.success_timeout or 0.0
        late = [w for w in self.workers if w.state == worker.RUNNING]
        self.failures += [policy.overdue_failure(w, self._node, limit, exits.OVERDUE, n) for n, w in enumerate(late)]

    def _settle(self, now: float) -> list[Order]:
        """Tell what failed; when the last main process is over, sweep up what the workers left behind."""
        orders = self._tell(now)
        if self._sweeping or not self.active or not all(w.over for w in self.workers):
            return orders
        self._sweeping = True
        self._overdue_at = self._stacks_until = self._give_up_at = None
        # Leftovers share the grace that the workers had; after a clean end they get one of their own.
        deadline = self._kill_at if self._kill_at is not None else now + self._timing.shutdown_timeout
        deadline = now if self.state == DRAINING and self._kill_at is None else deadline
        self._kill_at = None
        self.state = DRAINING
        return [*orders, Sweep(self.round, deadline, self.local_rank)]

    def _all_succeeded(self) -> bool:
        return bool(self.workers) and all(w.exit is not None and w.exit.succeeded for w in self.workers)

    def _find(self, which: WorkerId) -> worker.Worker:
        return self.workers[which.local_rank if self.local_rank == ALL else 0]

    def _is_late(self, event: Event) -> bool:
        if isinstance(event, Exited):
            return (event.worker.round, event.worker.life) < (self.round, self.life)
        return isinstance(event, Swept) and event.round < self.round

    @property
    def _node(self) -> NodeInfo:
        assert self._info is not None, "a group that was started knows its node"
        return self._info

    def __repr__(self) -> str:
        return f"<Group of round {self.round}: {self.state}, {self.workers}>"
