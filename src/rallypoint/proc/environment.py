"""What a worker is told: its environment (torchrun's contract) and its arguments. Pure functions."""

from __future__ import annotations

from rallypoint.model.errors import UsageError
from rallypoint.model.spec import STACK_SIGNAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.model.node import Assignment
    from rallypoint.model.spec import Spec

LOCAL_RANK_MACRO = "${local_rank}"
XPU = "xpu:"
"""Begins those of ``Spec.devices`` that are Intel's."""


def worker_environment(
    spec: Spec, assignment: Assignment, error_file: str, mark: str, hook_dir: str, cores: int = 0
) -> dict[str, str]:
    """Return the whole environment of a worker: the launcher's own, the contract's names over it.

    Whatever a platform or an outer launcher has set of those names is thereby replaced. Rallypoint
    adds RALLYPOINT_MARK (within a worker of another launcher: "outer:mark", see ``procfs.py``);
    with ``spec.hook`` also PYTHONPATH (the old one in RALLYPOINT_PYTHONPATH, absent if there was none)
    and RALLYPOINT_STACK_SIGNAL. ``cores`` is this worker's share, for ``omp`` "auto".
    Raises UsageError if there is no device for it.
    """
    env = {name: value for name, value in spec.environ.items() if name not in _OURS}
    env |= _contract(spec, assignment)
    env["TORCHELASTIC_ERROR_FILE"] = error_file
    env.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    if spec.omp == "auto":
        env.setdefault("OMP_NUM_THREADS", str(max(1, cores)))
    elif spec.nproc > 1 and spec.omp:
        env.setdefault("OMP_NUM_THREADS", spec.omp)
    if spec.virtual_local_rank:
        env["LOCAL_RANK"] = "0"
    if spec.virtual_local_rank or spec.devices is not None:
        env |= _device(spec, assignment.local_rank)
    outer = spec.environ.get("RALLYPOINT_MARK")
    env["RALLYPOINT_MARK"] = f"{outer}:{mark}" if outer else mark
    if spec.hook:
        env |= _hook(spec, hook_dir)
    return env


def worker_argv(spec: Spec, local_rank: int) -> list[str]:
    """Return the worker's command with ``${local_rank}`` replaced wherever it stands, and nothing else."""
    return [word.replace(LOCAL_RANK_MACRO, str(local_rank)) for word in spec.argv]


_OURS = frozenset(
    f"RALLYPOINT_{name}" for name in ("MARK", "PYTHONPATH", "STACK_SIGNAL", "PARKED", "PRELOAD", "SAFE_POINT", "TOKEN")
)


def _contract(spec: Spec, assignment: Assignment) -> dict[str, str]:
    return {
        "RANK": str(assignment.rank),
        "LOCAL_RANK": str(assignment.local_rank),
        "WORLD_SIZE": str(assignment.world_size),
        "LOCAL_WORLD_SIZE": str(assignment.local_world_size),
        "GROUP_RANK": str(assignment.group_rank),
        "GROUP_WORLD_SIZE": str(assignment.group_world_size),
        "ROLE_NAME": assignment.role,
        "ROLE_RANK": str(assignment.role_rank),
        "ROLE_WORLD_SIZE": str(assignment.role_world_size),
        # An IPv6 address goes without brackets: that is how torch's store client wants it.
        "MASTER_ADDR": assignment.master_addr.strip("[]"),
        "MASTER_PORT": str(assignment.master_port),
        "TORCHELASTIC_RESTART_COUNT": str(assignment.restart_count),
        "TORCHELASTIC_MAX_RESTARTS": str(spec.max_restarts),
        "TORCHELASTIC_RUN_ID": spec.run_id,
        "TORCHELASTIC_USE_AGENT_STORE": str(spec.agent_store),
    }


def _device(spec: Spec, local_rank: int) -> dict[str, str]:
    """Name the one device that this worker sees. (ROCm reads CUDA_VISIBLE_DEVICES too, as torch does here.)"""
    visible = spec.environ.get("CUDA_VISIBLE_DEVICES")
    if spec.devices is not None:
        where, devices = "--devices", spec.devices
    elif visible is not None:
        where, devices = "CUDA_VISIBLE_DEVICES", tuple(visible.split(","))
    else:
        return {"CUDA_VISIBLE_DEVICES": str(local_rank)}
    if local_rank >= len(devices):
        option = "--virtual-local-rank" if spec.virtual_local_rank else "--devices"
        allowed = f"{option} needs a device for each of the {spec.nproc} workers of this node"
        raise UsageError(where, ",".join(devices), allowed)
    device = devices[local_rank].strip()
    if device.startswith(XPU):
        return {"ZE_AFFINITY_MASK": device.removeprefix(XPU)}
    return {"CUDA_VISIBLE_DEVICES": device}


def _hook(spec: Spec, hook_dir: str) -> dict[str, str]:
    old = spec.environ.get("PYTHONPATH")
    added = {"PYTHONPATH": hook_dir, "RALLYPOINT_STACK_SIGNAL": str(int(STACK_SIGNAL))}
    if old is not None:
        added["RALLYPOINT_PYTHONPATH"] = old
    if old:  # an empty part would mean the current directory
        added["PYTHONPATH"] = f"{hook_dir}:{old}"
    return added
