"""The store that the nodes bring along: whoever can bind the endpoint hosts it, the others connect.

The same election runs again whenever the store is out of reach, so that after the host's death
another agent on its machine takes over, with an empty store (``store_up`` with ``fresh``).
"""

from __future__ import annotations

import errno
import os

from rallypoint.model.errors import StoreError
from rallypoint.model.value import Secret
from rallypoint.net import join_endpoint, listen
from rallypoint.store.client import Member, TcpStore
from rallypoint.store.door import Door
from rallypoint.store.hub import Hub
from rallypoint.store.memory import LocalLink
from rallypoint.store.messages import Welcome
from rallypoint.store.resolve import LOCALHOST, loopback, numeric
from rallypoint.store.server import FIRST_BYTE, StoreServer
from rallypoint.store.state import FOREVER, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Mapping

    from rallypoint.model.reactor import Reactor, Timer
    from rallypoint.store.api import StoreWatcher
    from rallypoint.store.messages import Dropped, Message
    from rallypoint.store.server import Bench
    from rallypoint.store.tls import Gate, Tls

    Routes = Mapping[int, Callable[[socket.socket], None]]


NO_TOKEN = Secret("")


class Host:
    """A store served at the listening socket ``sock``: hub, server and door in one (see there).

    With a ``bench``, one of several ``endpoints``: served only from ``serve`` to ``stand_down``.
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        only_run: str | None,
        warn: Callable[[str], None],
        routes: Routes | None = None,
        token: str = "",
        tls: ssl.SSLContext | None = None,
        endpoints: str = "",
        bench: Bench | None = None,
    ) -> None:
        self._reactor = reactor
        self._patience: Timer | None = None
        self.server = StoreServer(
            reactor, None, only_run, warn, token=token, tls=tls is not None, endpoints=endpoints, bench=bench
        )
        if bench is None:
            self.serve(lambda: True)
        ways = {**(routes or {}), FIRST_BYTE: self.server.adopt}
        self._gate: Gate | None = None
        if tls is not None:
            from rallypoint.store import tls as encryption

            self._gate = encryption.Gate(reactor, tls, self.server.adopt)
            ways[encryption.FIRST_BYTE] = self._gate.adopt
        self.door = Door(reactor, sock, ways, warn)

    @property
    def address(self) -> str:
        return str(self.door.host)

    @property
    def port(self) -> int:
        return int(self.door.port)

    @property
    def hub(self) -> Hub:
        assert self.server.hub is not None
        return self.server.hub

    def serve(self, may_serve: Callable[[], bool]) -> None:
        """Begin a new life of the store, with no keys."""
        self.server.hub = Hub(self._reactor, State(int.from_bytes(os.urandom(4), "big") << 16), may_serve)

    def stand_down(self, last_word: Dropped) -> None:
        """Forget the store; sessions end with ``last_word``."""
        self.hub.retire()
        self.server.hub = None
        self.server.stop_serving(last_word)

    def linger(self, timeout: float, done: Callable[[], None]) -> None:
        """Call ``done``, from the loop, when nobody is connected any more or ``timeout`` seconds have passed."""

        def finish() -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
                done()

        self._patience = self._reactor.call_at(self._reactor.now() + timeout, finish)
        self.server.when_empty(finish)

    def close(self) -> None:
        """Close every socket at once; what is being lingered for is not called any more."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self.door.close()
        if self._gate is not None:
            self._gate.close()
        self.server.close()
        if self.server.hub is not None:
            self.server.hub.close()

    def __repr__(self) -> str:
        return f"<Host {self.door!r}, {self.server!r}>"


class Hosting(TcpStore):
    """A store that this node may come to host: then its own messages go to the host by memory."""

    def __init__(self, reactor: Reactor, watcher: StoreWatcher, host: str, port: int, member: Member) -> None:
        self._local: LocalLink | None = None
        self._bound = ""  # where the host listens
        super().__init__(reactor, watcher, host, port, member)

    @property
    def hosting(self) -> bool:
        return self._local is not None

    def close(self) -> None:
        super().close()
        if self._local is not None:
            self._local.close(True, "closed")
            self._local = None

    def _enter(self, host: Host) -> None:
        """Be the first node at ``host``, which is ours."""
        self.where = join_endpoint(self._host, self._port)
        self._bound = host.address
        self._local = LocalLink(self._reactor, host.hub, self._hello.replace(ttl=FOREVER), self._told)

    def _told(self, message: Message) -> None:
        if isinstance(message, Welcome) and self._local is not None:
            self._attempts = 0
            self._pause.reset()
            self._opened(self._local.carry, message, self._own_address())
        else:
            self._receive(message)

    def _own_address(self) -> str:
        """Return where peers reach the host's own node: as they reach the store, unless the user says otherwise."""
        if self._member.local_addr is not None:
            return self._member.local_addr
        return self._host if self._bound in ("0.0.0.0", "::") else self._bound


