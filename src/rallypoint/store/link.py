"""One connection to a store over TCP, from the first SYN to its end: connect, hello, keep-alive."""

from __future__ import annotations

import errno
import os
import socket

from rallypoint.model.errors import ProtocolError
from rallypoint.net import Stream
from rallypoint.store import wire
from rallypoint.store.messages import Answer, Bye, Dropped, Lease, Ping, Pong, Refusal, Swap, Welcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from rallypoint.model.reactor import Reactor, Timer
    from rallypoint.store.messages import Hello, Message
else:
    Protocol = object

PATIENCE = 10.0
"""The most seconds that connecting, and then the welcome, may take (less if the ttl is shorter)."""
BUFFER_LIMIT = 256 << 20
_IN_PROGRESS = (0, errno.EINPROGRESS)


class LinkUser(Protocol):
    """Whom a link tells. After ``link_refused`` or ``link_ended``, one of which is called once, nothing follows."""

    def link_up(self, welcome: Welcome, address: str) -> None:
        """The store welcomed us; ``address`` is the local address of the connection."""

    def link_told(self, message: Message) -> None: ...

    def link_refused(self, refusal: Refusal) -> None: ...

    def link_ended(self, reason: str, silent: float) -> None:
        """The attempt failed, or the connection that was up is gone."""


