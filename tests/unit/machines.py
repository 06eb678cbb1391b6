"""Machines as sysfs shows them: real shapes, written down as a few numbers and built as trees of files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Machine:
    """``nodes`` per socket times ``sockets``; ``cores`` per node in ``complexes`` L3 domains; ``smt`` threads a core.

    As Linux numbers them: first one thread of every core, then the second threads. ``interleaved``: as some
    firmware does, cores go round the nodes. ``offline`` CPUs, ``memory_nodes`` without CPUs, ``gpus``: the node
    of each (-1 where the firmware does not say), in the order of their PCI addresses.
    """

    sockets: int = 1
    nodes: int = 1
    cores: int = 4
    complexes: int = 1
    smt: int = 1
    offline: tuple[int, ...] = ()
    memory_nodes: int = 0
    gpus: tuple[int, ...] = ()
    interleaved: bool = False
    caches: bool = True
    node_folder: bool = True
    mig: tuple[str, ...] = field(default=())

    def build(self, root: Path) -> Path:
        cpu = root / "sys/devices/system/cpu"
        total = self.sockets * self.nodes * self.cores
        count = total * self.smt
        write(cpu / "possible", ranges(range(count)))
        write(cpu / "online", ranges(self.online))
        for number in self.online:
            core = number % total
            node = self.node_of(core)
            siblings = [c for c in self.online if c % total == core]
            write(cpu / f"cpu{number}/topology/thread_siblings_list", ranges(siblings))
            write(cpu / f"cpu{number}/topology/physical_package_id", str(node // self.nodes))
            if self.caches:
                same = [c for c in self.online if self.complex_of(c % total) == self.complex_of(core)]
                for index, (level, kind, sharing) in enumerate(
                    [
                        (1, "Data", siblings),
                        (1, "Instruction", siblings),
                        (2, "Unified", siblings),
                        (3, "Unified", same),
                    ]
                ):
                    folder = cpu / f"cpu{number}/cache/index{index}"
                    write(folder / "level", str(level))
                    write(folder / "type", kind)
                    write(folder / "shared_cpu_list", ranges(sharing))
        if self.node_folder:
            self._nodes(root / "sys/devices/system/node", total)
        self._gpus(root)
        return root

    @property
    def online(self) -> list[int]:
        count = self.sockets * self.nodes * self.cores * self.smt
        return [c for c in range(count) if c not in self.offline]

    def node_of(self, core: int) -> int:
        count = self.sockets * self.nodes
        return core % count if self.interleaved else core // self.cores

    def complex_of(self, core: int) -> tuple[int, int]:
        place = core // (self.sockets * self.nodes) if self.interleaved else core % self.cores
        return self.node_of(core), place * self.complexes // self.cores

    def cpus(self, node: int) -> set[int]:
        total = self.sockets * self.nodes * self.cores
        return {c for c in self.online if self.node_of(c % total) == node}

    def _nodes(self, folder: Path, total: int) -> None:
        count = self.sockets * self.nodes
        for name in ("possible", "online"):
            write(folder / name, ranges(range(count + self.memory_nodes)))
        for node in range(count):
            write(folder / f"node{node}/cpulist", ranges(self.cpus(node)))
        for node in range(count, count + self.memory_nodes):
            write(folder / f"node{node}/cpulist", "")

    def _gpus(self, root: Path) -> None:
        for index, node in enumerate(self.gpus):
            address = f"0000:{0x10 + 8 * index:02x}:00.0"
            write(root / f"sys/bus/pci/devices/{address}/numa_node", str(node))
            text = f"Model: \t\t NVIDIA\nGPU UUID: \t {uuid(index)}\nDevice Minor: \t {index}\n"
            write(root / f"proc/driver/nvidia/gpus/{address}/information", text)
            write(root / f"dev/nvidia{index}", "")


def uuid(index: int) -> str:
    return f"GPU-{index}{index}aa-bb"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def ranges(cpus) -> str:
    """Written apart from the code under test: it has to read it."""
    found, cpus = [], sorted(cpus)
    while cpus:
        run = [cpus.pop(0)]
        while cpus and cpus[0] == run[-1] + 1:
            run.append(cpus.pop(0))
        found.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(found)


LAPTOP = Machine(cores=8, smt=2)
DGX_A100 = Machine(sockets=2, nodes=4, cores=16, complexes=4, smt=2, gpus=(3, 3, 1, 1, 7, 7, 5, 5))
DGX_H100 = Machine(sockets=2, nodes=1, cores=56, complexes=1, smt=2, gpus=(0, 0, 0, 0, 1, 1, 1, 1))
EPYC = Machine(sockets=1, nodes=4, cores=16, complexes=2, smt=2, gpus=(0, 1, 2, 3))
TWO_SOCKETS = Machine(sockets=2, cores=8, smt=2)
UNEVEN = Machine(sockets=2, cores=12, smt=2, gpus=(0, 0, 0, 1))
INTERLEAVED = Machine(sockets=2, cores=8, smt=2, interleaved=True, gpus=(0, 1))
OFFLINE = Machine(sockets=2, cores=8, smt=2, complexes=2, offline=(1, 2, 17, 24, 25, 26), gpus=(0, 0, 1, 1))
NO_SMT = Machine(sockets=2, cores=18, gpus=(0, 1))
GRACE = Machine(sockets=1, nodes=1, cores=72, memory_nodes=8, gpus=(0,))
SHAPES = {
    "laptop": LAPTOP, "dgx_a100": DGX_A100, "dgx_h100": DGX_H100, "epyc": EPYC, "two_sockets": TWO_SOCKETS,
    "uneven": UNEVEN, "interleaved": INTERLEAVED, "offline": OFFLINE, "no_smt": NO_SMT, "grace": GRACE,
}  # fmt: skip
