"""The journal: a file of transactions, a line of JSON each, appended under a lock, read by everybody.

Locking rule: who appends holds an exclusive lock (fcntl, of the open file description) on the file ``lock``, and has
read everything before. The file system must have such locks for all machines that share it: local ones, NFS 4 (NFS 3
with lockd), Lustre mounted with ``flock``, CephFS and GPFS do. Reading needs no lock: only whole lines count.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct

from rallypoint.model.errors import ProtocolError
from rallypoint.store.file.replica import Replica

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.store.api import Entry
    from rallypoint.store.file.replica import Change

SMALLEST = 1 << 20
"""Bytes from which on a journal may be worth writing anew."""
MODE = 0o600


def lock(fd: int) -> bool:
    """Take the exclusive lock of an open file unless another has it. Raises OSError where there are no locks."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def unlock(fd: int) -> None:
    """Give the lock back."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK))


def is_locked(fd: int) -> bool:
    """Say whether another has a lock on an open file."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK))
    return bool(struct.unpack_from("h", answer)[0] != fcntl.F_UNLCK)


def _flock(kind: int) -> bytes:
    """Return a ``struct flock`` for a whole file (64-bit Linux; ``l_pid`` has to be 0)."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)


class Journal:
    """The journal in ``folder``, and the replica that it has led to. All raise OSError; nothing blocks but the disk."""

    def __init__(self, folder: str) -> None:
        self.replica = Replica()
        self._path = os.path.join(folder, "journal")
        self._folder = folder
        self._lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        self._fd = -1
        self._read = 0  # bytes
        self._whole = 0  # bytes of the first transaction

    def lock(self) -> bool:
        """Try to become the one that writes."""
        return lock(self._lock)

    def unlock(self) -> None:
        unlock(self._lock)

    def age(self, now: float) -> float:
        """Return the seconds that nobody has written for, ``now`` being the file server's time."""
        return now - os.fstat(self._fd).st_mtime if self._fd >= 0 else 0.0

    def catch_up(self) -> list[Entry]:
        """Read what is new; return what watches are to be told. Raises ProtocolError for what is no journal."""
        if self._moved():
            before, self.replica = self.replica, Replica()
            self._open()
            self._take()
            return self.replica.since(before)
        return self._take() if self._fd >= 0 else []

    def _take(self) -> list[Entry]:
        told: list[Entry] = []
        while data := os.pread(self._fd, max(1 << 20, self._size() - self._read), self._read):
            end = data.rfind(b"\n") + 1
            if not end:
                break
            self._read += end
            for line in data[:end].splitlines():
                told += self.replica.apply(self._parse(line))
        return told

    def append(self, changes: list[Change]) -> list[Entry]:
        """Write a transaction, the lock being held and everything read; return what watches are to be told."""
        if self._fd < 0:
            self._begin([["whole", epoch := int.from_bytes(os.urandom(4), "big") << 16, epoch], *changes])
            return self.catch_up()
        line = _line(changes)
        os.ftruncate(self._fd, self._read)  # half a line, of one who died over it, would spoil ours
        written = 0
        try:
            while written < len(line):
                written += os.pwrite(self._fd, line[written:], self._read + written)
        except OSError:
            os.ftruncate(self._fd, self._read)
            raise
        told = self.catch_up()
        if self._read > SMALLEST and self._read > 4 * self._whole:
            self.shorten()
        return told

    def shorten(self) -> None:
        """Write down what is there instead of how it came to be; the lock is ours."""
        self._begin(self.replica.whole())
        self.catch_up()

    def close(self) -> None:
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1

    def _begin(self, changes: list[Change]) -> None:
        """Put a new journal in the place of the old one."""
        fresh = f"{self._path}.new"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, MODE)
        try:
            line = _line(changes)
            while line:
                line = line[os.write(fd, line) :]
        finally:
            os.close(fd)
        os.rename(fresh, self._path)

    def _moved(self) -> bool:
        """Whether the journal is another file than the one that is open."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return False
        if self._fd < 0:
            return True
        here = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def _open(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        self._read = 0
        head = os.pread(self._fd, self._size(), 0)
        self._whole = head.find(b"\n") + 1

    def _size(self) -> int:
        return os.fstat(self._fd).st_size

    def _parse(self, line: bytes) -> list[Change]:
        try:
            changes = json.loads(line)
        except ValueError:
            changes = None
        if not isinstance(changes, list) or not all(isinstance(c, list) and c for c in changes):
            raise ProtocolError(f"{self._path} is no journal: it holds {line[:60]!r}")
        return changes

    def __repr__(self) -> str:
        return f"<Journal {self._path}, {self._read} bytes read, {self.replica!r}>"


def _line(changes: list[Change]) -> bytes:
    return json.dumps(changes, separators=(",", ":")).encode() + b"\n"
