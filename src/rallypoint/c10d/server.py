"""The worker store: torch's TCPStore clients, served on the reactor."""

from __future__ import annotations

from rallypoint.c10d.codec import Session
from rallypoint.c10d.content import Content
from rallypoint.model.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from rallypoint.model.reactor import Reactor

CHUNK = 8 * 1024
"""Bytes read in one callback: some 250 small requests, 0.1 ms; then others, such as exits, have their turn."""
LARGE_CHUNK = 256 * 1024
"""The same in the middle of a long value, of which nothing needs to be looked at."""
_NOTHING: list[bytes | memoryview] = []
"""The output of a client that has not said anything."""
PIECES = 256
"""Pieces of output given to the kernel in one call."""


class WorkerStore:
    """Serves the sockets that it is given with ``adopt``, all with the same content, until ``reset`` or ``close``.

    ``warn`` is called, once in the life of the store, when a client had to be dropped because it does
    not speak the protocol.
    """

    def __init__(self, reactor: Reactor, warn: Callable[[str], None]) -> None:
        self.reactor = reactor
        self.content = Content()
        self._warn: Callable[[str], None] | None = warn
        self._clients: set[_Client] = set()

    @property
    def clients(self) -> int:
        return len(self._clients)

    def adopt(self, sock: socket.socket) -> None:
        """Serve a connected, non-blocking socket of which nothing has been read; the store owns it now."""
        self._clients.add(_Client(self, sock))

    def reset(self) -> None:
        """Drop every client and all content: a new round begins."""
        while self._clients:
            self._clients.pop().close()
        self.content = Content()

    def close(self) -> None:
        self.reset()

    def dropped(self, client: _Client) -> None:
        """``client`` has closed itself."""
        self._clients.discard(client)

    def refuse(self, client: _Client, reason: str) -> None:
        """Drop a client for what it sent."""
        warn, self._warn = self._warn, None
        if warn is not None:
            warn(f"worker store: dropped the connection from {client.peer}: {reason} (said once)")
        client.close()

    def __repr__(self) -> str:
        return f"<WorkerStore {self.clients} clients, {self.content!r}>"


class _Client:
    """One connection. While it does not take its replies, nothing more is read from it: that bounds them."""

    __slots__ = (
        "_content",
        "_fd",
        "_feed",
        "_out",
        "_recv",
        "_send",
        "_session",
        "_size",
        "_sock",
        "_store",
        "_writing",
    )

    def __init__(self, store: WorkerStore, sock: socket.socket) -> None:
        self._store = store
        self._content = store.content
        self._sock = sock
        self._recv, self._send = sock.recv, sock.send
        self._fd = sock.fileno()
        self._session: Session | None = None
        self._out: list[bytes | memoryview] = _NOTHING
        self._feed: Callable[[bytes], None] = self._begin
        self._size = CHUNK
        self._writing = False
        store.reactor.add_reader(self._fd, self._read)

    @property
    def peer(self) -> str:
        try:
            return "{}:{}".format(*self._sock.getpeername()[:2])
        except OSError:
            return "an unknown peer"

    def close(self) -> None:
        if self._fd >= 0:
            self._store.reactor.remove_reader(self._fd)
            self._store.reactor.remove_writer(self._fd)
            self._fd = -1
            self._sock.close()
            if self._session is not None:
                self._session.drop()
            # Bound methods of this client and its session, which would keep each other alive.
            del self._session, self._feed
            self._store.dropped(self)

    def _begin(self, chunk: bytes) -> None:
        """Make the session with the first byte, so that a connection that says nothing costs little."""
        self._session = Session(self._content, self._flush)
        self._out, self._feed = self._session.out, self._session.feed
        self._feed(chunk)

    def _read(self) -> None:
        try:
            chunk = self._recv(self._size)
            self._feed(chunk)
        except BlockingIOError:
            return
        except ProtocolError as error:
            self._store.refuse(self, str(error))
        except OSError:
            self.close()
        else:
            if not chunk:
                self.close()
            elif self._out:
                self._flush()
                self._store.reactor.eager = True
            elif self._session is not None:
                self._size = LARGE_CHUNK if self._session.missing > CHUNK else CHUNK
        if self._content.woken:
            self._content.deliver()

    def _flush(self) -> None:
        """Send once what the kernel takes; for the rest, stop reading and wait for room."""
        out = self._out
        if not out:
            return  # one that was woken may have been served, or closed, since
        try:
            sent = self._send(out[0]) if len(out) == 1 else self._sock.sendmsg(out[:PIECES])
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if len(out) == 1 and sent == len(out[0]):
            out.clear()
        else:
            _remove(out, sent)
        if self._writing != bool(out):
            self._turn()

    def _turn(self) -> None:
        """Turn from reading to writing, or back."""
        reactor = self._store.reactor
        self._writing = not self._writing
        if self._writing:
            reactor.remove_reader(self._fd)
            reactor.add_writer(self._fd, self._flush)
        else:
            reactor.remove_writer(self._fd)
            reactor.add_reader(self._fd, self._read)

    def __repr__(self) -> str:
        return f"<client {self.peer}, {self._session or 'silent'}>" if self._fd >= 0 else "<client closed>"


def _remove(pieces: list[bytes | memoryview], size: int) -> None:
    """Remove the first ``size`` bytes of what the pieces hold."""
    whole = 0
    while whole < len(pieces) and size >= len(pieces[whole]):
        size -= len(pieces[whole])
        whole += 1
    del pieces[:whole]
    if size:
        pieces[0] = memoryview(pieces[0])[size:]
