"""What the nodes tell each other through the store: ``NodeInfo``, ``View`` and its ``Roster``.

Each has a JSON form. ``from_json`` checks what came over the network and raises
``ProtocolError`` for anything that this version would not have written.
"""

from __future__ import annotations

from rallypoint.model.errors import ProtocolError
from rallypoint.model.result import ALL, Failure
from rallypoint.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# States of a node, as it announces them itself.
WAITING = "waiting"  # no workers; ready for the next round
WORKING = "working"  # workers of the round `round` are running (said only when joining anew with them)
FINISHING = "finishing"  # as WORKING, and at least one worker has succeeded
DONE = "done"  # all workers of the round `round` succeeded
LEAVING = "leaving"  # told to go; its workers are being stopped
_STATES = (WAITING, WORKING, FINISHING, DONE, LEAVING)

# Phases of a view.
FORMING = "forming"
RUNNING = "running"
DRAINING = "draining"
CLOSED = "closed"


class NodeInfo(Value):
    """What a node says of itself: key ``nodes/<id>``, under a lease, written by its owner only.

    ``address`` is where its workers' peers reach it (and ``port`` its worker store);
    ``slots`` the number of workers it starts; ``round`` the last round whose orders it has
    carried out (for WAITING: the workers of that round are gone); ``node_rank`` the fixed place
    (``static``), -1 if free; ``joined`` orders newcomers (the store's revision of the first write).
    ``ready``: the last round whose workers have all passed a safe point since a change was announced.
    ``leaving``: it is to go, and its workers run on until the others are prepared. ``topology``: where it is
    in the network. ``probe``: a port that others may try to reach (0: none).
    ``place`` in the roster (-1: none) and ``restarts`` are those of its last round, said when it joins
    anew: a store that began anew knows neither.
    """

    id: str
    host: str
    address: str
    slots: int
    port: int = 0
    role: str = "default"
    round: int = 0
    state: str = WAITING
    node_rank: int = -1
    place: int = -1
    restarts: int = 0
    topology: str = ""
    ready: int = 0
    leaving: bool = False
    probe: int = 0

    def to_json(self) -> dict[str, Any]:
        return self.as_dict()

    @classmethod
    def from_json(cls, content: Any) -> NodeInfo:
        node: NodeInfo = _decoded(cls, content, _NODE_TYPES)
        if node.slots < 1 or node.state not in _STATES:
            raise ProtocolError(f"node {node.id}: slots {node.slots}, state {node.state!r}")
        return node


class Roster(Value):
    """Who is in the round, in rank order, as columns (one entry for each node).

    Columns keep the JSON small and its reading at C speed: a thousand nodes read it at once.
    """

    nodes: tuple[str, ...] = ()
    slots: tuple[int, ...] = ()
    roles: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def world_size(self) -> int:
        return sum(self.slots)


class History(Value):
    """What a leader has to know of earlier rounds to judge the next failure.

    ``streak``: how many rounds in a row failed soon. ``delay``: seconds that the last restart waited. ``last``: what
    failed last, and where in the work; ``repeats``: how often just that has come back. ``blame``: the nodes that were
    causes, one entry for each failure (kept only for ``--max-node-failures``).
    """

    streak: int = 0
    delay: float = 0.0
    last: str = ""
    repeats: int = 0
    blame: tuple[str, ...] = ()


