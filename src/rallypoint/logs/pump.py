"""The launcher's end of one worker pipe."""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from rallypoint.logs.outlet import Outlet
    from rallypoint.logs.recent import Recent
    from rallypoint.model.reactor import Reactor
else:
    Protocol = object

CHUNK = 64 << 10
"""Bytes read in one callback. Larger ones are slower: malloc gets each from the kernel anew, page by page."""
REST = 0.01
"""Seconds for which a pipe is left alone after a small read, so that many short lines cost one turn.

At 8 workers x 1,000 lines/s this is the difference between 8,000 turns a second and 100.
"""
_SMALL = 32 << 10
_BUFFER = memoryview(bytearray(CHUNK))  # shared by all: a fresh one for each read costs more than the read


class Sink(Protocol):
    """Where a stream's bytes go. ``end`` is called once, after the last ``feed``."""

    def feed(self, data: bytes) -> None: ...

    def end(self) -> None: ...


class Stream:
    """Reads ``fd``, which it owns, and feeds ``sinks``; stops reading while ``outlet`` is full.

    ``rests``: after a small read, wait for more before reading again.
    """

    def __init__(
        self, reactor: Reactor, fd: int, recent: Recent, sinks: Sequence[Sink], *, outlet: Outlet | None, rests: bool
    ) -> None:
        self._reactor = reactor
        self._fd = fd
        self._recent = recent
        self._sinks = sinks
        self._outlet = outlet
        self._rests = rests
        reactor.add_reader(fd, self._ready)

    def drain(self) -> None:
        """Read all that is in the pipe now, even if the console is full.

        What a dead process wrote is at most one pipe's content; a living descendant that goes on
        writing cannot keep us here for longer.
        """
        left = pipe_size(self._fd) if self._fd >= 0 else 0
        while left > 0 and (size := self._take()):
            left -= size

    def close(self) -> None:
        """Read what is there, end the sinks, close the pipe."""
        self.drain()
        self._hang_up()
        for sink in self._sinks:
            sink.end()
        self._sinks = ()

    def _ready(self) -> None:
        if self._outlet and self._outlet.full:
            self._reactor.remove_reader(self._fd)
            self._outlet.when_free(self._resume)
        elif self._take() < _SMALL and self._rests and self._fd >= 0:
            self._reactor.remove_reader(self._fd)
            # All resting pipes wake in the same turn.
            self._reactor.call_at((self._reactor.now() // REST + 1) * REST, self._resume)

    def _resume(self) -> None:
        if self._fd >= 0:
            self._reactor.add_reader(self._fd, self._ready)

    def _take(self) -> int:
        """Read one chunk and hand it on; return its size, 0 if there is nothing now or no more."""
        try:
            size = os.readv(self._fd, (_BUFFER,))
        except BlockingIOError:
            return 0
        if not size:
            self._hang_up()
            return 0
        data = bytes(_BUFFER[:size])
        self._recent.add(self, data)
        for sink in self._sinks:
            sink.feed(data)
        return size

    def _hang_up(self) -> None:
        if self._fd >= 0:
            self._reactor.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def __repr__(self) -> str:
        return f"<Stream fd {self._fd}>" if self._fd >= 0 else "<Stream ended>"


def make_pipe(size: int) -> tuple[int, int]:
    """Return (read end, write end) of a new pipe that holds ``size`` bytes if the kernel allows.

    Only the read end is non-blocking; neither is inherited by accident.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read_end, False)
    try:
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, size)
    except OSError:
        pass  # beyond the user's limits: the pipe stays as it is, and works
    return read_end, write_end


def pipe_size(fd: int) -> int:
    """Return how many bytes the pipe can hold."""
    return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
