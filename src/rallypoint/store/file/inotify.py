"""The kernel's word on what happens in folders (inotify, by ctypes), and whether it is to be had at all."""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rallypoint.model.reactor import Reactor

WRITTEN, CLOSED, MOVED, REMOVED = 0x2, 0x8, 0x80, 0x200
"""What may happen to a file: it is written, closed after writing, renamed to, removed."""
_SHARED = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "gluster", "fuse", "9p", "virtiofs", "orangefs")


class Inotify:
    """Calls ``changed`` from the loop when to a file in one of ``folders`` happens what stands with it.

    It says nothing of what other machines do. Raises OSError if the kernel has no more of it.
    """

    def __init__(self, reactor: Reactor, folders: Mapping[str, int], changed: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._reactor = reactor
        self._changed = changed
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        for folder, mask in folders.items():
            if libc.inotify_add_watch(self._fd, os.fsencode(folder), mask) < 0:
                error = ctypes.get_errno()
                os.close(self._fd)
                raise OSError(error, "inotify", folder)
        reactor.add_reader(self._fd, self._read)

    def close(self) -> None:
        if self._fd >= 0:
            self._reactor.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> None:
        try:
            while len(os.read(self._fd, 65536)) > 32768:
                pass
        except BlockingIOError:
            return
        self._changed()

    def __repr__(self) -> str:
        return f"<Inotify fd {self._fd}>"


def is_shared(folder: str) -> bool:
    """Say whether other machines may write in ``folder``, by the kind of its file system."""
    real = os.path.realpath(folder)
    best, kind = "", ""
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            _, place, what, *_ = line.split(" ")
            place = place.replace("\\040", " ")
            if len(place) >= len(best) and (real + "/").startswith(place.rstrip("/") + "/"):
                best, kind = place, what
    return kind.startswith(_SHARED)
