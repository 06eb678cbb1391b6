"""A cluster in virtual time: real agents and coordinators, a simulated store, simulated workers.

    cluster = Cluster(Spec(argv=("train",), environ={}, backend="tcp", min_nodes=2, max_nodes=2), seed=7)
    cluster.start("n1"); cluster.start("n2")
    cluster.run_until(lambda: cluster.running == {"n1", "n2"})
    cluster.kill("n2")
    print(cluster.story())

Everything that is left to chance comes from ``seed``. The laws of a run (``testing.laws``) are checked
all the time; a breach raises ``LawBrokenError`` with the seed and the story.
"""

from __future__ import annotations

import random
from collections import deque

from rallypoint.core import worker as worker_states
from rallypoint.core.agent import Agent
from rallypoint.driver.coordinator import ORDERS, Coordinator
from rallypoint.model import event as events
from rallypoint.model import node
from rallypoint.model import order as orders
from rallypoint.model.errors import IllegalTransitionError
from rallypoint.model.node import NodeInfo, View
from rallypoint.testing.clock import ManualClock, SkewedClock
from rallypoint.testing.laws import Laws
from rallypoint.testing.simulated_server import Session, SimulatedServer
from rallypoint.testing.simulated_store import SimulatedStore
from rallypoint.testing.simulated_workers import Script, SimulatedProcesses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.event import Event
    from rallypoint.model.node import Assignment
    from rallypoint.model.order import Order
    from rallypoint.model.result import Outcome
    from rallypoint.model.spec import Spec

    Scripts = Callable[[str, orders.Spawn], Script]

GUARD = 2.0
"""Seconds until the workers of a killed launcher are gone."""


class SimulatedNode:
    """One launcher: the driver's queue and hands around a real ``Agent``.

    ``state``: "up", "frozen" (SIGSTOP), "killed", "finished" (``outcome`` tells how).
    """

    def __init__(self, cluster: Cluster, name: str, spec: Spec, clock: SkewedClock) -> None:
        self.name = name
        self.clock = clock
        self.state = "up"
        self.outcome: Outcome | None = None
        self.lost_since: float | None = None
        self.told_to_end: float | None = None
        self.session_of_round: dict[int, Session | None] = {}
        self.epoch_of_round: dict[int, int] = {}
        self.agent = Agent(spec, self._introduction(spec))
        self.processes = SimulatedProcesses(clock, lambda e: self.gate(lambda: self.put(e)))
        self._cluster = cluster
        self._queue: deque[Event] = deque()
        self._backlog: list[Callable[[], None]] = []
        self._busy = False
        self._port = 40000
        self.store = SimulatedStore(
            cluster.clock, cluster.rng, name, spec.timing.lease, self.gate, lambda: cluster.server
        )
        self.coordinator = Coordinator(spec, name, self.put, lambda text: cluster.say(name, text))
        self.put(events.Started())
        self.coordinator.attach(self.store)
        self.store.connect(self.coordinator)

    def _introduction(self, spec: Spec) -> NodeInfo:
        host, topology = f"host-{self.name}", spec.membership.topology
        return NodeInfo(self.name, host, "", spec.nproc, role=spec.role, node_rank=spec.node_rank, topology=topology)

    @property
    def live(self) -> bool:
        return self.state in ("up", "frozen")

    @property
    def store_epoch(self) -> int:
        """The life of the store that this node was last told of."""
        return self.store.epoch

    @property
    def runs(self) -> bool:
        """Whether all workers of the node's round are running."""
        group = self.agent.group
        states = {w.state for w in group.workers}
        return group.active and states == {worker_states.RUNNING}

    def gate(self, call: Callable[[], None]) -> None:
        """Run what the node does: later if it is frozen, never if it is no more."""
        if self.state == "frozen":
            self._backlog.append(call)
        elif self.state == "up":
            call()

    def thaw(self) -> None:
        """Do what piled up while the node was frozen."""
        self.state = "up"
        if self.lost_since is not None:
            self.lost_since = self._cluster.clock.now()  # it cannot have acted before
        if self.told_to_end is not None:
            self.told_to_end = self._cluster.clock.now()
        backlog, self._backlog = self._backlog, []
        for call in backlog:
            self.gate(call)
        self._wake()

    def put(self, event: Event) -> None:
        """Queue a fact; let the core take in all that are waiting, unless it is at it already."""
        self._queue.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._queue and self.state == "up":
                self._take(self._queue.popleft())
        finally:
            self._busy = False
        self._plan()

    def _take(self, event: Event) -> None:
        now = self._cluster.clock.now()  # laws go by true time, the node by its own
        if isinstance(event, events.StoreLost) and self.lost_since is None:
            self.lost_since = now
        elif isinstance(event, events.StoreBack):
            self.lost_since = None
        elif isinstance(event, events.SignalReceived) and event.number in self._cluster.spec.signals:
            self.told_to_end = self.told_to_end or now
        given = self.agent.handle(event, self.clock.now())
        self._cluster.decided(self, event, given)
        for order in given:
            _HANDS[type(order)](self, order)

    def _plan(self) -> None:
        wake = self.agent.wake_at()
        if wake is not None and self.state == "up":
            # A little late, as a real loop is, and never early.
            late = self._cluster.rng.uniform(1e-6, 0.002)
            self.clock.call_at(wake + late, lambda: self.gate(self._wake))

    def _wake(self) -> None:
        wake = self.agent.wake_at()
        if self.state == "up" and wake is not None and self.clock.now() >= wake:
            self.put(events.DeadlinePassed())

    # -- hands

    def serve_workers(self, order: orders.ServeWorkers) -> None:
        self._port += 1
        self._queue.append(events.Serving(order.round, self._port))

    def spawn(self, order: orders.Spawn) -> None:
        self.session_of_round[order.worker.round] = self.store.session
        self.epoch_of_round[order.worker.round] = self.store_epoch
        self._cluster.laws.spawned(self, order)
        self.processes.spawn(order.worker, order.assignment, self._cluster.script(self.name, order))

    def coordinate(self, order: Order) -> None:
        """Have the coordinator carry it out."""
        getattr(self.coordinator, ORDERS[type(order)])(order)

    def prepare(self, order: orders.Prepare) -> None:
        """The workers pass a safe point a while later."""
        later = self._cluster.clock.now() + self._cluster.rng.uniform(0.0, 3.0)
        prepared = events.Prepared(order.round)
        self._cluster.clock.call_at(later, lambda: self.gate(lambda: self.put(prepared)))

    def finish(self, order: orders.Finish) -> None:
        self.outcome = order.outcome
        self._cluster.laws.finished(self)
        self.coordinator.close()
        self.state = "finished"

    def __repr__(self) -> str:
        return f"<SimulatedNode {self.name}: {self.state}, {self.agent!r}>"


