"""Orders. All the core ever asks for is one of these; the driver carries them out.

A ``Decision`` ties each order to the event that caused it, for observers, journals and tests.
"""

from __future__ import annotations

from rallypoint.model.event import Event
from rallypoint.model.node import Assignment, NodeInfo, View
from rallypoint.model.result import ALL, Failure, Outcome, WorkerId
from rallypoint.model.value import Value


class Order(Value):
    """Base of all orders."""


class Join(Order):
    """Write our ``nodes/<id>`` under our lease (first time, and at each change). Ends as Joined or Refused."""

    info: NodeInfo


class Lead(Order):
    """Take the leader's lease if it is free. Ends as LeaderSeen."""


class Gather(Order):
    """We lead: tell us of every node and failure from now on (PeerSeen, PeerLost, FailureSeen). Ends as Gathered."""


class Propose(Order):
    """Swap the view if it is still at ``expected``. Ends as ViewSeen: of ours, or of what is there instead."""

    view: View
    expected: int


class Publish(Order):
    """Write a failure of this node for the leader to see."""

    failure: Failure


class ServeWorkers(Order):
    """Open a fresh, empty worker store for ``round``; drop the one before. Ends as Serving."""

    round: int


class Spawn(Order):
    """Start one worker. Ends as Spawned or SpawnFailed."""

    worker: WorkerId
    assignment: Assignment


class Signal(Order):
    """Send ``number`` to the process group of ``worker`` (to its main process alone if not ``group``)."""

    worker: WorkerId
    number: int
    group: bool = True


class Prepare(Order):
    """A planned stop of ``round`` is near: let its workers know. Ends as Prepared, if they ever pass a safe point."""

    round: int


class DumpStacks(Order):
    """Have ``worker`` write the stacks of its threads to its error output, if it can."""

    worker: WorkerId


class Sweep(Order):
    """The workers of ``round`` are gone: ask what they left behind to stop, kill it at ``deadline``. Ends as Swept.

    A second order for the same moves the deadline; there is still one Swept. ``local_rank``: what that worker alone
    left in its session.
    """

    round: int
    deadline: float
    local_rank: int = ALL


class Abandon(Order):
    """``worker`` does not end (uninterruptible sleep): stop waiting for it, and say so."""

    worker: WorkerId


class Leave(Order):
    """Give back our leases and say why."""

    reason: str


class Finish(Order):
    """The run is over on this node."""

    outcome: Outcome


class Decision(Value):
    """What observers are shown: at ``at`` (monotonic seconds) ``event`` led to ``orders``."""

    at: float
    event: Event
    orders: tuple[Order, ...] = ()
