"""Short names for the tests of the pure core: facts as they come, and an agent that is told them."""

from rallypoint.core.agent import Agent
from rallypoint.core.ranks import roster_of
from rallypoint.model import event as e
from rallypoint.model import node
from rallypoint.model import order as o
from rallypoint.model.node import Assignment, NodeInfo, View
from rallypoint.model.result import Exit, Failure, WorkerError, WorkerId
from rallypoint.model.spec import Spec, Timing

__all__ = ["Assignment", "Exit", "Failure", "NodeInfo", "Spec", "Tale", "Timing", "View", "WorkerError", "WorkerId"]
__all__ += ["e", "ended", "failure", "info", "node", "o", "place", "snapshot", "spec", "view"]


def spec(min_nodes=1, max_nodes=1, timing=None, **more):
    times = {"last_call_timeout": 2.0, "keep_alive_interval": 1.0, "shutdown_timeout": 10.0, **(timing or {})}
    given = {"argv": ("train",), "environ": {}, "backend": "tcp", **more}
    return Spec(min_nodes=min_nodes, max_nodes=max_nodes, timing=Timing(**times), **given)


def info(name="a", **more):
    given = {"host": f"host-{name}", "address": "10.0.0.1", "slots": 1, "port": 4000, **more}
    return NodeInfo(name, **given)


def view(round_=1, phase=node.RUNNING, members=("a",), slots=1, **more):
    roster = roster_of([m if isinstance(m, NodeInfo) else info(m, slots=slots) for m in members])
    given = {"master_addr": "10.0.0.1", "master_port": 4000, **more}
    return View(round_, phase, roster, **given)


def place(local=0, slots=1, **more):
    """The assignment of one worker of a node that is alone in its round."""
    given = {
        "rank": local,
        "local_rank": local,
        "world_size": slots,
        "local_world_size": slots,
        "group_rank": 0,
        "group_world_size": 1,
        "role": "default",
        "role_rank": local,
        "role_world_size": slots,
        "master_addr": "10.0.0.1",
        "master_port": 4000,
        "restart_count": 0,
    }
    return Assignment(**(given | more))


def ended(code=0, signal=None, pid=11, **more):
    return Exit(pid, None if signal else code, signal, **more)


def failure(round_=1, name="a", order=0, **more):
    given = {"kind": "worker", "host": f"host-{name}", "words": "exit code 3", "status": 3, "rank": 0, "local_rank": 0}
    return Failure(round=round_, node=name, order=order, **(given | more))


def snapshot(thing, depth=6):
    """All that an object of the core knows, as something that can be compared."""
    if isinstance(thing, (list, tuple)):
        return [snapshot(t, depth) for t in thing]
    if isinstance(thing, dict):
        return {k: snapshot(v, depth) for k, v in thing.items()}
    if type(thing).__module__.startswith("rallypoint.core") and depth:
        return {k: snapshot(v, depth - 1) for k, v in vars(thing).items()}
    return set(thing) if isinstance(thing, set) else thing


class Tale:
    """An agent called "a" that is told one fact after another."""

    def __init__(self, slots=1, node_rank=-1, **config):
        self.agent = Agent(spec(**config), NodeInfo("a", "host-a", "", slots, node_rank=node_rank))
        self.now = 100.0
        self.slots = slots

    def tell(self, *facts, at=None):
        """Tell facts; return the orders that the last of them led to."""
        self.now = self.now if at is None else at
        given = []
        for fact in facts:
            given = self.agent.handle(fact, self.now)
        return given

    def wake(self):
        """Go on to the time at which the agent wants to be asked, and ask."""
        self.now = self.agent.wake_at()
        return self.tell(e.DeadlinePassed())

    def joined(self, leader="b", there=None, revision=1):
        """Come so far that the node is announced; ``leader`` leads."""
        self.tell(e.Started(), e.ViewSeen(there, revision if there else 0), e.LeaderSeen(leader))
        return self.tell(e.StoreBack(True, "10.0.0.1"), e.Serving(1, 4000), e.Joined())

    def running(self, round_=1, revision=5, members=("a", "b")):
        """Come so far that the workers of a round run, led by another node."""
        if self.agent.state == "OUT":
            self.joined()
        self.tell(e.ViewSeen(view(round_, members=members, slots=self.slots), revision))
        return self.tell(*(e.Spawned(WorkerId(round_, n), 11 + n) for n in range(self.slots)))

    def leading(self, *peers, there=None, revision=0):
        """Come so far that the node leads and knows ``peers`` (its own words are the first)."""
        self.joined(leader=None, there=there, revision=revision)
        self.tell(e.LeaderSeen("a"))
        for n, peer in enumerate((self.agent.info, *peers)):
            self.tell(e.PeerSeen(peer, n + 1))
        return self.tell(e.Gathered())
