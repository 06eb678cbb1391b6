"""Who gets which place: the roster of a round, and each worker's ranks in it. Pure functions."""

from __future__ import annotations

from rallypoint.model.node import Assignment, NodeInfo, Roster

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from rallypoint.model.node import View


def arrange(ready: Iterable[NodeInfo], previous: Roster, limit: int) -> list[NodeInfo]:
    """Return at most ``limit`` nodes in rank order.

    ``ready`` comes in the order of joining. Nodes of the ``previous`` roster come first and keep
    their order; a newcomer takes the first place that a lost node left, else one at the end.
    Nodes with a fixed ``node_rank`` are placed by it alone, before those without. The first round is ordered by
    topology keys (those of one key side by side, numbers in them as numbers, nodes without one last); later a newcomer
    prefers a place that is free beside a node of its own key.
    """
    nodes = {info.id: info for info in ready}
    if any(info.node_rank >= 0 for info in nodes.values()):
        return sorted(nodes.values(), key=lambda info: (info.node_rank < 0, info.node_rank))[:limit]
    kept = [n for n in previous.nodes if n in nodes][:limit]
    newcomers = [n for n in nodes if n not in set(previous.nodes)]
    newcomers = newcomers[: limit - len(kept)]
    if any(info.topology for info in nodes.values()):
        newcomers.sort(key=lambda n: _natural(nodes[n].topology))  # stable: within a key by joining
    order: list[str] = []
    for place, old in enumerate(previous.nodes):
        if old in nodes:
            order.append(old)
        elif newcomers:
            beside = {nodes[n].topology for n in (*order[-1:], *previous.nodes[place + 1 : place + 2]) if n in nodes}
            fits = next((n for n in newcomers if nodes[n].topology and nodes[n].topology in beside), newcomers[0])
            newcomers.remove(fits)
            order.append(fits)
    # A full previous roster cannot have more than `limit` places, but `limit` may differ after a takeover.
    return [nodes[n] for n in (order + newcomers)[:limit]]


def _natural(key: str) -> tuple[object, ...]:
    """Return what sorts "rack10" after "rack9", and no key at all last."""
    parts: list[tuple[int, int, str]] = []
    digits = ""
    for char in key + "\0":
        if char.isascii() and char.isdigit():
            digits += char
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, char))
    return (not key, *parts)


def remembered(nodes: Iterable[NodeInfo], limit: int) -> Roster:
    """Return the last roster as far as its nodes know it: a place that none of them had has no name ("")."""
    places = {info.place: info for info in sorted(nodes, key=lambda info: info.round) if 0 <= info.place < limit}
    had = [places.get(place) for place in range(max(places, default=-1) + 1)]
    return Roster(
        tuple(info.id if info else "" for info in had),
        tuple(info.slots if info else 1 for info in had),
        tuple(info.role if info else "" for info in had),
    )


def roster_of(nodes: Iterable[NodeInfo]) -> Roster:
    """Write the arranged nodes as a roster."""
    nodes = list(nodes)
    return Roster(tuple(n.id for n in nodes), tuple(n.slots for n in nodes), tuple(n.role for n in nodes))


def assignments(view: View, node: str) -> list[Assignment]:
    """Return what each worker of ``node`` is told in the round of ``view``, in the order of local ranks.

    Ranks are contiguous for each node; role ranks count the workers of the same role, as torch does.
    Raises ValueError if the node is not in the roster.
    """
    roster = view.roster
    place = roster.nodes.index(node)
    role = roster.roles[place]
    first = sum(roster.slots[:place])
    role_first, role_size = first, roster.world_size
    if roster.roles.count(role) != len(roster):  # rare: counted one by one only if there are several roles
        own = [s if r == role else 0 for s, r in zip(roster.slots, roster.roles, strict=True)]
        role_first, role_size = sum(own[:place]), sum(own)
    return [
        Assignment(
            rank=first + local,
            local_rank=local,
            world_size=roster.world_size,
            local_world_size=roster.slots[place],
            group_rank=place,
            group_world_size=len(roster),
            role=role,
            role_rank=role_first + local,
            role_world_size=role_size,
            master_addr=view.master_addr,
            master_port=view.master_port,
            restart_count=view.restarts,
        )
        for local in range(roster.slots[place])
    ]
