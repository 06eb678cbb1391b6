"""The launcher's side of safe points: what its workers say of how far they are, and whether they are asked to say so.

The workers (``worker/progress.py``) write into a file in memory that all of this node share, and read there whether a
planned stop is near. Only then they also write their local rank into a pipe: nobody polls. Both are reached by way of
/proc, so a worker need not inherit anything, and nothing is left behind when the launcher is gone.

The file: 8 bytes that say what is asked (0: nothing; else the number of the round), then 8 bytes for each local rank:
its progress (-1: none), all little-endian and signed.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.reactor import Reactor

VARIABLE = "RALLYPOINT_SAFE_POINT"
_WORD = 8


class SafePoints:
    """For ``nproc`` workers. ``ready`` is called with a round once all of its running workers have passed one."""

    def __init__(self, reactor: Reactor, nproc: int, ready: Callable[[int], None]) -> None:
        self._reactor = reactor
        self._ready = ready
        self._running: set[int] = set()
        self._passed: set[int] = set()
        self._round = 0
        self._asked = False
        self._told = False
        self._file = os.memfd_create("rallypoint", os.MFD_CLOEXEC)
        os.ftruncate(self._file, _WORD * (nproc + 1))
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        reactor.add_reader(self._read, self._heard)

    def environment(self, local_rank: int) -> dict[str, str]:
        """What a worker has to know: the file, the pipe, its local rank."""
        here = f"/proc/{os.getpid()}/fd"
        return {VARIABLE: f"{here}/{self._file} {here}/{self._write} {local_rank}"}

    def begin(self, round_: int, local_rank: int) -> None:
        """A worker is about to start."""
        if round_ != self._round:
            self._round, self._asked, self._told = round_, False, False
            self._running.clear()
            self._passed.clear()
            self._put(0, 0)
        self._running.add(local_rank)
        self._passed.discard(local_rank)
        self._put(local_rank + 1, -1)

    def ended(self, round_: int, local_rank: int) -> int:
        """A worker is gone; return how far it was, -1 if it did not say."""
        if round_ != self._round:
            return -1
        self._running.discard(local_rank)
        self._check()
        return int.from_bytes(os.pread(self._file, _WORD, _WORD * (local_rank + 1)), "little", signed=True)

    def ask(self, round_: int) -> None:
        """Have every running worker of the round say when it passes a safe point, from now on."""
        if round_ == self._round:
            self._asked = True
            self._put(0, round_)
            self._check()

    def close(self) -> None:
        """Release everything; what workers say then reaches nobody."""
        self._reactor.remove_reader(self._read)
        for fd in (self._file, self._read, self._write):
            os.close(fd)

    def _put(self, index: int, value: int) -> None:
        os.pwrite(self._file, value.to_bytes(_WORD, "little", signed=True), _WORD * index)

    def _heard(self) -> None:
        try:
            said = os.read(self._read, 4096)
        except BlockingIOError:
            return
        # A word says who passed in which round: what is late must not count for the next one.
        for at in range(0, len(said) - _WORD + 1, _WORD):
            rank, round_ = divmod(int.from_bytes(said[at : at + _WORD], "little"), 1 << 40)
            if round_ == self._round:
                self._passed.add(rank)
        self._check()

    def _check(self) -> None:
        if self._asked and not self._told and self._running and self._running <= self._passed:
            self._told = True
            self._ready(self._round)

    def __repr__(self) -> str:
        return f"<SafePoints of round {self._round}: {len(self._passed)} of {len(self._running)} passed>"
