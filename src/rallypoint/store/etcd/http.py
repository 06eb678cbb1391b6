"""One HTTP/1.1 connection on the reactor: one request at a time, answers complete or as they come. Parsed by h11."""

from __future__ import annotations

import select
import socket
from collections import deque

import h11

from rallypoint.model.value import Value
from rallypoint.net import Dial, Stream, join_endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from rallypoint.model.reactor import Reactor, Timer
    from rallypoint.store.tls import Handshake, TlsSocket

LARGEST = 64 << 20
"""Bytes that one answer may have."""


class Place(Value):
    """Where to connect: a numeric address; ``name`` is how the user calls it, which its certificate has to say."""

    address: str
    port: int
    name: str
    local_addr: str | None = None
    context: ssl.SSLContext | None = None


class Request(Value):
    """A POST. ``answered(status, body)`` is told once; with ``piece``, each part of a 200 answer goes there instead."""

    path: str
    body: bytes
    answered: Callable[[int, bytes], None]
    piece: Callable[[bytes], None] | None = None


class Http:
    """Connects to ``place``. ``failed(reason)`` is told once, if the connection cannot be had or is lost.

    ``patience``: seconds that connecting, and then each answer (of a streamed one: its beginning), may take.
    ``headers`` go with every request and may be changed between requests. ``date`` is that of the last answer
    (RFC 9110, 6.6.1).
    """

    def __init__(self, reactor: Reactor, place: Place, patience: float, failed: Callable[[str], None]) -> None:
        self.headers: list[tuple[str, str]] = []
        self.local_address = ""
        self.date = ""
        self._reactor = reactor
        self._place = place
        self._patience = patience
        self._failed = failed
        self._queue: deque[Request] = deque()
        self._current: Request | None = None
        self._sent = 0.0
        self._status = 0
        self._body = bytearray()
        self._head = b""  # what has come before anything was understood
        self._timer: Timer | None = None
        self._http = h11.Connection(h11.CLIENT)
        self._stream: Stream | None = None
        self._opening: Dial | Handshake | None = Dial(
            reactor, place.address, place.port, self._dialled, patience=patience, local_addr=place.local_addr
        )
        self._fd = -1
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether answers are still to come."""
        return not self._closed and bool(self._current or self._queue)

    @property
    def sent(self) -> float:
        """When the request that is being answered was sent (reactor time)."""
        return self._sent

    def post(self, request: Request, first: bool = False) -> None:
        """Send ``request`` after those that were given before (``first``: before those that wait)."""
        if first:
            self._queue.appendleft(request)
        else:
            self._queue.append(request)
        self._next()

    def wait(self, timeout: float) -> None:
        """Outside the loop: wait at most ``timeout`` seconds for the connection, and take what comes."""
        if self._stream is not None and self._stream.open:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            if poll.poll(timeout * 1000):
                self._stream.take()

    def close(self) -> None:
        """Close at once; nothing is told any more."""
        self._closed = True
        self._cancel()
        if self._opening is not None:
            self._opening.cancel()
        if self._stream is not None:
            self._stream.close()

    # Opening

    def _dialled(self, sock: socket.socket | None, reason: str) -> None:
        self._opening = None
        if sock is None:
            self._fail(reason)
            return
        # A watch may be silent for hours: the kernel finds out whether the other end still is there.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3)):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        if self._place.context is None:
            self._up(sock)
            return
        from rallypoint.store.tls import Handshake

        self._opening = Handshake(
            self._reactor, sock, self._place.context, self._place.name, self._shaken, self._patience
        )

    def _shaken(self, sock: TlsSocket | None, reason: str) -> None:
        self._opening = None
        if sock is None:
            self._fail(reason)
        else:
            self._up(sock)

    def _up(self, sock: socket.socket | TlsSocket) -> None:
        self._fd = sock.fileno()
        self.local_address = str(sock.getsockname()[0])
        self._stream = Stream(self._reactor, sock, self._received, self._hung_up)
        self._next()

    # Requests and answers

    def _next(self) -> None:
        if self._stream is None or self._current is not None or not self._queue or self._closed:
            return
        request = self._current = self._queue.popleft()
        self._body.clear()
        host = join_endpoint(self._place.name, self._place.port)
        fixed = [("Host", host), ("Content-Type", "application/json"), ("Content-Length", str(len(request.body)))]
        head = h11.Request(method="POST", target=request.path, headers=[*fixed, *self.headers])
        parts = (head, h11.Data(request.body), h11.EndOfMessage())
        data = b"".join(self._http.send(part) or b"" for part in parts)
        self._sent = self._reactor.now()
        late = f"no answer to {request.path} within {self._patience:g} s"
        self._timer = self._reactor.call_at(self._sent + self._patience, lambda: self._fail(late))
        self._stream.send(data)

    def _received(self, data: bytes) -> None:
        if not self._status:
            self._head += data
        try:
            self._http.receive_data(data)
            while not self._closed and (event := self._http.next_event()) is not h11.NEED_DATA:
                if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                    break
                self._take(event)
        except h11.ProtocolError:
            self._fail(f"it answers no HTTP but {(self._head or data)[:60]!r}")

    def _hung_up(self, reason: str) -> None:
        self._fail(f"it answers no HTTP but {self._head[:60]!r}" if self._head and not self._status else reason)

    def _take(self, event: object) -> None:
        request = self._current
        if isinstance(event, h11.Response):
            self._status = event.status_code
            self.date = next((value.decode() for name, value in event.headers if name == b"date"), "")
        elif isinstance(event, h11.Data) and request is not None:
            if request.piece is not None and self._status == 200:
                self._cancel()  # it has begun; from here on it may last
                request.piece(bytes(event.data))
            elif len(self._body) + len(event.data) > LARGEST:
                self._fail(f"its answer is larger than {LARGEST >> 20} MiB")
            else:
                self._body += event.data
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            self._cancel()
            self._current = None
            body = bytes(self._body)
            if self._http.our_state is h11.MUST_CLOSE:
                self._reactor.soon(lambda: self._fail("it closes the connection"))
            else:
                self._http.start_next_cycle()
            request.answered(self._status, body)
            self._next()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, reason: str) -> None:
        if not self._closed:
            self.close()
            self._failed(reason)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "opening" if self._stream is None else "busy" if self.busy else "idle"
        return f"<Http {join_endpoint(self._place.name, self._place.port)}, {state}>"
