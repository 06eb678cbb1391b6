"""Who may be in the next round, how many, and when a running round makes room for newcomers. Pure functions."""

from __future__ import annotations

from rallypoint.model.node import WAITING
from rallypoint.model.spec import AT_RESTART

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rallypoint.model.node import NodeInfo, View
    from rallypoint.model.spec import Spec


def size(spec: Spec, here: int, before: int) -> int:
    """Return how many of ``here`` nodes run: MAX at most; beyond MIN only while ``--spares`` others stand by.

    A round is never made smaller than the one ``before`` it for the sake of a spare: spares are there to step in.
    """
    grown = max(spec.min_nodes, min(spec.max_nodes, here - spec.membership.spares))
    return min(here, spec.max_nodes, max(grown, before))


def newcomers(view: View, peers: Mapping[str, NodeInfo]) -> list[str]:
    """Return the nodes that wait beside a running round and may be in the next."""
    return [
        name
        for name, info in peers.items()
        if info.state == WAITING and name not in view.roster.nodes and name not in view.aside and not info.leaving
    ]


def grows(spec: Spec, view: View, waiting: int, since: float | None, now: float) -> bool:
    """Say whether a running round is to be stopped for ``waiting`` newcomers, the first of which came at ``since``."""
    if not waiting or spec.membership.admit == AT_RESTART or since is None:
        return False
    target = size(spec, len(view.roster) + waiting, len(view.roster))
    full = len(view.roster) + waiting >= spec.max_nodes + spec.membership.spares
    return target > len(view.roster) and (full or now >= since + spec.membership.join_interval)


def leaving(view: View, peers: Mapping[str, NodeInfo]) -> list[str]:
    """Return the nodes of the running round that have been told to go."""
    return [name for name in view.roster.nodes if name in peers and peers[name].leaving]


def all_ready(view: View, peers: Mapping[str, NodeInfo], nodes: Iterable[str]) -> bool:
    """Say whether the workers of all ``nodes`` have passed a safe point since the change was announced."""
    return all(name in peers and peers[name].ready == view.round for name in nodes)
