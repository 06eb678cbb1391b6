"""Where the workers of this node run: their CPUs (``--numa-binding``) and their share of cores (``--omp auto``)."""

from __future__ import annotations

import os
from contextlib import contextmanager

from rallypoint.proc.accelerators import nvidia_gpus, visible_gpus
from rallypoint.proc.affinity import placements, share
from rallypoint.proc.binding import bound
from rallypoint.proc.topology import UNKNOWN, Topology

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rallypoint.model.spec import Spec
    from rallypoint.proc.affinity import Placement


class Places:
    """Worked out once, at the first use, below ``root``. What cannot be had is told to ``warn``, once."""

    def __init__(self, spec: Spec, warn: Callable[[str], None], root: str = "/") -> None:
        self._spec = spec
        self._warn = warn
        self._root = root
        self._allowed = frozenset(os.sched_getaffinity(0))
        self._topology = Topology(os.path.join(root, "sys"))
        self._places: tuple[Placement, ...] | None = None
        self._said: set[str] = set()

    @contextmanager
    def of(self, local_rank: int) -> Iterator[None]:
        """What is started within runs at the place of worker ``local_rank``."""
        if self._spec.numa is None:
            yield
            return
        places = self._all()
        reasons = [place.remark for place in places if place.remark]
        with bound(places[local_rank], reasons.append):
            yield
        if new := [reason for reason in dict.fromkeys(reasons) if reason not in self._said]:
            self._said.update(new)
            self._warn(f"--numa-binding {self._spec.numa}: {'; '.join(new)}")

    def cores(self, local_rank: int) -> int:
        """How many cores are worker ``local_rank``'s own."""
        return share(self._topology, self._allowed, self._all(), self._spec.nproc, local_rank)

    def _all(self) -> tuple[Placement, ...]:
        if self._places is None:
            mode = self._spec.numa
            self._places = (
                placements(mode, self._topology, self._allowed, self._spec.nproc, self._gpu_nodes()) if mode else ()
            )
        return self._places

    def _gpu_nodes(self) -> list[int]:
        """The node of each worker's GPU, as far as there are GPUs."""
        gpus = nvidia_gpus(self._root, nvml=self._root == "/")
        if self._spec.devices is None:
            visible = [gpu for _, gpu in visible_gpus(gpus, self._spec.environ.get("CUDA_VISIBLE_DEVICES"))]
        else:
            named = [visible_gpus(gpus, device) for device in self._spec.devices]
            visible = [found[0][1] for found in named if found]
        return [self._topology.node_of_pci(gpu.address) if gpu.address else UNKNOWN for gpu in visible]

    def __repr__(self) -> str:
        return f"<Places {self._spec.numa or 'anywhere'}, {self._topology!r}>"
