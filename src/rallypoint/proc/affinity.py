"""Which CPUs a worker is bound to: torch's four affinity modes, for workers with and without GPUs. Pure.

A worker with a GPU goes to the node at which the GPU hangs. One without, or whose GPU's node nobody
knows, gets its place by its local rank: the workers are spread over the nodes in blocks, in proportion
to the cores that each node has for us. Nobody is ever given a CPU outside of those allowed.
"""

from __future__ import annotations

from rallypoint.model.value import Value
from rallypoint.proc.topology import UNKNOWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rallypoint.proc.topology import Cpus, Topology

NODE, SOCKET, EXCLUSIVE, CORE_COMPLEX = "node", "socket", "exclusive", "core-complex"
MODES = (NODE, SOCKET, EXCLUSIVE, CORE_COMPLEX)


class Placement(Value):
    """A worker's ``cpus``, and the ``nodes`` whose memory it prefers; both empty: not bound.

    ``remark`` says in one clause why it is not as asked; "": it is.
    """

    cpus: Cpus = frozenset()
    nodes: tuple[int, ...] = ()
    remark: str = ""


def placements(
    mode: str, topology: Topology, allowed: Cpus, workers: int, gpu_nodes: Sequence[int] = ()
) -> tuple[Placement, ...]:
    """Return the placement of each of the ``workers`` of this machine, by local rank.

    ``allowed`` are the CPUs that the launcher may use. ``gpu_nodes[i]`` is the node of the GPU of worker
    ``i`` (UNKNOWN: nobody knows); workers beyond its end have none.
    """
    nodes = {node: cpus & allowed for node, cpus in topology.nodes().items()}
    usable = {node: cpus for node, cpus in nodes.items() if cpus}
    if not usable:
        return (Placement(remark="no NUMA node has a CPU that this process may use"),) * workers
    homes, remarks = _homes(topology, nodes, usable, workers, gpu_nodes)
    place = {NODE: _whole, SOCKET: _socket, EXCLUSIVE: _exclusive, CORE_COMPLEX: _complex}[mode]
    found = []
    for rank, home in enumerate(homes):
        if home == UNKNOWN:
            found.append(Placement(remark=remarks[rank]))
            continue
        mates = [other for other, its in enumerate(homes) if its == home]
        placement = place(topology, usable, home, mates.index(rank), len(mates))
        found.append(placement.replace(remark=remarks[rank]) if remarks[rank] else placement)
    return tuple(found)


def spread(workers: int, weights: Sequence[int]) -> list[int]:
    """Return for each worker the index of its part: blocks in order, in proportion to ``weights``."""
    total = sum(weights)
    found = []
    for worker in range(workers):
        at = worker * total // workers
        part = 0
        while at >= weights[part]:
            at -= weights[part]
            part += 1
        found.append(part)
    return found


def share(topology: Topology, allowed: Cpus, places: Sequence[Placement], workers: int, rank: int) -> int:
    """Return how many cores (SMT threads count once) are worker ``rank``'s own, at least 1.

    The cores that it may use are divided by the workers that may use some of them.
    """
    mine = (places[rank].cpus if places else frozenset()) or allowed
    rivals = sum(1 for other in places if (other.cpus or allowed) & mine) if places else workers
    return max(1, len(topology.cores(mine)) // rivals)


def _homes(
    topology: Topology, nodes: dict[int, Cpus], usable: dict[int, Cpus], workers: int, gpu_nodes: Sequence[int]
) -> tuple[list[int], list[str]]:
    """Return each worker's node (UNKNOWN: it must stay unbound) and what is to be said of it."""
    order = list(usable)
    homes = [order[part] for part in spread(workers, [len(topology.cores(usable[node])) for node in order])]
    remarks = [""] * workers
    for rank, node in enumerate(gpu_nodes[:workers]):
        if node in usable:
            homes[rank] = node
        elif node in nodes:
            homes[rank] = UNKNOWN
            remarks[rank] = f"none of the CPUs of node {node}, where its GPU is, may be used"
        elif len(nodes) > 1:  # with one node the kernel often says -1, and means that node
            remarks[rank] = "the machine does not tell at which node its GPU is"
    return homes, remarks


def _whole(_topology: Topology, usable: dict[int, Cpus], home: int, _index: int, _count: int) -> Placement:
    return Placement(usable[home], (home,))


def _socket(topology: Topology, usable: dict[int, Cpus], home: int, _index: int, _count: int) -> Placement:
    socket = topology.socket(min(usable[home]))
    nodes = tuple(node for node, cpus in usable.items() if topology.socket(min(cpus)) == socket)
    return Placement(frozenset().union(*(usable[node] for node in nodes)), nodes)


def _exclusive(topology: Topology, usable: dict[int, Cpus], home: int, index: int, count: int) -> Placement:
    """Share out whole cores; the first workers get one more if they do not divide evenly."""
    cores = topology.cores(usable[home])
    each, more = divmod(len(cores), count)
    if not each:
        remark = f"node {home} has {len(cores)} cores for {count} workers: some share one"
        return Placement(cores[index % len(cores)], (home,), remark)
    start = index * each + min(index, more)
    mine = cores[start : start + each + (1 if index < more else 0)]
    return Placement(frozenset().union(*mine), (home,))


def _complex(topology: Topology, usable: dict[int, Cpus], home: int, index: int, _count: int) -> Placement:
    complexes = topology.complexes(usable[home])
    if not complexes:
        return Placement(usable[home], (home,), "the machine does not tell which cores share a cache")
    return Placement(complexes[index % len(complexes)], (home,))
