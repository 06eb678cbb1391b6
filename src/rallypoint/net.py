"""Sockets on the reactor: a listener and a buffered stream. Shared by the rooms ``store`` and ``c10d``.

A leaf below the rooms: it knows the reactor and the operating system, no protocol.
"""

from __future__ import annotations

import errno
import os
import socket

from rallypoint.model.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from rallypoint.model.reactor import Reactor

    class Plug(Protocol):
        """What a stream needs of a connected, non-blocking socket."""

        def fileno(self) -> int: ...

        def recv(self, size: int, /) -> bytes: ...

        def send(self, data: bytes | memoryview, /) -> int: ...

        def close(self) -> None: ...


REST = 0.5
"""Seconds without accepting after the process ran out of descriptors."""
FLUSH_LIMIT = 5.0
"""Seconds that a closing stream waits for its peer to take what is left."""
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
CHUNK = 256 * 1024
"""Bytes taken from a socket in one callback: enough for speed, small enough for others' turns."""


def split_endpoint(text: str, default_port: int, where: str = "--rdzv-endpoint") -> tuple[str, int]:
    """Split "host", "host:port", "[v6]:port" or a bare IPv6 address into (host, port).

    Raises UsageError, naming the option ``where``, for an impossible port or a missing host.
    """
    text = text.strip()
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise UsageError(where, text, "an IPv6 address is written [address]:port")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host:
        raise UsageError(where, text, "host:port is needed")
    if port and not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise UsageError(where, text, "the port is a number from 0 to 65535")
    return host, int(port) if port else default_port


def join_endpoint(host: str, port: int) -> str:
    """Write (host, port) so that ``split_endpoint`` reads it back."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int, backlog: int = 4096) -> socket.socket:
    """Return a non-blocking socket that listens at a numeric address. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


