"""Facts. Everything the core ever learns is one of these, with the time it is told."""

from __future__ import annotations

from rallypoint.model.node import NodeInfo, View
from rallypoint.model.result import ALL, Exit, Failure, WorkerId
from rallypoint.model.value import Value


class Event(Value):
    """Base of all facts."""


class Started(Event):
    """The driver is up and looks for the store; the time to join begins."""


class Joined(Event):
    """Our own ``nodes/<id>`` was written (answers ``Join``)."""


class Refused(Event):
    """The run will not have this node: ``field`` is ``mine`` here and ``theirs`` there ("": nothing to compare)."""

    field: str
    mine: str
    theirs: str


class LeaderSeen(Event):
    """``node`` holds the leader's lease; None: nobody does."""

    node: str | None


class ViewSeen(Event):
    """The view at ``revision``; ``view`` None: there is none yet (``revision`` then is what a first swap expects)."""

    view: View | None
    revision: int


class PeerSeen(Event):
    """A node's own words, ours included; told to the leader only. ``joined``: revision of its first write."""

    info: NodeInfo
    joined: int


class PeerLost(Event):
    """A node's lease is gone: ``left`` if it gave it back itself (with ``reason``)."""

    node: str
    left: bool
    reason: str


class PeerRefused(Event):
    """A node did not fit the run and went: ``field`` was ``mine`` on it, ``theirs`` here. For watchers."""

    node: str
    field: str
    mine: str
    theirs: str


class Gathered(Event):
    """Every node and failure that was there has been told (answers ``Gather``)."""


class FailureSeen(Event):
    """A failure was published; told to the leader only, in the store's order."""

    failure: Failure


class StoreTried(Event):
    """An attempt to reach the store at ``where`` failed with ``reason``; another one follows. For watchers."""

    where: str
    reason: str
    attempt: int


class StoreLost(Event):
    """The store is out of reach, and was last heard of ``silent`` seconds ago; our lease is running out."""

    reason: str
    silent: float = 0.0


class StoreBack(Event):
    """The store answers (for the first time, or again). ``fresh``: no lease of ours is there, we must join anew.

    ``address`` is where our workers' peers reach this node; ``where``, the store's, is told if it may move.
    """

    fresh: bool
    address: str
    where: str = ""


class Serving(Event):
    """The worker store of ``round`` listens at ``port`` (answers ``ServeWorkers``)."""

    round: int
    port: int


class Spawned(Event):
    """A worker process exists (answers ``Spawn``)."""

    worker: WorkerId
    pid: int


class SpawnFailed(Event):
    """A worker could not be started (answers ``Spawn``)."""

    worker: WorkerId
    reason: str


class Exited(Event):
    """A worker process ended."""

    worker: WorkerId
    exit: Exit


class Prepared(Event):
    """Every running worker of ``round`` here has passed a safe point since ``Prepare``."""

    round: int


class Swept(Event):
    """Nothing of ``round`` is left here, but for ``stuck`` pids that the kernel will not end (answers ``Sweep``).

    ``local_rank``: as the order had it.
    """

    round: int
    stuck: tuple[int, ...] = ()
    local_rank: int = ALL


class SignalReceived(Event):
    """The launcher got signal ``number``."""

    number: int


class DeadlinePassed(Event):
    """``Agent.wake_at()`` has come."""
