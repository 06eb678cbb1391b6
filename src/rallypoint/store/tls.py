"""TLS on a non-blocking socket: the handshake on the reactor, then a socket as ``net.Stream`` uses one."""

from __future__ import annotations

import ssl

from rallypoint.model.errors import UsageError
from rallypoint.model.value import Value
from rallypoint.store.door import SILENCE, Waiting, stranger_limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Hashable, Mapping

    from rallypoint.model.reactor import Reactor, Timer

FIRST_BYTE = 0x16
"""With which every TLS handshake begins (RFC 8446, 5.1)."""
_WANTS = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class TlsSocket:
    """Looks like a plain non-blocking socket to its user; what it sends and receives is encrypted.

    One ``recv`` gives at most one TLS record (16 KiB), so with a larger buffer nothing decrypted is left
    behind that the kernel would not announce.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self.family = sock.family
        self.fileno = sock.fileno
        self.close = sock.close
        self.getsockname = sock.getsockname
        self.getpeername = sock.getpeername
        self.setsockopt = sock.setsockopt

    def recv(self, size: int) -> bytes:
        try:
            return self._sock.recv(size)
        except _WANTS:
            raise BlockingIOError from None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""
        except ssl.SSLError as error:
            raise OSError(words(error)) from None

    def send(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except _WANTS:
            raise BlockingIOError from None
        except ssl.SSLError as error:
            raise OSError(words(error)) from None

    def __repr__(self) -> str:
        return f"<TlsSocket fd {self.fileno()}>"


class Handshake:
    """Shakes hands over ``sock`` (which it owns) and tells ``done`` once, from the loop: the TLS socket, or why not.

    ``name``: the server's, checked against its certificate; None: we are the server. ``patience``: seconds.
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        context: ssl.SSLContext,
        name: str | None,
        done: Callable[[TlsSocket | None, str], None],
        patience: float,
    ) -> None:
        self._reactor = reactor
        self._done = done
        self._fd = sock.fileno()
        self._tls = context.wrap_socket(
            sock, server_side=name is None, server_hostname=name, do_handshake_on_connect=False
        )
        late = f"no TLS handshake within {patience:g} s"
        self._timer: Timer = reactor.call_at(reactor.now() + patience, lambda: self._fail(late))
        reactor.add_writer(self._fd, self._step)

    def cancel(self) -> None:
        """Give it up: nothing is told any more."""
        if self._fd >= 0:
            self._release()
            self._tls.close()

    def _step(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._reactor.remove_writer(self._fd)
            self._reactor.add_reader(self._fd, self._step)
        except ssl.SSLWantWriteError:
            self._reactor.remove_reader(self._fd)
            self._reactor.add_writer(self._fd, self._step)
        except OSError as error:
            self._fail(words(error))
        else:
            self._release()
            self._done(TlsSocket(self._tls), "")

    def _fail(self, reason: str) -> None:
        self.cancel()
        self._done(None, reason)

    def _release(self) -> None:
        self._timer.cancel()
        self._reactor.remove_reader(self._fd)
        self._reactor.remove_writer(self._fd)
        self._fd = -1

    def __repr__(self) -> str:
        return f"<Handshake {'over' if self._fd < 0 else 'under way'}>"


class Tls(Value):
    """How one node encrypts: as a client of the store, and as its host (None: it can be none)."""

    client: ssl.SSLContext
    server: ssl.SSLContext | None


class Gate:
    """Shakes hands with those who begin with TLS and hands them, decrypted, to ``adopted``; the rest are dropped."""

    def __init__(self, reactor: Reactor, context: ssl.SSLContext, adopted: Callable[[TlsSocket], None]) -> None:
        self._reactor = reactor
        self._context = context
        self._adopted = adopted
        self._shaking = Waiting(reactor, SILENCE, stranger_limit(), _give_up)

    def adopt(self, sock: socket.socket) -> None:
        """Take over an accepted, non-blocking socket of which nothing has been read."""

        def done(tls: TlsSocket | None, _reason: str) -> None:
            self._shaking.discard(handshake)
            if tls is not None:
                self._adopted(tls)

        handshake = Handshake(self._reactor, sock, self._context, None, done, 2 * SILENCE)
        self._shaking.add(handshake)

    def close(self) -> None:
        self._shaking.clear()

    def __repr__(self) -> str:
        return f"<Gate, {len(self._shaking)} handshakes>"


def _give_up(handshake: Hashable) -> None:
    assert isinstance(handshake, Handshake)
    handshake.cancel()


def identity(where: str, conf: Mapping[str, str], hosts: bool) -> Tls | None:
    """Read ``ca_cert``, ``ssl_cert`` and ``ssl_cert_key`` for the tcp store; None if none of them is given.

    ``hosts``: this node may host the store, so it needs a certificate. ``where`` names the option for people.
    With ``ca_cert`` both sides have to show a certificate. Raises UsageError.
    """
    ca, cert, key = (conf.get(name, "") for name in ("ca_cert", "ssl_cert", "ssl_cert_key"))
    if not (ca or cert or key):
        return None
    if bool(cert) != bool(key):
        name, other = ("ssl_cert", "ssl_cert_key") if cert else ("ssl_cert_key", "ssl_cert")
        raise UsageError(f"{where} {name}", cert or key, f"it needs {other} beside it")
    if hosts and not cert:
        raise UsageError(f"{where} ca_cert", ca, "a node that may host the store needs ssl_cert and ssl_cert_key too")
    return Tls(client_context(where, ca, cert, key), server_context(where, ca, cert, key) if cert else None)


def words(error: OSError) -> str:
    """Say what went wrong with TLS so that it can be mended."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
    if isinstance(error, (ssl.SSLEOFError, ConnectionResetError)):
        return "it ended the TLS handshake: does it speak TLS, and does it want a certificate of ours?"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"
    return (error.strerror or str(error)).lower()


def client_context(where: str, ca: str, cert: str, key: str) -> ssl.SSLContext:
    """Trust the authorities in the file ``ca`` ("": the system's); show ``cert`` with ``key`` if given.

    Raises UsageError, naming the value (``where`` names the option), for a file that does not serve.
    """
    context = ssl.create_default_context()
    if ca:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load(f"{where} ca_cert", ca, lambda: context.load_verify_locations(ca))
    _identify(context, where, cert, key)
    return context


def server_context(where: str, ca: str, cert: str, key: str) -> ssl.SSLContext:
    """Show ``cert`` with ``key``; with ``ca``, let in only who shows a certificate signed by it. Raises UsageError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if ca:
        _load(f"{where} ca_cert", ca, lambda: context.load_verify_locations(ca))
        context.verify_mode = ssl.CERT_REQUIRED
    _identify(context, where, cert, key)
    return context


def _identify(context: ssl.SSLContext, where: str, cert: str, key: str) -> None:
    if cert:
        _load(f"{where} ssl_cert", cert, lambda: context.load_cert_chain(cert, key or None))


def _load(where: str, path: str, load: Callable[[], object]) -> None:
    try:
        load()
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        raise UsageError(where, path, f"no PEM file that serves here: {reason}") from None
    except OSError as error:
        raise UsageError(where, path, f"it cannot be read: {error.strerror}") from None