class EndpointStore(Hosting):
    """A store at an endpoint, hosted here or by another node. ``hosting`` may become true at any reconnecting.

    ``port`` is the endpoint's (the real one, once hosting); ``address`` is where it is bound when hosting.
    """

    def __init__(
        self,
        reactor: Reactor,
        watcher: StoreWatcher,
        host: str,
        port: int,
        member: Member,
        *,
        is_host: bool | None,
        warn: Callable[[str], None],
        door: Routes,
        elastic: bool,
    ) -> None:
        self.host: Host | None = None
        self._is_host = is_host
        self._warn = warn
        self._door = door
        self._elastic = elastic
        super().__init__(reactor, watcher, host, port, member)

    @property
    def address(self) -> str:
        return self._host if self.host is None else self.host.address

    @property
    def port(self) -> int:
        return self._port

    def linger(self, timeout: float, done: Callable[[], None]) -> None:
        """Call ``done``, later: if hosting, when no other node is connected or ``timeout`` seconds have passed."""
        if self.host is None:
            self._reactor.soon(done)
        else:
            self.host.linger(timeout, done)

    def close(self) -> None:
        super().close()
        if self.host is not None:
            self.host.close()

    # The election

    def _reach(self, addresses: tuple[str, ...]) -> None:
        if self._is_host is False or not self._take(addresses):
            super()._reach(addresses)

    def _take(self, addresses: tuple[str, ...]) -> bool:
        """Host the store if the endpoint can be bound here. Raises StoreError if it cannot but must be."""
        why = OSError()
        for address in dict.fromkeys(bindable(self._host, a) if self._elastic else a for a in addresses):
            try:
                sock = listen(address, self._port)
            except OSError as error:
                why = error
            else:
                self._serve(sock)
                return True
        if self._is_host:
            raise StoreError(self.where, self._words(why, addresses))
        return False

    def _serve(self, sock: socket.socket) -> None:
        tls = None if self._member.tls is None else self._member.tls.server
        self.host = Host(self._reactor, sock, self._hello.run, self._warn, self._door, self._member.token, tls)
        self._port = self.host.port
        self._enter(self.host)

    def _words(self, error: OSError, addresses: tuple[str, ...]) -> str:
        """Say why the endpoint cannot be bound by a node that has to, and what helps."""
        at = ", ".join(addresses)
        if error.errno == errno.EADDRINUSE:
            help_ = "stop what uses it (ss -ltnp shows it), or give the endpoint another port on every node"
            return f"port {self._port} is in use by another program or job on this machine: {help_}"
        if error.errno == errno.EADDRNOTAVAIL:
            help_ = "start this node on the endpoint's machine, or give the endpoint one of this machine's addresses"
            return f"this node has to host the store, but {at} is no address of this machine: {help_}"
        if error.errno == errno.EACCES:
            return f"this user may not open port {self._port}: give the endpoint a port above 1023"
        return f"port {self._port} at {at} cannot be opened: {error.strerror}"


def bindable(host: str, address: str) -> str:
    """Return what to bind for ``address`` of the endpoint's ``host``, so that other machines reach it.

    Debian and others put a machine's own name at 127.0.1.1 in /etc/hosts. Bound there, the store
    would be out of reach for the very nodes that use the name, which means another address to
    them. So for a name that means loopback every address is bound.
    """
    if loopback(address) and numeric(host) is None:
        return "::" if ":" in address else "0.0.0.0"
    return address


def open_tcp(
    reactor: Reactor,
    watcher: StoreWatcher,
    host: str,
    port: int,
    run_id: str,
    node: str,
    *,
    ttl: float,
    keep_alive_interval: float,
    is_host: bool | None,
    warn: Callable[[str], None],
    local_addr: str | None = None,
    elastic: bool = True,
    door: Routes | None = None,
    token: Secret = NO_TOKEN,
    tls: Tls | None = None,
) -> EndpointStore:
    """Open the store at ``host``:``port``: bind it and host it, or be a client of whoever does.

    ``run_id`` to ``keep_alive_interval``, and ``local_addr``: see ``Member``. ``is_host`` True: host it
    or fail; False: never host it; None: whoever can. ``warn`` is told (one sentence each) of strangers
    and of refused nodes while hosting. ``elastic``: other nodes may come. ``door`` are further protocols
    on the same port: first byte -> who adopts the socket, of which nothing has been read. Port 0, for
    one node alone: any free port. ``token``: what nodes and store prove to each other to know ("": nothing).
    ``tls``: encrypt, and refuse who does not.

    Raises StoreError if the endpoint has to be hosted here and cannot: from here or, when ``host`` is
    a name that must be resolved first, from the loop.
    """
    member = Member(run_id, node, ttl, keep_alive_interval, local_addr, token, tls)
    return EndpointStore(
        reactor, watcher, host, port, member, is_host=is_host, warn=warn, door=door or {}, elastic=elastic
    )


def serve(
    reactor: Reactor,
    host: str,
    port: int,
    warn: Callable[[str], None],
    token: str = "",
    tls: ssl.SSLContext | None = None,
) -> Host:
    """Serve many runs, apart from each other, at a numeric address (or "localhost"). Raises StoreError."""
    try:
        return Host(reactor, listen(LOCALHOST if host == "localhost" else host, port), None, warn, token=token, tls=tls)
    except OSError as error:
        raise StoreError(join_endpoint(host, port), f"cannot listen there: {error.strerror}") from None
