"""Which CPUs workers are bound to, by torch's names.

No ``numactl`` is needed, workers without GPUs are bound too, and only CPUs that the launcher may use are
given out. See ``rallypoint.proc.affinity``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["AffinityMode", "NumaOptions"]


class AffinityMode(str, Enum):  # noqa: UP042  its str() is torch's
    """Where a worker runs, seen from its GPU; without GPUs the workers are spread over the nodes."""

    NODE = "node"
    """On all CPUs of the NUMA node of its GPU. If in doubt, take this one."""
    SOCKET = "socket"
    """On all CPUs of all nodes of the socket of its GPU."""
    EXCLUSIVE = "exclusive"
    """On cores of the node that no other worker has: they are divided evenly among its workers."""
    CORE_COMPLEX = "core-complex"
    """On cores of the node that share a last-level cache; a different one for each worker while there are."""


@dataclass(frozen=True)
class NumaOptions:
    """An affinity mode. What cannot be bound is said in a warning and runs unbound, whatever the second field says."""

    affinity_mode: AffinityMode
    should_fall_back_if_binding_fails: bool = False
