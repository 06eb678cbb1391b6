"""What workers are to be run, how they fare, what came of them."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rallypoint.elastic.multiprocessing.errors import ProcessFailure
    from rallypoint.elastic.numa import NumaOptions
    from rallypoint.elastic.rendezvous import RendezvousHandler

__all__ = ["ElasticAgent", "RunResult", "Worker", "WorkerGroup", "WorkerSpec", "WorkerState"]

DEFAULT_ROLE = "default"


@dataclass
class WorkerSpec:
    """The workers of this node: ``local_world_size`` times ``entrypoint(*args)``.

    ``entrypoint`` is a function or a command; ``fn`` is its old name. ``${local_rank}`` in an argument becomes
    the worker's. ``max_restarts`` counts for the whole run. ``monitor_interval`` (seconds) is how often
    somebody else's handler is asked for newcomers; nothing else polls. ``master_addr`` and ``master_port``
    override what such a handler says of the workers' store. Raises AssertionError, as torch, for what cannot be.
    """

    role: str
    local_world_size: int
    rdzv_handler: RendezvousHandler
    fn: Callable[..., Any] | None = None
    entrypoint: Callable[..., Any] | str | None = None
    args: tuple[Any, ...] = ()
    max_restarts: int = 3
    monitor_interval: float = 0.1
    master_port: int | None = None
    master_addr: str | None = None
    local_addr: str | None = None
    event_log_handler: str = "null"
    numa_options: NumaOptions | None = None
    duplicate_stdout_filters: list[str] | None = None
    duplicate_stderr_filters: list[str] | None = None
    virtual_local_rank: bool = False

    def __post_init__(self) -> None:
        if self.local_world_size <= 0:
            raise AssertionError(f"local_world_size is {self.local_world_size}; at least one worker is needed")
        if self.monitor_interval <= 0:
            raise AssertionError(f"monitor_interval is {self.monitor_interval}; it is a time in seconds above 0")
        if self.fn:
            import warnings

            warnings.warn("WorkerSpec.fn is deprecated: say entrypoint", DeprecationWarning, stacklevel=3)
            self.entrypoint = self.fn
        if not self.entrypoint:
            raise AssertionError("the entrypoint is missing; it is a function, or the path of a command")

    def get_entrypoint_name(self) -> str:
        """Return the function's qualified name, or the command's last part."""
        if isinstance(self.entrypoint, str):
            return os.path.basename(self.entrypoint)
        return getattr(self.entrypoint, "__qualname__", repr(self.entrypoint))


class Worker:
    """One worker. ``id`` is its pid; ranks and sizes are -1 until a round is formed."""

    __slots__ = ["global_rank", "id", "local_rank", "role_rank", "role_world_size", "world_size"]

    def __init__(
        self,
        local_rank: int,
        global_rank: int = -1,
        role_rank: int = -1,
        world_size: int = -1,
        role_world_size: int = -1,
    ) -> None:
        self.id: Any = None
        self.local_rank = local_rank
        self.global_rank = global_rank
        self.role_rank = role_rank
        self.world_size = world_size
        self.role_world_size = role_world_size

    def __str__(self) -> str:
        own = f"local_rank={self.local_rank},global_rank={self.global_rank},role_rank={self.role_rank}"
        return f"{own},world_size={self.world_size},role_world_size={self.role_world_size}"

    def __repr__(self) -> str:
        return str(self)


class WorkerState(str, Enum):  # noqa: UP042  str() of a member is torch's too
    """How the workers of a node fare, all as one.

    INIT: not started. HEALTHY: running. UNHEALTHY: running, and at least one has failed. STOPPED: stopped, to be
    started again. SUCCEEDED and FAILED: the end. UNKNOWN: nobody can tell (never said here).
    """

    UNKNOWN = "UNKNOWN"
    INIT = "INIT"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @staticmethod
    def is_running(state: WorkerState) -> bool:
        """Whether workers exist in this state."""
        return state in (WorkerState.HEALTHY, WorkerState.UNHEALTHY)


class WorkerGroup:
    """The workers of ``spec`` on this node, as they are now. Written by the agent only."""

    __slots__ = [
        "group_rank",
        "group_world_size",
        "master_addr",
        "master_port",
        "spec",
        "state",
        "store",
        "workers",
    ]

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.workers = [Worker(local_rank=rank) for rank in range(spec.local_world_size)]
        self.store: Any = None
        self.group_rank: int | None = None
        self.group_world_size: int | None = None
        self.master_addr: str | None = None
        self.master_port: int | None = None
        self.state = WorkerState.INIT

    def __repr__(self) -> str:
        return f"<WorkerGroup {self.spec.role} {self.state.value}: {self.workers}>"


@dataclass
class RunResult:
    """How it ended here. By global rank: what this node's workers returned (None for a command), or what failed."""

    state: WorkerState
    return_values: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, ProcessFailure] = field(default_factory=dict)

    def is_failed(self) -> bool:
        """Whether workers failed and no restart was left."""
        return self.state == WorkerState.FAILED


class ElasticAgent(abc.ABC):
    """Runs the workers of one node and has them meet those of the others."""

    @abc.abstractmethod
    def run(self, role: str = DEFAULT_ROLE) -> RunResult:
        """Run the workers to their end, with restarts. Raises only for what is no worker's failure."""

    @abc.abstractmethod
    def get_worker_group(self, role: str = DEFAULT_ROLE) -> WorkerGroup:
        """Return the workers as they are now; they may change at any time."""
