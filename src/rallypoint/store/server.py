"""The store behind sockets: adopts connections, checks what they say, and tells them what the hub tells."""

from __future__ import annotations

import socket
import time

from rallypoint.model.errors import ProtocolError, RefusedError
from rallypoint.net import Stream
from rallypoint.store import wire
from rallypoint.store.door import SILENCE, Waiting, peer_of, stranger_limit
from rallypoint.store.messages import (
    PROTOCOL,
    TOKEN,
    Ask,
    Bye,
    Challenge,
    Dropped,
    Elsewhere,
    Hello,
    Lease,
    Ping,
    Pong,
    Proof,
    Read,
    Refusal,
    Swap,
    Watch,
    Welcome,
)
from rallypoint.store.state import StaleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Protocol

    from rallypoint.model.reactor import Reactor
    from rallypoint.store.hub import Hub
    from rallypoint.store.messages import Message
    from rallypoint.store.state import Session
    from rallypoint.store.tls import TlsSocket

    class Bench(Protocol):
        """The seat that a server belongs to, if there are several endpoints: votes, and knows who serves."""

        def elsewhere(self) -> Elsewhere: ...

        def asked(self, hello: Hello, ask: Ask) -> Message | None: ...

        def sat(self, connection: Connection, hello: Hello) -> Welcome: ...

        def rose(self, connection: Connection, hello: Hello, hung_up: bool) -> None: ...

        def other(self, seat: int) -> bool: ...


FIRST_BYTE = wire.PREFACE[0]
BUFFER_LIMIT = 256 << 20
"""Bytes that may wait for a session that does not read. One event's bytes are shared by all that wait for it."""
MAX_TOLD = 64
"""Different warnings that one server gives: what strangers can cause must not fill a log."""


class StoreServer:
    """Serves ``hub`` (None: nothing, for now) to adopted connections; with ``only_run``, to nodes of that run alone.

    ``warn`` is told of those refused or dropped, once for each kind. ``hello_timeout``: seconds
    that a connection may take for its hello. ``token``: what a node has to know ("": nothing). ``tls``: who
    does not encrypt is refused. ``endpoints``: all that the store may be served at, if there are several; then
    ``bench`` is the seat that this server belongs to.
    """

    def __init__(
        self,
        reactor: Reactor,
        hub: Hub | None,
        only_run: str | None,
        warn: Callable[[str], None],
        *,
        hello_timeout: float = SILENCE,
        buffer_limit: int = BUFFER_LIMIT,
        token: str = "",
        tls: bool = False,
        endpoints: str = "",
        bench: Bench | None = None,
    ) -> None:
        self.hub = hub
        self.endpoints = endpoints
        self.bench = bench
        self.tls = tls
        self.token = token
        self.only_run = only_run
        self.buffer_limit = buffer_limit
        self._reactor = reactor
        self._warn = warn
        self._warned: set[str] = set()
        self._known: set[Connection] = set()
        self._strangers = Waiting(reactor, hello_timeout, stranger_limit(), _overdue)
        self._empty: Callable[[], None] | None = None
        self._closed = False
        self._last: Message | None = None
        self._last_frame = b""

    @property
    def sessions(self) -> int:
        """How many sessions are open over connections."""
        return len(self._known)

    def adopt(self, sock: socket.socket | TlsSocket) -> None:
        """Take over an accepted, non-blocking socket of which nothing has been read."""
        if self._closed:
            sock.close()
            return
        self._strangers.add(Connection(self._reactor, self, sock))

    def when_empty(self, call: Callable[[], None]) -> None:
        """Have ``call`` called once, from the loop, when no session is left."""
        self._empty = call
        self._check_empty()

    def close(self) -> None:
        """Close all connections. Their users see the store lost; nobody is told of their leases."""
        self._closed = True
        self._empty = None
        self._strangers.clear()
        self.stop_serving(None)

    def stop_serving(self, last_word: Dropped | None) -> None:
        """End all sessions, with ``last_word``; connections can be adopted again. Nobody is told of their leases."""
        for connection in self._known:
            connection.hang_up(last_word)  # all of them first: nobody is to learn that the others went
        for connection in tuple(self._known):
            connection.end("the store closed")

    # For connections

    def encoded(self, message: Message) -> bytes:
        """Return the bytes of ``message``: encoded once, however many it is sent to in a row."""
        if message is not self._last:
            self._last_frame = wire.encode(message)
            self._last = message
        return self._last_frame

    def welcomed(self, connection: Connection) -> None:
        self._strangers.discard(connection)
        if connection.session is not None:
            self._known.add(connection)

    def ended(self, connection: Connection) -> None:
        self._strangers.discard(connection)
        self._known.discard(connection)
        self._check_empty()

    def warn_once(self, kind: str, text: str) -> None:
        if kind not in self._warned and len(self._warned) < MAX_TOLD:
            self._warned.add(kind)
            self._warn(text)

    def _check_empty(self) -> None:
        if self._empty is not None and not self._known:
            call, self._empty = self._empty, None
            self._reactor.soon(call)

    def __repr__(self) -> str:
        return f"<StoreServer {len(self._known)} sessions, {len(self._strangers)} strangers>"


