"""Between the core and the store: orders become the five verbs, answers and changes become events.

Keys of a run (values are JSON; see ``model.node`` and ``model.result``):

    job                       what all nodes must agree on; written once, by the first
    refused/<id>              a node that did not: field, mine, theirs; for the leader to say so
    nodes/<id>                NodeInfo, under the node's lease
    ranks/<n>                 the id of the node that has ``--node-rank n``, under its lease
    leader                    the id of the node that leads, under its lease
    view                      View, swapped by the leader
    failures/<round>/<id>/<n> Failure, the n-th of that node in that round
"""

from __future__ import annotations

from rallypoint.model.errors import ProtocolError
from rallypoint.model.event import (
    Event,
    FailureSeen,
    Gathered,
    Joined,
    LeaderSeen,
    PeerLost,
    PeerRefused,
    PeerSeen,
    Refused,
    StoreBack,
    StoreLost,
    StoreTried,
    ViewSeen,
)
from rallypoint.model.node import NodeInfo, View
from rallypoint.model.order import Gather, Join, Lead, Leave, Propose, Publish
from rallypoint.model.result import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from rallypoint.driver.loop import Loop
    from rallypoint.driver.preflight import Preflight
    from rallypoint.model.order import Order
    from rallypoint.model.spec import Spec
    from rallypoint.proc.checks import Check
    from rallypoint.store.api import Entry, Reply, Store

    class Stranger(Protocol):
        """What stands in for the coordinator and its store where somebody else says how nodes meet."""

        store: object

        def begin(self) -> None: ...

        def close(self) -> None: ...

    Meet = Callable[[Spec, str, Loop, Callable[[Event], None], Callable[[str], None]], Stranger]
    """(spec, name of this node, loop, where events go, where warnings go) -> who carries out the orders."""


ORDERS: dict[type[Order], str] = {
    Join: "join",
    Lead: "lead",
    Gather: "gather",
    Propose: "propose",
    Publish: "publish",
    Leave: "leave",
}
"""The orders that concern the store -> who carries them out: a method of the coordinator, or of a ``Stranger``."""


