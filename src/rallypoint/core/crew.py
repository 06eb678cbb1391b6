"""This node's workers of a round, in units that fail and start again apart (``--restart-scope``).

With the scope ``job`` and ``node`` they are one unit, with ``worker`` each is one. A unit is a ``Group``.

Laws:
1. A unit that failed is started again only when the view says so: its life there is later than its own.
2. The crew is active until nothing of the round is left on this node: while any unit is, while one that failed may
   be started again, and until the last sweep is done.
3. Once it was told to stop, nothing is started again.
"""

from __future__ import annotations

from rallypoint.core.group import Group
from rallypoint.model.event import DeadlinePassed, Swept
from rallypoint.model.order import Order, Sweep
from rallypoint.model.result import ALL
from rallypoint.model.spec import JOB, WORKER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rallypoint.core.worker import Worker
    from rallypoint.model.event import Event
    from rallypoint.model.node import Assignment, NodeInfo, View
    from rallypoint.model.result import Failure
    from rallypoint.model.spec import ExitRule, Timing


class Crew:
    """What ``Group`` is to its workers, to all of this node."""

    def __init__(self, timing: Timing, rules: tuple[ExitRule, ...] = (), scope: str = JOB) -> None:
        self.round = 0
        self._timing = timing
        self._rules = rules
        self._scope = scope
        self._units: list[Group] = [Group(timing, rules)]
        self._open = False
        self._stopped = False
        self._sweep_by: float | None = None  # when the ladder of a stop ends
        self._sweeping = False

    # What is said of all units

    @property
    def active(self) -> bool:
        """Whether anything of the round may be running, or be started again."""
        return self._open

    @property
    def succeeded(self) -> bool:
        """Whether the round is over on this node and all workers succeeded."""
        return not self._open and all(unit.succeeded for unit in self._units)

    @property
    def some_succeeded(self) -> bool:
        return any(unit.some_succeeded for unit in self._units)

    @property
    def stopping(self) -> bool:
        """Whether the workers are being stopped, for whatever reason."""
        return self._open and all(not unit.running for unit in self._units)

    @property
    def workers(self) -> list[Worker]:
        return [worker for unit in self._units for worker in unit.workers]

    @property
    def failures(self) -> list[Failure]:
        """Those of the units' present lives."""
        return [failure for unit in self._units for failure in unit.failures]

    def wake_at(self) -> float | None:
        return min((at for unit in self._units if (at := unit.wake_at()) is not None), default=None)

    # What is done

    def start(self, round_: int, given: Iterable[Assignment], info: NodeInfo) -> list[Order]:
        """Start the workers of a round. Raises IllegalTransitionError while the last round is active."""
        given = tuple(given)
        if self._scope == WORKER and not self._open:
            self._units = [Group(self._timing, self._rules, each.local_rank) for each in given]
        parts = [(each,) for each in given] if self._scope == WORKER else [given]
        pairs = zip(self._units, parts, strict=True)
        orders = [order for unit, part in pairs for order in unit.start(round_, part, info)]
        self.round, self._open = round_, True
        self._stopped = self._sweeping = False
        self._sweep_by = None
        return orders

    def resume(self, view: View, given: Iterable[Assignment], info: NodeInfo) -> list[Order]:
        """Start again those units that are down and have a later life in ``view``."""
        orders: list[Order] = []
        given = tuple(given)
        for unit in self._units:
            life = view.life(info.id, unit.local_rank)
            if life > unit.life and not unit.active and not self._stopped:
                part = [each for each in given if unit.local_rank in (ALL, each.local_rank)]
                orders += unit.start(self.round, part, info, life)
        return orders

    def handle(self, event: Event, now: float) -> list[Order]:
        """Take in one fact about the workers. Facts about an earlier round are ignored."""
        if self._sweeping and isinstance(event, Swept) and event.round == self.round and event.local_rank == ALL:
            self._open = self._sweeping = False
            return []
        units = self._units if isinstance(event, DeadlinePassed) else [self._unit(event)]
        return [order for unit in units for order in unit.handle(event, now)] + self._settle(now)

    def stop(self, number: int, now: float) -> list[Order]:
        """Begin the ladder of every unit with signal ``number``. Does nothing if it has begun."""
        if not self._open or self._stopped:
            return []
        self._sweep_by = now + self._timing.shutdown_timeout
        return self._end(lambda unit: unit.stop(number, now), now)

    def kill(self, now: float) -> list[Order]:
        """Go to the end of the ladder at once."""
        if not self._open:
            return []
        self._sweep_by = now
        orders = self._end(lambda unit: unit.kill(now), now)
        return [*orders, Sweep(self.round, now)] if self._sweeping and not orders else orders

    def expect_success(self, now: float) -> None:
        """A worker of the run has succeeded: ours have ``success_timeout`` from now on (once)."""
        for unit in self._units:
            unit.expect_success(now)

    def _end(self, how: Callable[[Group], list[Order]], now: float) -> list[Order]:
        self._stopped = True
        return [order for unit in self._units for order in how(unit)] + self._settle(now)

    def _settle(self, now: float) -> list[Order]:
        """See whether the round is over here; a last sweep then finds what units could not."""
        if not self._open or self._sweeping or any(unit.active for unit in self._units):
            return []
        if self._scope == JOB:
            self._open = False
        elif self._stopped or all(unit.succeeded for unit in self._units):
            self._sweeping = True
            by = now + self._timing.shutdown_timeout if self._sweep_by is None else self._sweep_by
            return [Sweep(self.round, by)]
        return []

    def _unit(self, event: Event) -> Group:
        """Return whose affair it is."""
        if len(self._units) == 1:
            return self._units[0]
        which = event.local_rank if isinstance(event, Swept) else event.worker.local_rank  # type: ignore[attr-defined]
        return self._units[which]

    def __repr__(self) -> str:
        return f"<Crew of round {self.round}: {self._units}>"
