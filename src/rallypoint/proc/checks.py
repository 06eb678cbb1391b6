"""Whether this machine is fit to run workers: each check looks, judges, and says how to mend it."""

from __future__ import annotations

import os
import resource

from rallypoint.model.value import Value
from rallypoint.proc.accelerators import nvidia_gpus, visible_gpus
from rallypoint.proc.evidence import ROOT, find_cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

OK, WARNING, FAILED = "ok", "warning", "failed"
MIB = 1 << 20
LEAST_MEMORY = 128 * MIB
"""Bytes for each worker: Python with numpy needs about half of it, with torch twice."""
LEAST_SHM, GOOD_SHM = 16 * MIB, 1024 * MIB
"""Bytes in /dev/shm: data loaders and NCCL share memory there, and a container has 64 MiB unless told otherwise."""
LEAST_FILES, GOOD_FILES = 256, 4096


class Check(Value):
    """What one check found: ``state`` is OK, WARNING or FAILED, ``mend`` says what to do unless it is OK."""

    name: str
    state: str
    words: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.words}"


def local_checks(nproc: int, devices: int | None, environ: Mapping[str, str], root: str = "/") -> list[Check]:
    """Look at memory, shared memory, open files and GPUs for ``nproc`` workers; ``devices``: how many GPUs they want.

    None: as many as there are.
    """
    return [memory(nproc, root), shared_memory(root), open_files(nproc), *gpus(nproc, devices, environ, root)]


def memory(nproc: int, root: str = "/") -> Check:
    """Look at the memory that is to be had, by the kernel's estimate and the cgroup's limit."""
    available = _available(os.path.join(root, "proc/meminfo"))
    cgroup = find_cgroup(ROOT, "/proc/self/cgroup") if root == "/" else None
    limit = cgroup.limit() if cgroup is not None else None
    if available is None:
        return Check("memory", WARNING, "the kernel does not say how much is available", "see /proc/meminfo")
    limited = limit is not None and limit < available
    least = min(available, limit) if limit is not None else available
    words = f"{amount(least)} {'allowed by the cgroup' if limited else 'available'} for {nproc} workers"
    if least < nproc * LEAST_MEMORY:
        mend = "start fewer workers (--nproc-per-node), end what else runs here, or allow the container more"
        return Check("memory", FAILED, f"{words}, {amount(nproc * LEAST_MEMORY)} are the least", mend)
    return Check("memory", OK, words)


def _available(path: str) -> int | None:
    try:
        with open(path, encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def shared_memory(root: str = "/") -> Check:
    """Look at what is free in /dev/shm."""
    path = os.path.join(root, "dev/shm")
    mend = "give the container more: docker run --shm-size=8g (or --ipc=host); Kubernetes: an emptyDir of medium Memory"
    try:
        facts = os.statvfs(path)
    except OSError as error:
        return Check("/dev/shm", FAILED, f"{(error.strerror or str(error)).lower()}", "mount a tmpfs there")
    if not os.access(path, os.W_OK):
        return Check("/dev/shm", FAILED, "it may not be written to", f"chmod 1777 {path}")
    free = facts.f_bavail * facts.f_frsize
    if free < LEAST_SHM:
        return Check("/dev/shm", FAILED, f"{amount(free)} free, {amount(LEAST_SHM)} are the least", mend)
    if free < GOOD_SHM:
        return Check("/dev/shm", WARNING, f"{amount(free)} free: too little for many data loaders", mend)
    return Check("/dev/shm", OK, f"{amount(free)} free")


def open_files(nproc: int) -> Check:
    """Look at how many files a process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    mend = f"ulimit -n {most}, before the launcher starts"
    if soft == resource.RLIM_INFINITY or soft >= GOOD_FILES:
        return Check("open files", OK, f"{'any number' if soft == resource.RLIM_INFINITY else soft} for each process")
    least = LEAST_FILES + 16 * nproc
    state, needed = (FAILED, least) if soft < least else (WARNING, GOOD_FILES)
    return Check("open files", state, f"{soft} for each process, {needed} are needed", mend)


def gpus(nproc: int, devices: int | None, environ: Mapping[str, str], root: str = "/") -> list[Check]:
    """Compare the GPUs that programs will see with those that the machine has, and with those that are wanted."""
    present = len(nvidia_gpus(root, nvml=False))
    answering = nvidia_gpus(root, nvml=root == "/")
    visible = len(visible_gpus(answering, environ.get("CUDA_VISIBLE_DEVICES")))
    wanted = devices if devices is not None else 0
    if not present and not wanted:
        return [Check("GPUs", OK, "none here")]
    words = f"{visible} visible of {max(present, len(answering))}"
    if len(answering) < present:
        mend = "one is off the bus, or its driver hangs: nvidia-smi, dmesg | grep -i xid; then restart the machine"
        return [Check("GPUs", FAILED, f"{len(answering)} answer of {present} that are here", mend)]
    if visible < wanted:
        mend = "ask for fewer (--devices, --nproc-per-node), or see to CUDA_VISIBLE_DEVICES and the container's devices"
        return [Check("GPUs", FAILED, f"{words}, {wanted} are wanted", mend)]
    if 0 < visible < nproc:
        return [
            Check("GPUs", WARNING, f"{words} for {nproc} workers: some will share", "start as many workers as GPUs")
        ]
    return [Check("GPUs", OK, words)]


def amount(size: int) -> str:
    """Write a number of bytes for people."""
    for unit, name in ((1 << 30, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"