class Coordinator:
    """Carries out the orders that concern the store; also the ``StoreWatcher`` of that store.

    ``emit`` takes the events. ``warn`` takes sentences about what other nodes wrote wrongly.
    ``preflight`` has its say before this node joins for the first time.
    ``close`` gives back what ``Leave`` has not and ends the connection.
    """

    def __init__(
        self,
        spec: Spec,
        node: str,
        emit: Callable[[Event], None],
        warn: Callable[[str], None],
        preflight: Preflight | None = None,
    ) -> None:
        self._spec = spec
        self._preflight = preflight
        self._node = node
        self._emit = emit
        self._warn = warn
        self._store: Store | None = None
        self._job = spec.agreed
        self._announced: NodeInfo | None = None
        self._gathered: dict[str, Entry] = {}
        self._watching_peers = False
        self._leading = False
        self._fresh = False
        self._view_told = -1
        self._published = 0

    def attach(self, store: Store) -> None:
        """Use ``store``, of which this is the watcher, from now on."""
        self._store = store
        store.watch("view", 0, self._view_changed)
        store.watch("leader", 0, self._leader_changed)
        store.read("view", self._view_read)
        store.read("leader", self._leader_read)

    @property
    def store(self) -> Store:
        if self._store is None:
            raise RuntimeError("the coordinator has no store yet: attach() comes first")
        return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    # -- what the store says of itself

    def store_up(self, address: str, fresh: bool) -> None:
        """Connected: before anything else, see whether this node fits the run."""
        where = self._spec.local_addr or address or "127.0.0.1"
        if self._spec.backend == "static" and self._spec.node_rank == 0:
            where = self._spec.endpoint.rpartition(":")[0].strip("[]")
        # Asked again if the answer was lost: a node that was not checked has not joined.
        self._fresh = self._fresh or fresh
        moves = self._spec.backend == "tcp" and "," in self._spec.endpoint
        back = StoreBack(self._fresh, where, self.store.where if moves else "")
        if self._fresh:
            self._view_told = -1
            self.store.swap("job", 0, self._job, lambda reply: self._job_known(reply, back))
        else:
            self._emit(back)

    def store_tried(self, where: str, reason: str, attempt: int) -> None:
        self._emit(StoreTried(where, reason, attempt))

    def store_lost(self, reason: str, silent: float) -> None:
        self._emit(StoreLost(reason, silent))

    def store_refused(self, field: str, mine: str, theirs: str) -> None:
        self._emit(Refused(field, mine, theirs))

    def _job_known(self, reply: Reply, back: StoreBack) -> None:
        if reply.error:
            return  # the connection went again; store_up will come again
        theirs = reply.entry.value if reply.entry is not None else self._job
        if isinstance(theirs, dict):
            for field, mine in self._job.items():
                if theirs.get(field) != mine:
                    facts = {"field": field, "mine": mine, "theirs": str(theirs.get(field))}
                    self.store.swap(f"refused/{self._node}", 0, facts, _heard)
                    self._emit(Refused(**facts))
                    return
        self._fresh = False
        preflight, self._preflight = self._preflight, None
        if preflight is None:
            self._rejoin(back)
        else:
            preflight.meet(self.store, self._node, lambda failed: self._looked(failed, back))

    def _looked(self, failed: Check | None, back: StoreBack) -> None:
        if failed is None:
            self._rejoin(back)
            return
        facts = {"field": "pre-flight check", "mine": str(failed), "theirs": ""}
        self.store.swap(f"refused/{self._node}", 0, facts, _heard)
        self._warn(f"pre-flight: {failed.mend}")
        self._emit(Refused(**facts))

    def _rejoin(self, back: StoreBack) -> None:
        self._emit(back)
        if self._leading:
            # Our lease is gone. The watch cannot say so if the connection went before it told us that we had it.
            self.store.read("leader", self._leader_read)

    # -- orders

    def join(self, order: Join) -> None:
        """Write what this node says of itself; a fixed node rank is claimed first."""
        info = self._announced = order.info
        if info.node_rank >= 0:
            key = f"ranks/{info.node_rank}"
            self._lease(key, info.id, lambda reply: self._rank_claimed(reply, info))
        else:
            self._write_info(info)

    def lead(self, _order: Lead) -> None:
        self._lease("leader", self._node, self._leader_answered)

    def gather(self, _order: Gather) -> None:
        """Tell of every node and failure, from the cache if it is watched already."""
        self._leading = True
        if self._watching_peers:
            for entry in sorted(self._gathered.values(), key=lambda e: e.revision):
                self._tell_peer(entry)
            self._emit(Gathered())
            return
        self._watching_peers = True
        self.store.watch("nodes/", 0, self._peer_changed)
        self.store.watch("failures/", 0, self._peer_changed)
        self.store.watch("refused/", 0, self._peer_changed)
        # Answered after everything that was there has been told.
        self.store.read("leader", lambda _reply: self._emit(Gathered()))

    def propose(self, order: Propose) -> None:
        self.store.swap("view", order.expected, order.view.to_json(), self._proposed)

    def publish(self, order: Publish) -> None:
        """Write a failure; written again if the connection went in between (the key makes it one)."""
        self._published += 1
        key = f"failures/{order.failure.round}/{self._node}/{self._published}"
        content = order.failure.to_json()

        def written(reply: Reply) -> None:
            if reply.error:
                self.store.swap(key, 0, content, written)

        self.store.swap(key, 0, content, written)

    def leave(self, order: Leave) -> None:
        """Give back our leases, the reason with them."""
        if self._announced is not None:
            self.store.lease(f"nodes/{self._node}", 0, order.reason, _heard)
            self.store.lease("leader", 0, order.reason, _heard)

    # -- answers

    def _lease(self, key: str, value: object, done: Callable[[Reply], None]) -> None:
        self.store.lease(key, self._spec.timing.lease, value, done)  # type: ignore[arg-type]

    def _rank_claimed(self, reply: Reply, info: NodeInfo) -> None:
        if reply.ok:
            self._write_info(info)
        elif reply.error:
            self._again(info)
        else:
            holder = reply.entry.value if reply.entry else "?"
            self._emit(Refused("--node-rank", str(info.node_rank), f"taken by node {holder}"))

    def _write_info(self, info: NodeInfo) -> None:
        def written(reply: Reply) -> None:
            if reply.ok:
                self._emit(Joined())
            elif reply.error:
                self._again(info)
            else:
                self._emit(Refused("the node's name", info.id, "held by another node"))

        self._lease(f"nodes/{info.id}", info.to_json(), written)

    def _again(self, info: NodeInfo) -> None:
        """The connection went before the answer came: write again, unless something newer is to be said."""
        if info is self._announced:
            self._write_info(info)
        else:
            self._emit(Joined())

    def _leader_answered(self, reply: Reply) -> None:
        if reply.ok:
            self._emit(LeaderSeen(self._node))
        elif reply.error:
            self.store.read("leader", self._leader_read)
        elif reply.entry is not None:
            self._leader_changed(reply.entry)

    def _leader_read(self, reply: Reply) -> None:
        if reply.entries:
            self._leader_changed(reply.entries[0])
        else:
            self._emit(LeaderSeen(None))

    def _leader_changed(self, entry: Entry) -> None:
        leader = entry.value if isinstance(entry.value, str) else None
        self._leading = self._leading and leader == self._node
        self._emit(LeaderSeen(leader))

    def _proposed(self, reply: Reply) -> None:
        if reply.error:
            self.store.read("view", self._view_read)
        elif reply.entry is not None:
            self._view_told = -1
            self._view_changed(reply.entry)
        else:
            self._emit(ViewSeen(None, 0))

    def _view_read(self, reply: Reply) -> None:
        if reply.entries:
            self._view_told = -1
            self._view_changed(reply.entries[0])
        else:
            self._emit(ViewSeen(None, 0))

    def _view_changed(self, entry: Entry) -> None:
        if entry.value is None:
            self._emit(ViewSeen(None, 0))
        elif entry.revision != self._view_told:
            self._view_told = entry.revision
            try:
                self._emit(ViewSeen(View.from_json(entry.value), entry.revision))
            except ProtocolError as error:
                self._warn(f"the run's view cannot be read: {error}")

    def _peer_changed(self, entry: Entry) -> None:
        if entry.value is None:
            self._gathered.pop(entry.key, None)
        else:
            self._gathered[entry.key] = entry
        if self._leading:
            self._tell_peer(entry)

    def _tell_peer(self, entry: Entry) -> None:
        try:
            if entry.key.startswith("failures/"):
                if isinstance(entry.value, dict):
                    self._emit(FailureSeen(Failure.from_json(entry.value)))
            elif entry.key.startswith("refused/"):
                if isinstance(entry.value, dict):
                    self._emit(PeerRefused(node=entry.key.partition("/")[2], **entry.value))
            elif entry.value is None:
                self._emit(PeerLost(entry.key.partition("/")[2], entry.left, entry.reason))
            else:
                self._emit(PeerSeen(NodeInfo.from_json(entry.value), entry.created))
        except (ProtocolError, TypeError, KeyError, ValueError) as error:
            self._warn(f"{entry.key} cannot be read: {error}")

    def __repr__(self) -> str:
        return f"<Coordinator of {self._node}, {'leading, ' if self._leading else ''}{self._store!r}>"


def _heard(_reply: Reply) -> None:
    """Leaving waits for no answer."""
