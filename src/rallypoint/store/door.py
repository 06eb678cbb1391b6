"""The way in: one listening socket for several protocols, told apart by the first byte of a connection.

Strangers cost little: a silent connection holds one descriptor for a few seconds, and when too many
are silent at once the one that has been so for longest has to go.
"""

from __future__ import annotations

import errno
import resource
import socket

from rallypoint.net import join_endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from rallypoint.model.reactor import Reactor, Timer
    from rallypoint.store.tls import TlsSocket

SILENCE = 5.0
"""Seconds that a connection may take for its first byte, and then for its hello."""
FULL_PAUSE = 0.5
"""Seconds without accepting when there is no descriptor left (the kernel keeps the queue)."""
BATCH = 64
"""Connections accepted in one callback: a storm of them must not starve the loop."""


class Waiting:
    """Things that have ``limit`` seconds to show what they are, at most ``capacity`` of them: the oldest goes first."""

    def __init__(self, reactor: Reactor, limit: float, capacity: int, expired: Callable[[Hashable], None]) -> None:
        self._reactor = reactor
        self._limit = limit
        self._capacity = capacity
        self._expired = expired
        self._ends: dict[Hashable, float] = {}
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, item: Hashable) -> None:
        self._ends[item] = self._reactor.now() + self._limit
        if len(self._ends) > self._capacity:
            self.evict()
        self._wake()

    def discard(self, item: Hashable) -> None:
        self._ends.pop(item, None)

    def evict(self) -> bool:
        """Expire the oldest now; False if there is none."""
        if not self._ends:
            return False
        item = next(iter(self._ends))
        del self._ends[item]
        self._expired(item)
        return True

    def clear(self) -> None:
        """Expire all; the timer is given back too."""
        while self.evict():
            pass
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        if self._timer is None and self._ends:
            self._timer = self._reactor.call_at(next(iter(self._ends.values())), self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._reactor.now()
        while self._ends and next(iter(self._ends.values())) <= now:
            self.evict()
        self._wake()

    def __repr__(self) -> str:
        return f"<Waiting {len(self._ends)} of at most {self._capacity}>"


class Door:
    """Accepts connections on ``sock`` (which it owns) and routes each by its first byte, all bytes unread.

    ``routes`` maps the byte to whoever adopts the socket (non-blocking, no delay). ``warn`` is
    told once of strangers, once of a full house.
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        routes: Mapping[int, Callable[[socket.socket], None]],
        warn: Callable[[str], None],
        silence: float = SILENCE,
    ) -> None:
        self.host, self.port = sock.getsockname()[:2]
        self._reactor = reactor
        self._sock = sock
        self._routes = routes
        self._warn = warn
        self._warned: set[str] = set()
        self._pause: Timer | None = None
        self._silent = Waiting(reactor, silence, stranger_limit(), self._drop)
        reactor.add_reader(sock.fileno(), self._accept)

    @property
    def silent(self) -> int:
        """How many connections have not sent their first byte yet."""
        return len(self._silent)

    def close(self) -> None:
        if self._sock.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._reactor.remove_reader(self._sock.fileno())
        self._sock.close()
        self._silent.clear()

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._make_room(error)
                return  # else that connection broke before it was accepted
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self._spoke(sock):
                self._reactor.add_reader(sock.fileno(), lambda sock=sock: self._peek(sock))  # type: ignore[misc]
                self._silent.add(sock)

    def _make_room(self, error: OSError) -> None:
        """Let the oldest silent connection go, or pause: the listener stays readable and would spin the loop."""
        if self._silent.evict():
            return
        self._once("full", f"port {self.port}: no connection can be accepted for now: {error.strerror} (see ulimit -n)")
        self._reactor.remove_reader(self._sock.fileno())
        self._pause = self._reactor.call_at(self._reactor.now() + FULL_PAUSE, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._reactor.add_reader(self._sock.fileno(), self._accept)

    def _peek(self, sock: socket.socket) -> None:
        self._spoke(sock)

    def _spoke(self, sock: socket.socket) -> bool:
        """Route or drop ``sock`` if it has said anything; False if it has not yet."""
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            first = b""
        self._silent.discard(sock)
        route = self._routes.get(first[0]) if first else None
        if route is not None:
            self._reactor.remove_reader(sock.fileno())
            route(sock)
            return True
        if first:  # who says nothing at all is a port check, nothing to speak of
            text = f"port {self.port}: {peer_of(sock)} is no node (its first byte is {first!r}) and was dropped"
            self._once("stranger", f"{text}; further ones are not told")
        self._drop(sock)
        return True

    def _drop(self, sock: Hashable) -> None:
        assert isinstance(sock, socket.socket)
        self._reactor.remove_reader(sock.fileno())
        sock.close()

    def _once(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            self._warn(text)

    def __repr__(self) -> str:
        state = join_endpoint(self.host, self.port) if self._sock.fileno() >= 0 else "closed"
        return f"<Door {state}, {len(self._silent)} silent>"


def stranger_limit() -> int:
    """Return how many unknown connections may be held: a quarter of the descriptors we may have, at most 1,024.

    At least two batches: the nodes just accepted are strangers until their words are read, a turn later.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if soft == resource.RLIM_INFINITY else max(2 * BATCH, min(1024, soft // 4))


def peer_of(sock: socket.socket | TlsSocket) -> str:
    """Return "address:port" of the other end, for people."""
    try:
        return join_endpoint(*sock.getpeername()[:2])
    except OSError:
        return "an unknown address"
