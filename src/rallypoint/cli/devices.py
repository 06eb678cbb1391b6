"""How many workers ``--nproc-per-node`` means on this machine, and which of ``--devices`` each gets.

No device is opened: a context would cost memory on each of them.
"""

from __future__ import annotations

import os

from rallypoint.cli.convert import whole
from rallypoint.model.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rallypoint.cli.parse import Given

_ALLOWED = "it is a number, 1 or more, or one of auto, cpu, gpu, xpu"
_LIST = "it is a list of devices, as 1,3,5 or GPU-5ad1e2c3-...,MIG-..."


def share_out(given: Given, environ: Mapping[str, str], root: str = "/") -> tuple[int, tuple[str, ...] | None]:
    """Return the number of workers, and with ``--devices`` the name of each one's device. Raises UsageError.

    Numbers count the devices that are visible to the launcher, as a program that it started would.
    """
    where, text = given.where("nproc_per_node"), given.text("nproc_per_node")
    if not given.text("devices"):
        return worker_count(where, text, environ, root), None
    word = text.strip()
    visible = _visible_xpus(environ, root) if word == "xpu" else _visible_gpus(environ, root)
    devices = tuple(_device(given, entry.strip(), visible) for entry in given.text("devices").split(","))
    if not given.said("nproc_per_node") or word in ("gpu", "xpu", "auto"):
        return len(devices), devices
    nproc = worker_count(where, text, environ, root)
    if nproc > len(devices):
        raise given.wrong("devices", f"{where} {word} needs {nproc} devices, one for each worker")
    return nproc, devices


def worker_count(where: str, text: str, environ: Mapping[str, str], root: str = "/") -> int:
    """Return the number that ``text`` means. Raises UsageError, also for gpu and xpu where there is none."""
    word = text.strip()
    if word == "cpu":
        return _cores()
    if word in ("gpu", "xpu", "auto"):
        return _accelerators(where, word, environ, root)
    try:
        return whole(where, word, 1)
    except UsageError:
        raise UsageError(where, text, _ALLOWED) from None


def gpu_count(environ: Mapping[str, str], root: str = "/") -> int:
    """Count NVIDIA GPUs as CUDA_VISIBLE_DEVICES limits them."""
    from rallypoint.proc.accelerators import nvidia_gpus, visible_gpus

    return len(visible_gpus(nvidia_gpus(root, nvml=root == "/"), environ.get("CUDA_VISIBLE_DEVICES")))


def _accelerators(where: str, word: str, environ: Mapping[str, str], root: str) -> int:
    from rallypoint.proc.accelerators import xpu_count

    count = gpu_count(environ, root) if word != "xpu" else 0
    if not count and word != "gpu":
        count = xpu_count(environ, root)
    if count:
        return count
    if word == "auto":
        return _cores()
    variable, name = ("ZE_AFFINITY_MASK", "XPU") if word == "xpu" else ("CUDA_VISIBLE_DEVICES", "GPU")
    there = xpu_count({}, root) if word == "xpu" else gpu_count({}, root)
    none = "no discrete Intel GPU" if word == "xpu" else "no NVIDIA GPU"
    reason = f"{variable}={environ[variable]} leaves none" if there else f"this machine has {none}"
    raise UsageError(where, word, f"no {name} is visible here ({reason}); give a number")


def _visible_gpus(environ: Mapping[str, str], root: str) -> list[str] | None:
    """Return what CUDA would call the devices that it shows; None if nobody knows."""
    from rallypoint.proc.accelerators import nvidia_gpus, visible_gpus

    mask = environ.get("CUDA_VISIBLE_DEVICES")
    gpus = nvidia_gpus(root, nvml=root == "/")
    if gpus:
        return [name for name, _ in visible_gpus(gpus, mask)]
    return [entry.strip() for entry in mask.split(",")] if mask is not None else None


def _visible_xpus(environ: Mapping[str, str], root: str) -> list[str]:
    from rallypoint.proc.accelerators import xpu_count
    from rallypoint.proc.environment import XPU

    mask = environ.get("ZE_AFFINITY_MASK")
    names = mask.split(",") if mask is not None else map(str, range(xpu_count(environ, root)))
    return [XPU + name.strip() for name in names]


def _device(given: Given, entry: str, visible: list[str] | None) -> str:
    if entry.startswith(("GPU-", "MIG-")):
        return entry
    if not (entry.isascii() and entry.isdigit() and len(entry) < 6):
        raise given.wrong("devices", _LIST)
    if visible is None:
        return entry
    if int(entry) >= len(visible):
        raise given.wrong("devices", f"there is no device {entry}: {len(visible)} are visible here, from 0")
    return visible[int(entry)]


def _cores() -> int:
    return len(os.sched_getaffinity(0))
