"""The launcher's own console: written to by many, never blocking, never mixing two lines."""

from __future__ import annotations

import errno
import os
import select
import stat
from collections import deque
from itertools import islice
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rallypoint.model.reactor import Reactor

LIMIT = 4 << 20
"""Bytes that may wait for a slow console; beyond it the workers' pipes are not read."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""A full disk: what was to be written is lost, but the next try may succeed."""
_PIECES = 64  # pieces of the backlog handed to one writev
_CAUTIOUS = select.PIPE_BUF  # what a descriptor that polls writable takes without blocking


class Outlet:
    """Writes to one console descriptor. ``trouble(outlet, error)`` is called once, when it first fails.

    The descriptor is shared with the shell and with other programs, so O_NONBLOCK must not be set
    on it: pipes and terminals are opened anew, sockets are told so with each send, and files do not
    block. After any error but a full disk the outlet is ``dead``: it takes everything and drops it.
    """

    def __init__(self, reactor: Reactor, fd: int, trouble: Callable[[Outlet, OSError], None]) -> None:
        self._reactor = reactor
        self._trouble = trouble
        self._queue: deque[bytes | memoryview] = deque()
        self._size = 0
        self._watching = False
        self._waiters: list[Callable[[], None]] = []
        self._told = False
        self.open_by: object | None = None
        self.terminal = False
        self.dead = False
        self.lost = 0
        self._fd = fd
        self._close: Callable[[], None] | None = None
        try:
            self._send = self._channel(fd)
        except OSError:  # closed before we started (`rallyrun ... >&-`): nobody wants to read it
            self.dead = True

    @property
    def full(self) -> bool:
        return self._size > LIMIT

    def put(self, owner: object, data: bytes) -> None:
        """Append ``data``. If another owner's last line is unfinished, it is ended first."""
        if self.dead or not data:
            return
        if self.open_by is not None and self.open_by is not owner:
            data = b"\n" + data
        self.open_by = None if data.endswith(b"\n") else owner
        self._queue.append(data)
        self._size += len(data)
        if len(self._queue) == 1:
            self._push()

    def when_free(self, call: Callable[[], None]) -> None:
        """Call once, when half of the limit is free again."""
        self._waiters.append(call)

    def flush(self, deadline: float) -> bool:
        """Block until all is written or ``deadline`` (monotonic) has passed; True if nothing is left."""
        poller = select.poll()
        if self._queue:
            poller.register(self._fd, select.POLLOUT)
        while self._queue and (left := deadline - monotonic()) > 0:
            poller.poll(left * 1000)
            self._push()
        return not self._queue

    def close(self) -> None:
        """Drop what is still waiting, and give back the descriptor."""
        self._discard()
        self.dead = True
        if self._close:
            self._close()
            self._close = None

    def _channel(self, fd: int) -> Callable[[Sequence[bytes | memoryview]], int]:
        mode = os.fstat(fd).st_mode
        self.terminal = os.isatty(fd)
        if stat.S_ISSOCK(mode):
            import socket

            sock = socket.socket(fileno=os.dup(fd))
            self._fd, self._close = sock.fileno(), sock.close
            return lambda pieces: sock.sendmsg(pieces, (), socket.MSG_DONTWAIT)
        if not (stat.S_ISFIFO(mode) or self.terminal):
            return lambda pieces: os.writev(self._fd, pieces)
        try:
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:  # another user's terminal or pipe (after su): as careful as a shared descriptor allows
            return self._send_cautiously
        self._fd, self._close = own, lambda: os.close(own)
        return lambda pieces: os.writev(own, pieces)

    def _send_cautiously(self, pieces: Sequence[bytes | memoryview]) -> int:
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        if not poller.poll(0):
            raise BlockingIOError
        return os.write(self._fd, pieces[0][:_CAUTIOUS])

    def _push(self) -> None:
        """Write once what the console takes now; ask to be called again if something is left."""
        try:
            sent = self._send(list(islice(self._queue, _PIECES)))
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._fail(error)
            return
        self._size -= sent
        while self._queue and sent >= len(self._queue[0]):
            sent -= len(self._queue.popleft())
        if sent:
            self._queue[0] = memoryview(self._queue[0])[sent:]
        self._watch(bool(self._queue))
        if self._waiters and self._size <= LIMIT // 2:
            self._release()

    def _fail(self, error: OSError) -> None:
        self.lost += self._size
        self.dead = error.errno not in NO_ROOM
        self._discard()
        if not self._told:
            self._told = True
            self._trouble(self, error)

    def _discard(self) -> None:
        self._watch(False)
        self._queue.clear()
        self._size = 0
        self._release()

    def _watch(self, wanted: bool) -> None:
        if wanted != self._watching:
            self._watching = wanted
            if wanted:
                self._reactor.add_writer(self._fd, self._push)
            else:
                self._reactor.remove_writer(self._fd)

    def _release(self) -> None:
        calls, self._waiters = self._waiters, []
        for call in calls:
            call()

    def __repr__(self) -> str:
        state = "dead" if self.dead else f"{self._size} bytes wait"
        return f"<Outlet fd {self._fd}: {state}>"


class Console:
    """Standard output and standard error of the launcher: one outlet for both if they are the same thing.

    ``warn`` is told when standard output fails; when standard error does, standard output is.
    """

    def __init__(self, reactor: Reactor, fds: tuple[int, int], warn: Callable[[str], None]) -> None:
        self._warn = warn
        self.fds = fds
        self.out = Outlet(reactor, fds[0], self._trouble)
        # Two writers to one pipe would cut into each other's lines whenever it is full.
        self.err = self.out if _same(*fds) else Outlet(reactor, fds[1], self._trouble)

    def outlet(self, stream: int) -> Outlet:
        """Return where ``stream`` (1 or 2) goes."""
        return self.out if stream == 1 else self.err

    def say(self, text: str, stream: int) -> None:
        """Write ``text`` as whole lines of the launcher itself."""
        self.outlet(stream).put(self, text.encode(errors="backslashreplace").rstrip(b"\n") + b"\n")

    def flush(self, deadline: float) -> bool:
        done = self.out.flush(deadline)
        return self.err.flush(deadline) and done

    def close(self) -> None:
        self.out.close()
        self.err.close()

    def _trouble(self, outlet: Outlet, error: OSError) -> None:
        name, other = ("standard output", self.err) if outlet is self.out else ("standard error", self.out)
        if other is outlet:
            return  # nobody left to tell
        fate = "what it cannot take is lost" if error.errno in NO_ROOM else "what is written there is lost from here on"
        text = f"{name} cannot be written ({os.strerror(error.errno or 0).lower()}): {fate}; the job goes on"
        if outlet is self.out:
            self._warn(text)
        else:
            self.say(text, 1)

    def __repr__(self) -> str:
        return f"<Console {self.out!r} {self.err!r}>"


def _same(a: int, b: int) -> bool:
    """Tell whether two descriptors lead to one pipe, terminal, socket or file."""
    try:
        return os.path.sameopenfile(a, b)
    except OSError:
        return False
