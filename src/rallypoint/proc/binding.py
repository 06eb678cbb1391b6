"""Bind a worker before its first instruction: the launcher's thread takes the place on, starts it, and goes back.

Affinity and memory policy are handed on by fork and exec, so there is no moment at which the worker runs
elsewhere, no helper program and no code in the worker.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rallypoint.proc.affinity import Placement

# Numbers of the kernel's headers; set_mempolicy has no wrapper in the C library.
_CALLS = {
    "x86_64": (238, 239),
    "aarch64": (237, 236),
    "riscv64": (237, 236),
    "ppc64le": (261, 260),
    "s390x": (270, 269),
}
_PREFERRED, _PREFERRED_MANY = 1, 5
_MASK_BITS = 1024  # the kernel's largest MAX_NUMNODES


@contextmanager
def bound(place: Placement, warn: Callable[[str], None]) -> Iterator[None]:
    """What this thread starts within has ``place``. What cannot be had is told to ``warn``, and left as it is."""
    if not place.cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, place.cpus)
    except OSError as error:
        warn(f"CPUs cannot be bound: {error.strerror}")
        yield
        return
    policy = MemoryPolicy()
    try:
        policy.prefer(place.nodes, warn)
        yield
    finally:
        policy.restore()
        os.sched_setaffinity(0, before)


class MemoryPolicy:
    """This thread's memory policy. Nodes are preferred, not enforced: full memory is worse elsewhere than slower."""

    def __init__(self) -> None:
        self._before: tuple[int, list[int]] | None = None

    def prefer(self, nodes: tuple[int, ...], warn: Callable[[str], None]) -> None:
        """Take memory from ``nodes`` first from now on; told to ``warn`` if the kernel will not."""
        if not nodes:
            return
        try:
            self._before = _get()
            _set(_PREFERRED if len(nodes) == 1 else _PREFERRED_MANY, nodes)
        except OSError as error:
            self._before = None
            warn(f"memory stays where it is: set_mempolicy is refused ({error.strerror})")

    def restore(self) -> None:
        """Put back what was there before."""
        if self._before is not None:
            mode, nodes = self._before
            self._before = None
            _set(mode, tuple(nodes))

    def __repr__(self) -> str:
        return "<MemoryPolicy as it was>" if self._before is None else f"<MemoryPolicy changed from {self._before}>"


def _get() -> tuple[int, list[int]]:
    import ctypes

    mode, mask = ctypes.c_int(), (ctypes.c_ubyte * (_MASK_BITS // 8))()
    _call(1, ctypes.byref(mode), mask, ctypes.c_ulong(_MASK_BITS), None, ctypes.c_ulong(0))
    return mode.value, [bit for bit in range(_MASK_BITS) if mask[bit // 8] >> bit % 8 & 1]


def _set(mode: int, nodes: tuple[int, ...]) -> None:
    import ctypes

    mask = (ctypes.c_ubyte * (_MASK_BITS // 8))()
    for node in nodes:
        mask[node // 8] |= 1 << node % 8
    # The kernel looks at one bit less than it is told.
    _call(0, ctypes.c_int(mode), mask if nodes else None, ctypes.c_ulong(_MASK_BITS + 1 if nodes else 0))


def _call(which: int, *arguments: object) -> None:
    """Call set_mempolicy (0) or get_mempolicy (1). Raises OSError."""
    import ctypes
    import errno

    numbers = _CALLS.get(os.uname().machine)
    if numbers is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    library = ctypes.CDLL(None, use_errno=True)
    if library.syscall(ctypes.c_long(numbers[which]), *arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
