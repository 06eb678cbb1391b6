"""What the kernel says of a process."""

from __future__ import annotations

from rallypoint.proc import procfs

__all__ = ["is_uninterruptible_state", "read_proc_state"]


def read_proc_state(pid: int) -> str | None:
    """Return the state of ``pid`` as one letter (R, S, D, Z...), None if there is no such process."""
    process = procfs.read(pid)
    return process.state if process else None


def is_uninterruptible_state(state: str | None) -> bool:
    """Say whether ``state`` is one from which not even SIGKILL wakes a process."""
    return state is not None and state.startswith("D")