_HANDS: dict[type[Order], Callable[..., None]] = {
    **dict.fromkeys(ORDERS, SimulatedNode.coordinate),
    orders.ServeWorkers: SimulatedNode.serve_workers,
    orders.Spawn: SimulatedNode.spawn,
    orders.Signal: lambda n, order: n.processes.signal(order.worker, order.number),
    orders.Prepare: SimulatedNode.prepare,
    orders.DumpStacks: lambda _n, _order: None,
    orders.Sweep: lambda n, order: n.processes.sweep(order.round, order.deadline, order.local_rank),
    orders.Abandon: lambda n, order: n.processes.abandon(order.worker),
    orders.Finish: SimulatedNode.finish,
}


class Cluster:
    """Nodes, their store, and what befalls them. ``script`` says what each worker does (default: runs for ever).

    ``skew``: the nodes' clocks differ by any amount, and their rates by up to this share.
    """

    def __init__(self, spec: Spec, seed: int = 0, script: Scripts | None = None, skew: float = 0.0) -> None:
        self.spec = spec
        self.skew = skew
        self.seed = seed
        self.rng = random.Random(seed)
        self.clock = ManualClock(start=1000.0)
        self.laws = Laws(self)
        self.nodes: dict[str, SimulatedNode] = {}
        self.script: Scripts = script or (lambda _name, _order: Script())
        self.server: SimulatedServer | None = None
        self._story: list[str] = []
        self.revive_store()

    # -- what befalls it

    def start(self, name: str, spec: Spec | None = None) -> SimulatedNode:
        """Start a launcher; ``spec`` if it differs from the cluster's."""
        self.say(name, "START")
        assert name not in self.nodes, "every start of a launcher has a name of its own"
        skewed = self.skew > 0
        clock = SkewedClock(
            self.clock,
            offset=self.rng.uniform(0, 1e6) if skewed else 0.0,
            rate=1 + self.rng.uniform(-self.skew, self.skew) if skewed else 1.0,
        )
        self.nodes[name] = SimulatedNode(self, name, spec or self.spec, clock)
        return self.nodes[name]

    def kill(self, name: str) -> None:
        """Kill -9 of the launcher; the kernel closes its connection, the guard ends its workers."""
        at = self.nodes[name]
        if at.live:
            self.say(name, "KILLED")
            at.state = "killed"
            at.store.crash()
            at.processes.kill_all(self.rng.uniform(0.0, GUARD))

    def freeze(self, name: str) -> None:
        """SIGSTOP of the launcher; its workers go on."""
        at = self.nodes[name]
        if at.state == "up":
            self.say(name, "FROZEN")
            at.state = "frozen"
            at.store.mute("frozen")

    def thaw(self, name: str) -> None:
        at = self.nodes[name]
        if at.state == "frozen":
            self.say(name, "THAWED")
            at.store.mute("frozen", False)
            at.thaw()

    def cut(self, name: str) -> None:
        """The network between the node and the store takes nothing more and says nothing."""
        if self.nodes[name].live:
            self.say(name, "CUT OFF")
            self.nodes[name].store.cut()

    def mend(self, name: str) -> None:
        if self.nodes[name].live:
            self.say(name, "MENDED")
            self.nodes[name].store.mend()

    def reset(self, name: str) -> None:
        """The connection to the store is closed on both ends; the node may connect again."""
        if self.nodes[name].live:
            self.say(name, "CONNECTION RESET")
            self.nodes[name].store.reset()

    def slow(self, name: str, seconds: float) -> None:
        """From now on a message from or to the node takes up to twice ``seconds``."""
        self.nodes[name].store.delay = seconds

    def signal(self, name: str, number: int) -> None:
        """The launcher gets a signal."""
        at = self.nodes[name]
        self.say(name, f"SIGNAL {number}")
        at.gate(lambda: at.put(events.SignalReceived(number)))

    def kill_store(self) -> None:
        """The store's host dies, and with it all that the store knew."""
        if self.server is not None:
            self.say("", "STORE DIES")
            self.server.die()
            self.server = None

    def revive_store(self) -> None:
        """An empty store is there again."""
        if self.server is None:
            epoch = self.rng.randrange(1, 1 << 40)
            self.laws.new_store(epoch)
            self.server = SimulatedServer(self.clock, epoch, self.laws.written)
            self.say("", "EMPTY STORE")

    # -- how it goes on

    def run_for(self, seconds: float) -> None:
        """Let virtual time pass."""
        end = self.clock.now() + seconds
        self.run_until(lambda: False, end - self.clock.now())

    def run_until(self, done: Callable[[], object], limit: float = 120.0) -> bool:
        """Let virtual time pass until ``done()``; False if ``limit`` seconds went by first."""
        end = self.clock.now() + limit
        while not done():
            # In steps, so that what must hold at any moment is looked at even when nothing happens.
            stop = min(end, self.clock.now() + 1.0)
            try:
                if not self.clock.step(stop) and stop == end:
                    return bool(done())
            except IllegalTransitionError as error:
                self.laws.fail(str(error))
            self.laws.check_now()
        return True

    # -- how it is

    @property
    def live(self) -> list[SimulatedNode]:
        return [n for n in self.nodes.values() if n.live]

    @property
    def running(self) -> set[str]:
        """The nodes that run workers of the round that is on."""
        view = self.view
        if view is None or view.phase != node.RUNNING:
            return set()
        return {n.name for n in self.live if n.runs and n.agent.group.round == view.round}

    @property
    def formed(self) -> bool:
        """Whether a round is on, in which all its nodes run workers."""
        view = self.view
        return view is not None and view.phase == node.RUNNING and self.running == set(view.roster.nodes)

    @property
    def view(self) -> View | None:
        """The view in the store."""
        entry = self.server.entries.get("view") if self.server else None
        return View.from_json(entry.value) if entry else None

    def ranks(self) -> dict[int, str]:
        """Who runs which rank of the round that is on."""
        view = self.view
        if view is None:
            return {}
        assigned: list[tuple[Assignment, str]] = [
            (w.assignment, n.name) for n in self.live for w in n.processes.alive if w.id.round == view.round
        ]
        return {given.rank: name for given, name in sorted(assigned, key=lambda pair: pair[0].rank)}

    def decided(self, where: SimulatedNode, event: Event, given: list[Order]) -> None:
        """Write the story on: what a node was told, and what it ordered."""
        told = "; ".join(_short(order) for order in given)
        self.say(where.name, f"{_short(event)}  ->  {told}" if told else _short(event))
        self.laws.decided(where, event, list(given))

    def say(self, name: str, text: str) -> None:
        self._story.append(f"{self.clock.now() - 1000.0:9.3f} {name:>4} {text}")

    def story(self, last: int = 0) -> str:
        """Return what happened, a line for each fact; only the ``last`` lines if that is given."""
        return "\n".join(self._story[-last:])

    def __repr__(self) -> str:
        return f"<Cluster of {len(self.live)} live nodes at {self.clock.now():.3f}, seed {self.seed}>"


def _short(what: Event | Order) -> str:
    """Write a fact or an order so that a line holds it."""
    if isinstance(what, (events.ViewSeen, orders.Propose)):
        view = what.view
        number = what.revision if isinstance(what, events.ViewSeen) else what.expected
        if view is None:
            return f"{type(what).__name__}(None, {number})"
        members = ",".join(view.roster.nodes)
        return f"{type(what).__name__}({view.phase} {view.round} [{members}] x{view.restarts} {view.reason}, {number})"
    text = repr(what)
    return text if len(text) < 160 else text[:157] + "..."