class View(Value):
    """The state of the run: key ``view``, written by the leader only, by fenced swap.

    ``round`` counts from 1 with each forming; ``restarts`` counts failures paid from the
    budget; ``here`` are the nodes present while forming (said at growing intervals);
    ``failures`` (cause first) explain a draining or a failed end; ``finishing`` says that a
    worker has succeeded, which starts ``--success-timeout`` everywhere; ``reason`` is for people.
    ``pending``: why a running round will soon be stopped as planned ("": it will not). ``aside``: nodes that may be
    in no further round. ``lives``: who was started again within the round (``--restart-scope``), and how often: names
    of nodes, or "node/local rank" of workers. Then ``failures`` may explain the last of these starts.
    """

    round: int
    phase: str
    roster: Roster = Roster()
    master_addr: str = ""
    master_port: int = 0
    restarts: int = 0
    reason: str = ""
    here: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    finishing: bool = False
    pending: str = ""
    aside: tuple[str, ...] = ()
    history: History = History()
    lives: tuple[tuple[str, int], ...] = ()

    def life(self, node: str, local_rank: int) -> int:
        """Return how often a node, or (``local_rank`` not ALL) one of its workers, was started again in this round."""
        name = unit(node, local_rank)
        return next((life for known, life in self.lives if known == name), 0)

    def to_json(self) -> dict[str, Any]:
        content = self.as_dict()
        content["history"] = self.history.as_dict()
        content["roster"] = [self.roster.nodes, _column(self.roster.slots), _column(self.roster.roles)]
        content["failures"] = [f.to_json() for f in self.failures]
        return content

    @classmethod
    def from_json(cls, content: Any) -> View:
        try:
            content = dict(content)
            content["roster"] = roster = _roster(*content["roster"])
            content["here"] = tuple(content.get("here", ()))
            content["aside"] = tuple(content.get("aside", ()))
            content["lives"] = tuple((str(name), int(life)) for name, life in content.get("lives", ()))
            history = _decoded(History, content.get("history", {}), _HISTORY_TYPES)
            content["history"] = history.replace(blame=tuple(map(str, history.blame)), delay=float(history.delay))
            content["failures"] = tuple(Failure.from_json(f) for f in content.get("failures", ()))
        except (TypeError, ValueError, KeyError) as error:
            raise ProtocolError(f"view: {error}") from None
        view: View = _decoded(cls, content, _VIEW_TYPES)
        lengths = (len(roster.nodes), len(roster.slots), len(roster.roles))
        if view.phase not in (FORMING, RUNNING, DRAINING, CLOSED) or len(set(lengths)) > 1:
            raise ProtocolError(f"view: phase {view.phase!r}, roster of {lengths}")
        if not set(map(type, (*view.here, *view.aside))) <= {str}:
            raise ProtocolError("view: a node is no name")
        return view


def unit(node: str, local_rank: int) -> str:
    """Name what starts again together, as in ``View.lives``."""
    return node if local_rank == ALL else f"{node}/{local_rank}"


class Assignment(Value):
    """What one worker is told about itself: the worker environment, before it is spelled out."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    group_rank: int
    group_world_size: int
    role: str
    role_rank: int
    role_world_size: int
    master_addr: str
    master_port: int
    restart_count: int


_NODE_TYPES = {"id": str, "host": str, "address": str, "slots": int, "port": int, "role": str}
_NODE_TYPES |= {"round": int, "state": str, "node_rank": int, "place": int, "restarts": int}
_NODE_TYPES |= {"topology": str, "ready": int, "leaving": bool}
_VIEW_TYPES = {"round": int, "phase": str, "master_addr": str, "master_port": int, "restarts": int}
_VIEW_TYPES |= {"reason": str, "finishing": bool, "pending": str}
_HISTORY_TYPES: dict[str, type] = {"streak": int, "last": str, "repeats": int}


def _column(values: tuple[Any, ...]) -> object:
    """Write a column as one value if all are the same: a view is sent to every node, and most nodes are alike."""
    return values[0] if values and values.count(values[0]) == len(values) else values


def _roster(nodes: Any, slots: Any, roles: Any) -> Roster:
    """Read the columns. A thousand nodes read a thousand entries each: one look at every value, at C speed."""
    alike = [column if isinstance(column, (list, tuple)) else [column] for column in (slots, roles)]
    if alike[0] and (set(map(type, alike[0])) != {int} or min(alike[0]) < 1):
        raise ProtocolError("view: a node's slots are no positive number")
    if not set(map(type, nodes)) | set(map(type, alike[1])) <= {str}:
        raise ProtocolError("view: a node or a role is no name")
    wide = [tuple(c) if isinstance(c, (list, tuple)) else (c,) * len(nodes) for c in (slots, roles)]
    return Roster(tuple(nodes), *wide)


def _decoded(cls: Any, content: Any, types: dict[str, type]) -> Any:
    """Make a ``cls`` from JSON. Unknown fields are left out: a newer version may have written them."""
    if not isinstance(content, dict):
        raise ProtocolError(f"{cls.__name__}: {type(content).__name__} instead of an object")
    for field, kind in types.items():
        if field in content and type(content[field]) is not kind:
            raise ProtocolError(f"{cls.__name__}.{field}: {content[field]!r} is no {kind.__name__}")
    try:
        return cls(**{f: content[f] for f in cls._fields if f in content})
    except TypeError as error:
        raise ProtocolError(str(error)) from None
