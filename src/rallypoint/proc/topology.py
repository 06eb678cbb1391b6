"""The machine's shape as sysfs tells it: NUMA nodes, sockets, cores, caches, and where PCI devices hang.

Everything is read on demand below a root that tests replace. What a machine (a virtual one, a container)
does not tell reads as the simplest shape: one node, one socket, a core for each CPU, no caches.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Cpus = frozenset[int]

UNKNOWN = -1
"""What the kernel says of a PCI device whose node it was not told."""


class Topology:
    """Reads ``root``/devices/system. CPUs that are offline are in none of the sets."""

    def __init__(self, root: str = "/sys") -> None:
        self._root = root
        self._cpu = f"{root}/devices/system/cpu"
        self._node = f"{root}/devices/system/node"
        self._nodes: dict[int, Cpus] | None = None
        self._cores: dict[int, Cpus] = {}
        self._complexes: dict[int, Cpus] = {}

    def online(self) -> Cpus:
        """The CPUs that run."""
        return parse_cpus(_read(f"{self._cpu}/online"))

    def nodes(self) -> dict[int, Cpus]:
        """Node -> its CPUs, in order of the nodes; nodes of memory alone are left out."""
        if self._nodes is None:
            online = self.online()
            numbers = parse_cpus(_read(f"{self._node}/online") or _read(f"{self._node}/possible"))
            found = {n: parse_cpus(_read(f"{self._node}/node{n}/cpulist")) for n in sorted(numbers)}
            self._nodes = {n: cpus & online if online else cpus for n, cpus in found.items() if cpus}
            if not any(self._nodes.values()):
                self._nodes = {0: online}
        return self._nodes

    def socket(self, cpu: int) -> int:
        """The number of the socket in which ``cpu`` sits; 0 if that is not told."""
        return _number(_read(f"{self._cpu}/cpu{cpu}/topology/physical_package_id"), 0)

    def core(self, cpu: int) -> Cpus:
        """The CPUs (SMT threads) of the core to which ``cpu`` belongs, itself among them."""
        if cpu not in self._cores:
            folder = f"{self._cpu}/cpu{cpu}/topology"
            siblings = parse_cpus(_read(f"{folder}/thread_siblings_list") or _read(f"{folder}/core_cpus_list")) | {cpu}
            self._cores.update(dict.fromkeys(siblings, siblings))
        return self._cores[cpu]

    def complex(self, cpu: int) -> Cpus:
        """The CPUs that share the last cache with ``cpu``; empty if caches are not told."""
        if cpu not in self._complexes:
            folder = f"{self._cpu}/cpu{cpu}/cache"
            best, sharing = -1, ""
            for name in _list(folder):
                level = _number(_read(f"{folder}/{name}/level"), -1)
                if level > best and _read(f"{folder}/{name}/type") in {"Unified", "Data"}:
                    best, sharing = level, _read(f"{folder}/{name}/shared_cpu_list")
            cpus = parse_cpus(sharing)
            self._complexes.update(dict.fromkeys(cpus or {cpu}, cpus))  # read once for all that share it
        return self._complexes[cpu]

    def cores(self, cpus: Iterable[int]) -> list[Cpus]:
        """Group ``cpus`` by core; the lowest CPU of the whole core decides the order."""
        return list(_grouped(cpus, self.core).values())

    def complexes(self, cpus: Iterable[int]) -> list[Cpus]:
        """Group ``cpus`` by last cache, the largest group first, then by lowest CPU; [] if caches are not told."""
        groups = _grouped((cpu for cpu in cpus if self.complex(cpu)), self.complex)
        return sorted(groups.values(), key=lambda group: -len(group))

    def node_of_pci(self, address: str) -> int:
        """The node at which a PCI device ("0000:3b:00.0") hangs; UNKNOWN if the kernel does not know."""
        return _number(_read(f"{self._root}/bus/pci/devices/{address.lower()}/numa_node"), UNKNOWN)

    def __repr__(self) -> str:
        shape = ", ".join(f"{node}: {format_cpus(cpus)}" for node, cpus in self.nodes().items())
        return f"<Topology of {self._root}: {shape}>"


def parse_cpus(text: str) -> Cpus:
    """Read the kernel's list format, "0-2,4"; what is not that format is no CPU."""
    found: set[int] = set()
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        if low.isdigit() and (high.isdigit() or not high):
            found.update(range(int(low), int(high or low) + 1))
    return frozenset(found)


def format_cpus(cpus: Iterable[int]) -> str:
    """Write the kernel's list format."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][1] == cpu - 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in parts)


def _grouped(cpus: Iterable[int], key: Callable[[int], Cpus]) -> dict[int, Cpus]:
    groups: dict[int, set[int]] = {}
    for cpu in cpus:
        groups.setdefault(min(key(cpu)), set()).add(cpu)
    return {lowest: frozenset(groups[lowest]) for lowest in sorted(groups)}


def _number(text: str, otherwise: int) -> int:
    try:
        return int(text)
    except ValueError:
        return otherwise


def _list(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.startswith("index") and name[5:].isdigit())
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
