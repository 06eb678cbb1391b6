"""Word why a process does not end although it was killed."""

from __future__ import annotations

from rallypoint.proc import procfs


def stuck_words(pid: int) -> str:
    """Say what a process that SIGKILL does not end is doing: one clause, for a message."""
    process = procfs.read(pid)
    if process is None or not process.alive:
        return f"pid {pid} is gone"
    if process.state != "D":
        return f"pid {pid} is in state {process.state} and does not end"
    where = _waiting_in(pid)
    return f"pid {pid} is in uninterruptible sleep (state D{where}): it waits for a device or a file system"


def _waiting_in(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/wchan") as file:
            name = file.read().strip()
    except OSError:
        return ""
    return f" in {name}" if name not in {"", "0"} else ""
