"""One connection to a store over TCP, from the first SYN to its end: connect, hello, keep-alive."""

from __future__ import annotations

import socket

from rallypoint.model.errors import ProtocolError
from rallypoint.net import Dial, Stream
from rallypoint.store import wire
from rallypoint.store.messages import (
    TOKEN,
    Answer,
    Bye,
    Challenge,
    Dropped,
    Elsewhere,
    Lease,
    Ping,
    Pong,
    Proof,
    Refusal,
    Swap,
    Welcome,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Protocol

    from rallypoint.model.reactor import Reactor, Timer
    from rallypoint.store.messages import Hello, Message
    from rallypoint.store.tls import Handshake, TlsSocket
else:
    Protocol = object

PATIENCE = 10.0
"""How patient a link is unless it is said."""
BUFFER_LIMIT = 256 << 20


class LinkUser(Protocol):
    """Whom a link tells. After ``link_refused``, ``link_moved`` or ``link_ended``, one of which is called once, nothing
    follows."""

    def link_up(self, welcome: Welcome, address: str) -> None:
        """The store welcomed us; ``address`` is the local address of the connection."""

    def link_told(self, message: Message) -> None: ...

    def link_refused(self, refusal: Refusal) -> None: ...

    def link_moved(self, elsewhere: Elsewhere) -> None: ...

    def link_ended(self, reason: str, silent: float) -> None:
        """The attempt failed, or the connection that was up is gone."""


class Link:
    """Connects to ``address`` (numeric) and keeps the connection alive.

    A ping goes out every ``interval`` seconds; after ``ttl`` (of the hello) seconds without a word
    from the store the connection is taken for dead. ``tls``: the context, and the name that the store has to prove.
    ``patience``: the most seconds that connecting, and then the welcome, may take (less if the ttl is shorter).
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
        token: str = "",
        tls: tuple[ssl.SSLContext, str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._reactor = reactor
        self._user = user
        self._token = token
        self._tls = tls
        self._patience = min(patience, hello.ttl)
        self._proven = not token
        if token:
            from rallypoint.store.token import nonce

            hello = hello.replace(nonce=nonce())
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
        self._dial: Dial | Handshake | None = Dial(
            reactor, address, port, self._connected, patience=self._patience, local_addr=local_addr
        )

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
        self._stream.drain()
        self._stream.close(flush=True)

    def _connected(self, sock: socket.socket | None, reason: str) -> None:
        self._dial = None
        if sock is None:
            self._end(reason)
            return
        # A second line of defence, should this process sleep while its pings are not answered.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._hello.ttl * 1000))
        self._address = str(sock.getsockname()[0])
        if self._tls is None:
            self._open(sock)
            return
        from rallypoint.store.tls import Handshake

        self._dial = Handshake(self._reactor, sock, *self._tls, self._shaken, self._patience)

    def _shaken(self, sock: TlsSocket | None, reason: str) -> None:
        self._dial = None
        if sock is None:
            self._end(reason)
        else:
            self._open(sock)

    def _open(self, sock: socket.socket | TlsSocket) -> None:
        self._stream = Stream(self._reactor, sock, self._received, self._closed, BUFFER_LIMIT)
        self._stream.send(wire.PREFACE + wire.encode(self._hello))
        late = f"something listens there but has not answered our hello within {self._patience:g} s"
        self._timer = self._reactor.call_at(self._reactor.now() + self._patience, lambda: self._end(late))

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
            self._end(f"the store gave this node up: {message.reason}", message.silent)
        elif isinstance(message, Refusal):
            self._refused(message)
        elif isinstance(message, Elsewhere):
            self._ended = True
            self._release()
            self._user.link_moved(message)
        elif isinstance(message, Challenge) and not self._proven:
            self._challenged(message)
        elif isinstance(message, Welcome) and not self._proven:
            self._refused(Refusal(TOKEN, "given", "none"))
        elif isinstance(message, Welcome) != self._up:
            if self._up:
                self._user.link_told(message)
            else:
                self._welcomed(message)
        else:
            raise ProtocolError(f"{type(message).__name__.lower()} at the wrong time")

    def _refused(self, refusal: Refusal) -> None:
        self._ended = True
        self._release()
        self._user.link_refused(refusal)

    def _challenged(self, challenge: Challenge) -> None:
        """See whether the store knows the token; then prove that we do."""
        from rallypoint.store.token import NODE, STORE, proof, proves

        if not proves(challenge.proof, self._token, STORE, self._hello, challenge.nonce):
            self._refused(Refusal(TOKEN, "given", "another"))
            return
        self._proven = True
        assert self._stream is not None
        self._stream.send(wire.encode(Proof(proof(self._token, NODE, self._hello, challenge.nonce))))

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

    def _end(self, reason: str, silent: float = 0.0) -> None:
        if self._ended:
            return
        self._ended = True
        self._release()
        self._user.link_ended(reason, max(silent, self._reactor.now() - self._heard) if self._up else 0.0)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _release(self) -> None:
        self._cancel()
        if self._dial is not None:
            self._dial.cancel()
        if self._stream is not None:
            self._stream.close()

    def __repr__(self) -> str:
        state = (
            "ended" if self._ended else "up" if self._up else "waiting for welcome" if self._stream else "connecting"
        )
        return f"<Link {state}>"


_PING = wire.encode(Ping())
_BYE = wire.encode(Bye())