class Connection:
    """One adopted socket: a stranger until its hello, then a session."""

    def __init__(self, reactor: Reactor, server: StoreServer, sock: socket.socket | TlsSocket) -> None:
        self.peer = peer_of(sock)
        self._plain = server.tls and isinstance(sock, socket.socket)
        self._server = server
        self._hub = server.hub
        self._seat: Hello | None = None  # of the seat at the other end, if it is one
        self.session: Session | None = None
        self._challenged: tuple[Hello, str] | None = None  # the hello of a node that is to prove itself, our nonce
        self._framer = wire.Framer(wire.REQUESTS, wire.STRANGER_LIMIT)
        self._stream = Stream(reactor, sock, self._received, self._lost, server.buffer_limit)

    def tell(self, message: Message) -> None:
        """Send what the hub tells this session."""
        if type(message) is Welcome:
            message = message.replace(now=time.time())
        self.say(message)
        if type(message) is Dropped:
            self.end(message.reason)

    def say(self, message: Message) -> None:
        self._stream.send(self._server.encoded(message))

    def hang_up(self, last_word: Dropped | None = None) -> None:
        """Close the socket, after ``last_word``; the session goes on until ``end``."""
        if last_word is not None:
            self.say(last_word)
            self._stream.drain()
        self._stream.close()

    def end(self, reason: str, left: bool = False) -> None:
        """Close, and end the session if there is one. Safe to call twice."""
        self._stream.close()
        session, self.session = self.session, None
        self._server.ended(self)
        if session is not None and self._hub is not None:
            self._hub.leave(session, left, reason)
        seat, self._seat = self._seat, None
        if seat is not None and self._server.bench is not None:
            self._server.bench.rose(self, seat, left or self._stream.hung_up)

    def _lost(self, reason: str) -> None:
        if self.session is not None and reason.startswith("it does not read"):
            self._server.warn_once(f"slow {self.peer}", f"node {self.session.node!r} at {self.peer}: {reason}")
        self.end(reason)

    def _received(self, data: bytes) -> None:
        if self.session is not None and self._hub is not None:
            # Part of a message is a sign of life too: a large one may take longer than a keep-alive.
            self._hub.heard(self.session)
        try:
            for message in self._framer.feed(data):
                self._handle(message)
                if not self._stream.open:
                    return
        except ProtocolError as error:
            who = f"node {self.session.node!r} at {self.peer}" if self.session else self.peer
            self._server.warn_once("garbage", f"{who} was dropped: {error}; further ones are not told")
            self.end(f"it sent what is no message: {error}")

    def _handle(self, message: Message) -> None:
        session = self.session
        known = session is not None or self._seat is not None
        if not known and self._challenged and isinstance(message, Proof):
            self._proven(message)
        elif not known:
            if self._challenged or not isinstance(message, Hello):
                raise ProtocolError(f"{type(message).__name__.lower()} before its time")
            self._greet(message)
        elif isinstance(message, (Read, Swap, Lease, Watch)) and session is not None and self._hub is not None:
            self._hub.handle(session, message)
        elif isinstance(message, Ask) and self._seat is not None and self._server.bench is not None:
            if (vote := self._server.bench.asked(self._seat, message)) is not None:
                self.say(vote)
        elif isinstance(message, Ping):
            self._stream.send(_PONG)
        elif isinstance(message, Bye):
            self.end("it left", left=True)
        else:
            raise ProtocolError(f"{type(message).__name__.lower()} from one who may not say so")

    def _greet(self, hello: Hello) -> None:
        server = self._server
        if hello.ttl <= 0:
            raise ProtocolError("hello: a ttl is above 0")
        # First of all the preface: whatever follows, the other side learns that this is Rallypoint.
        self._stream.send(wire.PREFACE)
        if hello.protocol != PROTOCOL:
            self._refuse(hello, "the store's protocol", str(hello.protocol), str(PROTOCOL))
        elif self._plain:
            self._refuse(hello, "TLS", "off", "on")
        elif server.only_run is not None and hello.run != server.only_run:
            self._refuse(hello, "run id", hello.run, server.only_run)
        elif hello.endpoints != server.endpoints:
            self._refuse(hello, "--rdzv-endpoint", hello.endpoints or "one alone", server.endpoints or "one alone")
        elif hello.seat != -1 and (server.bench is None or not server.bench.other(hello.seat)):
            self._refuse(hello, "seat", str(hello.seat), "another")
        elif bool(server.token) != bool(hello.nonce):
            self._refuse(hello, TOKEN, *("given" if has else "none" for has in (hello.nonce, server.token)))
        elif server.token:
            self._challenge(hello)
        else:
            self._join(hello)

    def _challenge(self, hello: Hello) -> None:
        from rallypoint.store.token import STORE, nonce, proof

        ours = nonce()
        self._challenged = (hello, ours)
        self._stream.send(wire.encode(Challenge(ours, proof(self._server.token, STORE, hello, ours))))

    def _proven(self, message: Proof) -> None:
        from rallypoint.store.token import NODE, proves

        assert self._challenged is not None
        hello, ours = self._challenged
        self._challenged = None
        if proves(message.proof, self._server.token, NODE, hello, ours):
            self._join(hello)
        else:
            self._refuse(hello, TOKEN, "another", "given")

    def _join(self, hello: Hello) -> None:
        bench, self._hub = self._server.bench, self._server.hub
        if hello.seat >= 0 and bench is not None:
            self._seat = hello
            self._server.welcomed(self)
            self.say(bench.sat(self, hello))
            return
        if self._hub is None:
            assert bench is not None
            self.say(bench.elsewhere())
            self.end("not served here")
            return
        try:
            self.session = self._hub.join(hello, self.tell)
        except RefusedError as error:
            self._refuse(hello, error.field, str(error.mine), str(error.theirs))
            return
        except StaleError:
            self.end("a later connection of this node is here")
            return
        self._framer.limit = wire.SESSION_LIMIT
        self._server.welcomed(self)

    def _refuse(self, hello: Hello, field: str, mine: str, theirs: str) -> None:
        text = f"node {hello.node!r} at {self.peer} was refused: {field} is {mine!r} there, {theirs!r} here"
        self._server.warn_once(f"{field} {mine}", text)
        self._stream.send(wire.encode(Refusal(field, mine, theirs)))
        self.end("refused")

    def __repr__(self) -> str:
        return f"<Connection of {self.peer}, {self.session or 'no hello yet'}>"


_PONG = wire.encode(Pong())


def _overdue(connection: Hashable) -> None:
    assert isinstance(connection, Connection)
    connection.end("no hello came")