class Listener:
    """Accepts connections on ``sock`` (which it owns) and hands each, non-blocking, to ``accepted``."""

    def __init__(self, reactor: Reactor, sock: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
        self._reactor = reactor
        self._sock = sock
        self._accepted = accepted
        self.host, self.port = sock.getsockname()[:2]
        reactor.add_reader(sock.fileno(), self._accept)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._reactor.remove_reader(self._sock.fileno())
            self._sock.close()

    def _accept(self) -> None:
        for _ in range(64):  # bounded: a storm of connections must not starve the loop
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._rest()
                return
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._accepted(sock)

    def _rest(self) -> None:
        """No descriptor is free: the socket stays readable, so look away for a moment instead of spinning."""
        self._reactor.remove_reader(self._sock.fileno())
        self._reactor.call_at(self._reactor.now() + REST, self._resume)

    def _resume(self) -> None:
        if self._sock.fileno() >= 0:
            self._reactor.add_reader(self._sock.fileno(), self._accept)

    def __repr__(self) -> str:
        state = join_endpoint(self.host, self.port) if self._sock.fileno() >= 0 else "closed"
        return f"<Listener {state}>"


class Dial:
    """Connects to a numeric address and tells ``done`` once, from the loop: the socket, or None and why not.

    ``patience``: seconds that it may take. After ``cancel`` nothing is told.
    """

    def __init__(
        self,
        reactor: Reactor,
        address: str,
        port: int,
        done: Callable[[socket.socket | None, str], None],
        *,
        patience: float,
        local_addr: str | None = None,
    ) -> None:
        self._reactor = reactor
        self._done = done
        self._over = False
        self._sock: socket.socket | None = None
        self._timer = reactor.call_at(
            reactor.now() + patience, lambda: self._fail(f"no answer to a connection attempt within {patience:g} s")
        )
        try:
            self._connect(address, port, local_addr)
        except OSError as error:
            reason = f"{address} cannot be used from {local_addr or 'here'}: {error.strerror}"
            reactor.soon(lambda: self._fail(reason))

    def cancel(self) -> None:
        self._over = True
        self._timer.cancel()
        sock, self._sock = self._sock, None
        if sock is not None:
            self._reactor.remove_writer(sock.fileno())
            sock.close()

    def _connect(self, address: str, port: int, local_addr: str | None) -> None:
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        sock = self._sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if local_addr is not None:
            sock.bind((local_addr, 0))
        if (code := sock.connect_ex((address, port))) not in (0, errno.EINPROGRESS):
            reason = os.strerror(code).lower()
            self._reactor.soon(lambda: self._fail(reason))
            return
        self._reactor.add_writer(sock.fileno(), self._connected)

    def _connected(self) -> None:
        assert self._sock is not None
        if code := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._fail(os.strerror(code).lower())
        elif self._sock.getsockname() == self._sock.getpeername():
            # On one machine a connection to a free port can meet itself, and would even keep the port busy.
            self._fail("connection refused")
        else:
            sock, self._sock = self._sock, None
            self._reactor.remove_writer(sock.fileno())
            self.cancel()
            self._done(sock, "")

    def _fail(self, reason: str) -> None:
        if not self._over:
            self.cancel()
            self._done(None, reason)

    def __repr__(self) -> str:
        return f"<Dial {'over' if self._over else 'under way'}>"


class Stream:
    """A connected non-blocking socket with an output buffer.

    ``received(data)`` is called with each piece of input; ``closed(reason)`` exactly once, when the
    peer hangs up, an error occurs, or more than ``limit`` bytes of output pile up (a peer that does
    not read). After ``close()`` from our side neither is called. ``hung_up``: the peer's end closed it.
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: Plug,
        received: Callable[[bytes], None],
        closed: Callable[[str], None],
        limit: int = 1 << 30,
    ) -> None:
        self._reactor = reactor
        self._sock = sock
        self._fd = sock.fileno()
        self._received = received
        self._closed = closed
        self._limit = limit
        self._pending: list[bytes | memoryview] = []
        self._pending_size = 0
        self._closing = False
        self.hung_up = False
        reactor.add_reader(self._fd, self.take)

    @property
    def open(self) -> bool:
        return self._fd >= 0

    def send(self, data: bytes) -> None:
        """Send now what the kernel takes; keep the rest and send it when there is room."""
        if self._fd < 0 or self._closing:
            return
        sent = 0
        if not self._pending:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                pass
            except OSError as error:
                reason = _words(error)
                self._reactor.soon(lambda: self._fail(reason))
                return
            if sent == len(data):
                return
            self._reactor.add_writer(self._fd, self._flush)
        self._pending.append(memoryview(data)[sent:])
        self._pending_size += len(data) - sent
        if self._pending_size > self._limit:
            self._reactor.soon(lambda: self._fail(f"it does not read: {self._pending_size} bytes wait for it"))

    def close(self, flush: bool = False) -> None:
        """Close; with ``flush``, first send what is still buffered (at most ``FLUSH_LIMIT`` s)."""
        if flush and self._pending and self._fd >= 0:
            self._closing = True
            self._reactor.remove_reader(self._fd)
            self._reactor.call_at(self._reactor.now() + FLUSH_LIMIT, self.close)
        elif self._fd >= 0:
            self._reactor.remove_reader(self._fd)
            self._reactor.remove_writer(self._fd)
            self._fd = -1
            self._pending.clear()
            self._sock.close()

    def drain(self) -> None:
        """Read away what has come: closing a socket with unread input resets it, and our last words with it."""
        try:
            for _ in range(64):
                if self._fd < 0 or not self._sock.recv(CHUNK):
                    return
        except OSError:
            return

    def take(self) -> None:
        """Take what has come; the reactor calls it, and who waits outside the loop may."""
        try:
            data = self._sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self.hung_up = error.errno == errno.ECONNRESET
            self._fail(_words(error))
            return
        if data:
            self._received(data)
        else:
            self.hung_up = True
            self._fail("it closed the connection")

    def _flush(self) -> None:
        try:
            while self._pending:
                piece = self._pending[0]
                sent = self._sock.send(piece)
                self._pending_size -= sent
                if sent < len(piece):
                    self._pending[0] = memoryview(piece)[sent:]
                    return
                self._pending.pop(0)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(_words(error))
            return
        self._reactor.remove_writer(self._fd)
        if self._closing:
            self.close()

    def _fail(self, reason: str) -> None:
        if self._fd >= 0:
            told = not self._closing
            self.close()
            if told:
                self._closed(reason)

    def __repr__(self) -> str:
        return f"<Stream fd {self._fd}, {self._pending_size} bytes to send>" if self._fd >= 0 else "<Stream closed>"


def _words(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)
