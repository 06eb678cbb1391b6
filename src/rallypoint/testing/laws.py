"""The laws of a run, checked while a simulated cluster goes on. A breach raises ``LawBrokenError``."""

from __future__ import annotations

from rallypoint.model import node
from rallypoint.model.event import DeadlinePassed
from rallypoint.model.node import View
from rallypoint.model.result import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.model.node import Roster
    from rallypoint.model.order import Spawn
    from rallypoint.model.result import Outcome
    from rallypoint.store.api import Entry
    from rallypoint.testing.simulator import Cluster, SimulatedNode

_NEXT = {
    node.FORMING: (node.FORMING, node.RUNNING),
    node.RUNNING: (node.RUNNING, node.DRAINING, node.CLOSED),
    node.DRAINING: (node.FORMING, node.RUNNING, node.CLOSED),
    node.CLOSED: (),
}


class LawBrokenError(AssertionError):
    """A law of the run does not hold; the message ends with the story that led there."""


class Laws:
    """Watches one cluster. Rounds are told apart by the life of the store in which they were formed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._view: View | None = None
        self._life = 0
        self._rosters: dict[tuple[int, int], Roster] = {}
        self._ranks: dict[tuple[int, int, int], str] = {}
        self._failures: list[Failure] = []
        self._ends: dict[int, Outcome] = {}

    def fail(self, law: str) -> None:
        """Say which law is broken."""
        raise LawBrokenError(f"{law}\n--- seed {self._cluster.seed}; the story:\n{self._cluster.story(200)}")

    def new_store(self, epoch: int) -> None:
        """The store began anew, empty."""
        self._life = epoch
        self._view = None
        self._failures = []

    def written(self, entry: Entry) -> None:
        """Something was written to the store."""
        if entry.key == "view":
            view = View.from_json(entry.value)
            self._view_written(view)
            self._view = view
        elif entry.key.startswith("failures/"):
            assert isinstance(entry.value, dict)
            self._failures.append(Failure.from_json(entry.value))

    def _view_written(self, view: View) -> None:
        before = self._view
        if before is not None:
            if view.phase not in _NEXT[before.phase]:
                self.fail(f"view {before.phase} {before.round} is followed by {view.phase} {view.round}")
            self._check_rounds(before, view)
            self._check_budget(before, view)
        if view.phase == node.RUNNING:
            roster = self._rosters.setdefault((self._life, view.round), view.roster)
            if roster != view.roster:
                self.fail(f"round {view.round} has two rosters")
            if not self._cluster.spec.min_nodes <= len(roster) <= self._cluster.spec.max_nodes:
                self.fail(f"round {view.round} has {len(roster)} nodes")
            if set(roster.nodes) & set(view.aside):
                self.fail(f"round {view.round} has a node that was put aside")
            if len(set(roster.nodes)) != len(roster):
                self.fail(f"round {view.round} names a node twice")

    def _check_rounds(self, before: View, view: View) -> None:
        forms = view.phase == node.RUNNING and before.phase != node.RUNNING
        if view.round < before.round or (forms and view.round <= before.round):
            self.fail(f"round {view.round} after round {before.round}")
        if not forms and (view.round, view.roster) != (before.round, before.roster):
            self.fail(f"round or roster changed while {view.phase}")

    def _check_budget(self, before: View, view: View) -> None:
        """A restart costs one if a worker failed (and the cause is not a lost node), else nothing."""
        cost = view.restarts - before.restarts
        # A store that began anew learns from its nodes, some of which come late, what was paid before.
        known = {where.agent.info.restarts for where in self._cluster.nodes.values()}
        if before.phase in (node.FORMING, node.DRAINING) and cost > 0 and view.restarts in known:
            return
        again = sum(life for _, life in view.lives) - sum(life for _, life in before.lives)
        if (before.phase, view.phase) == (node.RUNNING, node.RUNNING) and again:
            failed = [f for f in self._failures if f.round == view.round]
            if (cost, again) != (1, 1) or len(failed) < sum(life for _, life in view.lives):
                self.fail(f"{again} starts within round {view.round}, {len(failed)} failures, cost {cost} restarts")
            return
        if before.phase != node.DRAINING or view.phase == node.CLOSED:
            if cost:
                self.fail(f"{before.phase} -> {view.phase} costs {cost} restarts")
            return
        failed = [f for f in self._failures if f.round == before.round]
        if cost not in (0, 1) or cost > len(failed):
            self.fail(f"round {before.round} with {len(failed)} failures costs {cost} restarts")
        free = view.aside != before.aside  # --on-exit replace-node
        if cost == 0 and any(not f.consequence for f in before.failures) and not free:
            self.fail(f"round {before.round} failed and cost nothing")

    def spawned(self, where: SimulatedNode, order: Spawn) -> None:
        """A node was ordered to start a worker."""
        given, round_ = order.assignment, order.worker.round
        if not 0 <= given.rank < given.world_size:
            self.fail(f"{where.name}: rank {given.rank} of {given.world_size}")
        holder = self._ranks.setdefault((where.store_epoch, round_, given.rank), where.name)
        if holder != where.name:
            self.fail(f"rank {given.rank} of round {round_} is given to {holder} and {where.name}")
        twin = next((w for w in where.processes.alive if w.id.local_rank == given.local_rank and not w.abandoned), None)
        if twin is not None:
            self.fail(f"{where.name} starts {order.worker} while {twin} is there")
        for other in self._cluster.nodes.values():
            if other is not where and other.state == "up":
                self._check_neighbour(where, order, other)

    def _check_neighbour(self, where: SimulatedNode, order: Spawn, other: SimulatedNode) -> None:
        for worker in other.processes.alive:
            if worker.abandoned:
                continue
            round_ = worker.id.round
            same_place = round_ == order.worker.round and worker.assignment.rank == order.assignment.rank
            if same_place and other.epoch_of_round.get(round_) == where.store_epoch:
                self.fail(f"rank {order.assignment.rank} of round {round_} runs on {where.name} and {other.name}")
            session = other.session_of_round.get(round_)
            lived = session is not None and session.live
            if round_ < order.worker.round and lived and other.epoch_of_round[round_] == where.store_epoch:
                self.fail(f"{where.name} starts round {order.worker.round}, {other.name} still runs round {round_}")

    def decided(self, where: SimulatedNode, event: object, orders: list[object]) -> None:
        """A node took in a fact: it must not ask to be woken at once, again and again, for nothing."""
        if not isinstance(event, DeadlinePassed):
            return
        wake = where.agent.wake_at()
        if wake is not None and wake <= where.clock.now() and not orders:
            self.fail(f"{where.name} wakes for nothing: {where.agent!r}")

    def finished(self, where: SimulatedNode) -> None:
        """A node's run is over: nothing of it may be left, and all are told the same end."""
        outcome = where.outcome
        if outcome is not None and where.agent.view.phase == node.CLOSED and outcome.status in ("succeeded", "failed"):
            first = self._ends.setdefault(where.store_epoch, outcome)
            same = (outcome.exit_code, outcome.failures[:1]) == (first.exit_code, first.failures[:1])
            if not same or (outcome.status == "succeeded") != (outcome.exit_code == 0):
                self.fail(f"{where.name} ends with {outcome}, another node with {first}")
        left = [w for w in where.processes.alive if not w.abandoned]
        if left:
            self.fail(f"{where.name} finished and left {left}")

    def check_now(self) -> None:
        """What must hold at any moment: whoever is out of touch, or told to end, has stopped its workers in time."""
        timing = self._cluster.spec.timing
        stop = timing.shutdown_timeout + timing.kill_timeout
        limit = timing.lease + stop
        for where in self._cluster.nodes.values():
            told = where.told_to_end
            if where.state == "up" and told is not None and self._cluster.clock.now() > told + stop + 1.0:
                self.fail(f"{where.name} was told to end at {told:.1f} and has not: {where.agent!r}")
            since = where.lost_since
            if where.state == "up" and since is not None and self._cluster.clock.now() > since + limit + 1.0:
                left = [w for w in where.processes.alive if not w.abandoned]
                if left:
                    self.fail(f"{where.name} is out of touch since {since:.1f} and still runs {left}")

    def __repr__(self) -> str:
        return f"<Laws: {len(self._rosters)} rosters, {len(self._failures)} failures>"