class Link:
    """Connects to ``address`` (numeric) and keeps the connection alive.

    A ping goes out every ``interval`` seconds; after ``ttl`` (of the hello) seconds without a word
    from the store the connection is taken for dead.
    """

    def __init__(
        self,
        reactor: Reactor,
        user: LinkUser,
        *,
        address: str,
        port: int,
        hello: Hello,
        interval: float,
        local_addr: str | None = None,
    ) -> None:
        self._reactor = reactor
        self._user = user
        self._hello = hello
        self._interval = min(interval, hello.ttl / 3)  # at least two pings before silence counts
        self._framer = wire.Framer(wire.ANSWERS, wire.ANSWER_LIMIT)
        self._stream: Stream | None = None
        self._timer: Timer | None = None
        self._up = False
        self._ended = False
        self._spoken = False
        self._heard = 0.0
        self._address = ""
        self._sock: socket.socket | None = None
        try:
            self._connect(address, port, local_addr)
        except OSError as error:
            reason = f"{address} cannot be used from {local_addr or 'here'}: {error.strerror}"
            reactor.soon(lambda: self._end(reason))

    def carry(self, message: Message) -> None:
        """Send ``message``; it may be lost if the connection is."""
        frame = wire.encode(message)
        if len(frame) > wire.SESSION_LIMIT and isinstance(message, (Swap, Lease)):
            # The store would drop the connection, and our leases with it.
            error = f"the value is too large: {len(frame)} bytes of JSON, at most {wire.SESSION_LIMIT} are allowed"
            self._reactor.soon(lambda: self._tell(Answer(message.id, False, 0, error=error)))
        elif self._stream is not None:
            self._stream.send(frame)

    def close(self) -> None:
        """Say goodbye if there is somebody to say it to, and release everything. The user is told nothing more."""
        if self._ended:
            return
        self._ended = True
        if self._stream is None or not self._up:
            self._release()
            return
        self._cancel()
        self._stream.send(_BYE)
        self._drain()
        self._stream.close(flush=True)

    def _connect(self, address: str, port: int, local_addr: str | None) -> None:
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        sock = self._sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A second line of defence, should this process sleep while its pings are not answered.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._hello.ttl * 1000))
        if local_addr is not None:
            sock.bind((local_addr, 0))
        if (code := sock.connect_ex((address, port))) not in _IN_PROGRESS:
            reason = os.strerror(code).lower()
            self._reactor.soon(lambda: self._end(reason))
            return
        self._reactor.add_writer(sock.fileno(), lambda: self._connected(sock))
        self._wait(f"no answer to a connection attempt within {self._patience:g} s")

    @property
    def _patience(self) -> float:
        return min(PATIENCE, self._hello.ttl)

    def _wait(self, otherwise: str) -> None:
        self._cancel()
        self._timer = self._reactor.call_at(self._reactor.now() + self._patience, lambda: self._end(otherwise))

    def _connected(self, sock: socket.socket) -> None:
        self._reactor.remove_writer(sock.fileno())
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._end(os.strerror(code).lower())
            return
        if sock.getsockname() == sock.getpeername():
            # On one machine a connection to a free port can meet itself, and would even keep the port busy.
            self._end("connection refused")
            return
        self._address = str(sock.getsockname()[0])
        self._stream = Stream(self._reactor, sock, self._received, self._closed, BUFFER_LIMIT)
        self._stream.send(wire.PREFACE + wire.encode(self._hello))
        self._wait(f"something listens there but has not answered our hello within {self._patience:g} s")

    def _received(self, data: bytes) -> None:
        self._heard = self._reactor.now()
        try:
            for message in self._framer.feed(data):
                self._spoken = True
                self._handle(message)
                if self._ended:
                    return
        except ProtocolError as error:
            if self._spoken:
                self._end(f"the store sent what is no message: {error}")
            else:
                self._end(f"something else listens there: it answered {data[:60]!r}")

    def _handle(self, message: Message) -> None:
        if isinstance(message, Pong):
            return
        if isinstance(message, Dropped):
            self._end(f"the store gave this node up: {message.reason}")
        elif isinstance(message, Refusal):
            self._ended = True
            self._release()
            self._user.link_refused(message)
        elif isinstance(message, Welcome) != self._up:
            if self._up:
                self._user.link_told(message)
            else:
                self._welcomed(message)
        else:
            raise ProtocolError(f"{type(message).__name__.lower()} at the wrong time")

    def _welcomed(self, welcome: Message) -> None:
        assert isinstance(welcome, Welcome)
        self._up = True
        self._cancel()
        self._schedule()
        self._user.link_up(welcome, self._address)

    def _tell(self, message: Message) -> None:
        if not self._ended:
            self._user.link_told(message)

    def _closed(self, reason: str) -> None:
        if self._spoken:
            self._end(reason)
        else:
            self._end(f"something listens there but answers no hello: {reason}")

    # Keep-alive

    def _schedule(self) -> None:
        due = min(self._reactor.now() + self._interval, self._heard + self._hello.ttl)
        self._timer = self._reactor.call_at(due, lambda: self._tick(due))

    def _tick(self, due: float) -> None:
        now, ttl = self._reactor.now(), self._hello.ttl
        if now - self._heard >= ttl:
            if now - due < self._interval:
                self._end(f"nothing heard from the store for {now - self._heard:.1f} s")
                return
            # So late a tick says that we slept (stopped, suspended), not the store: one more interval for it.
            self._heard = now + self._interval - ttl
        if self._stream is not None:
            self._stream.send(_PING)
        self._schedule()

    # The end

    def _end(self, reason: str) -> None:
        if self._ended:
            return
        self._ended = True
        self._release()
        self._user.link_ended(reason, self._reactor.now() - self._heard if self._up else 0.0)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drain(self) -> None:
        """Read away what is there: closing a socket with unread input resets it, and our goodbye with it."""
        assert self._sock is not None
        try:
            for _ in range(64):
                if not self._sock.recv(256 << 10):
                    return
        except OSError:
            return

    def _release(self) -> None:
        self._cancel()
        if self._stream is not None:
            self._stream.close()
        elif self._sock is not None and self._sock.fileno() >= 0:
            self._reactor.remove_writer(self._sock.fileno())
            self._sock.close()

    def __repr__(self) -> str:
        state = (
            "ended" if self._ended else "up" if self._up else "waiting for welcome" if self._stream else "connecting"
        )
        return f"<Link {state}>"


_PING = wire.encode(Ping())
_BYE = wire.encode(Bye())
