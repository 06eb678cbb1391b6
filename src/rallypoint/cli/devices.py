"""How many workers ``--nproc-per-node`` means on this machine. No driver library is loaded, no device is opened."""

from __future__ import annotations

import os

from rallypoint.cli.convert import whole
from rallypoint.model.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_ALLOWED = "it is a number, 1 or more, or one of auto, cpu, gpu"


def worker_count(where: str, text: str, environ: Mapping[str, str], dev: str = "/dev") -> int:
    """Return the number that ``text`` means. Raises UsageError, also for gpu where there is none."""
    word = text.strip()
    if word == "cpu":
        return _cores()
    if word in ("gpu", "auto"):
        count = gpu_count(environ, dev)
        if count:
            return count
        if word == "auto":
            return _cores()
        mask = environ.get("CUDA_VISIBLE_DEVICES")
        reason = f"there is no {dev}/nvidia0" if mask is None else f"CUDA_VISIBLE_DEVICES={mask} leaves none"
        raise UsageError(where, text, f"no GPU is visible here ({reason}); give a number")
    if word == "xpu":
        raise UsageError(where, text, "counting XPUs is not available in this version; give their number")
    try:
        return whole(where, word, 1)
    except UsageError:
        raise UsageError(where, text, _ALLOWED) from None


def gpu_count(environ: Mapping[str, str], dev: str = "/dev") -> int:
    """Count NVIDIA device files, as CUDA_VISIBLE_DEVICES limits them (up to its first entry that is none, as CUDA)."""
    try:
        present = sum(name.startswith("nvidia") and name[6:].isdigit() for name in os.listdir(dev))
    except OSError:
        return 0
    mask = environ.get("CUDA_VISIBLE_DEVICES")
    if mask is None or not present:
        return present
    visible: list[str] = []
    for entry in map(str.strip, mask.split(",")):
        known = int(entry) < present if entry.isascii() and entry.isdigit() else entry.startswith(("GPU-", "MIG-"))
        if not known or entry in visible:
            break
        visible.append(entry)
    return len(visible)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
