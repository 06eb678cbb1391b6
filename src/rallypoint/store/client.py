"""A store reached over TCP: finds it, reconnects by itself, and says why it cannot."""

from __future__ import annotations

import os

from rallypoint import __version__
from rallypoint.model.value import Secret, Value
from rallypoint.net import join_endpoint
from rallypoint.store.front import Front
from rallypoint.store.link import PATIENCE, Link
from rallypoint.store.messages import PROTOCOL, Hello
from rallypoint.store.pause import Pause
from rallypoint.store.resolve import loopback, numeric, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.model.reactor import Reactor
    from rallypoint.store.api import StoreWatcher
    from rallypoint.store.messages import Elsewhere, Message, Refusal, Welcome
    from rallypoint.store.resolve import Found
    from rallypoint.store.tls import Tls


class Member(Value):
    """Who joins which run, and how it stays in touch.

    ``ttl``: seconds of silence after which either side gives the other up; ``keep_alive_interval``:
    seconds between signs of life. ``local_addr``: the (numeric) address to connect from.
    ``token``: see ``store/token.py``; ``tls``: encrypt. ``endpoints``: all that the store may be served at, if there
    are several.
    """

    run_id: str
    node: str
    ttl: float
    keep_alive_interval: float
    local_addr: str | None = None
    token: Secret = Secret("")
    tls: Tls | None = None
    endpoints: str = ""

    def hello(self, session: str, seat: int = -1) -> Hello:
        """Return what it says first, as the node or as a ``seat`` (see ``Hello``)."""
        fixed = (PROTOCOL, __version__, self.run_id, self.node, self.ttl, session)
        return Hello(*fixed, endpoints=self.endpoints, seat=seat)


class TcpStore(Front):
    """The store at ``host`` (a name or an address) and ``port``, for ``member``.

    ``connect_patience``: the most seconds that connecting, and then the welcome, may take.
    """

    connect_patience = PATIENCE

    def __init__(self, reactor: Reactor, watcher: StoreWatcher, host: str, port: int, member: Member) -> None:
        super().__init__(reactor, watcher, join_endpoint(host, port))
        self._hello = member.hello(os.urandom(16).hex())
        self._member = member
        self._host = host
        self._port = port
        self._link: Link | None = None
        self._trying: list[str] = []
        self._attempts = 0
        self._pause = Pause(reactor)
        self._seek()

    def close(self) -> None:
        super().close()
        self._pause.cancel()
        if self._link is not None:
            self._link.close()
            self._link = None

    # What the link tells

    def link_up(self, welcome: Welcome, address: str) -> None:
        assert self._link is not None
        self._attempts = 0
        self._pause.reset()
        self._opened(self._link.carry, welcome, self._reached(address))

    def link_told(self, message: Message) -> None:
        self._receive(message)

    def link_refused(self, refusal: Refusal) -> None:
        self._link = None
        self._refuse(refusal.field, refusal.mine, refusal.theirs)

    def link_moved(self, elsewhere: Elsewhere) -> None:
        self.link_ended("it is one of several endpoints", 0.0)  # which one refuses who does not list them all

    def link_ended(self, reason: str, silent: float) -> None:
        self._link = None
        if self._carry is not None:
            self._lost(reason, silent)
        else:
            tried = self._trying.pop(0)
            self._tell_failure(reason if tried == self._host else f"{tried}: {reason}")
            if self._trying and not self._closed:
                self._dial()
                return
        self._later()

    # Finding the store

    def _seek(self) -> None:
        """Find out what addresses the host has (it may have moved), then try them."""
        if (address := numeric(self._host)) is not None:
            self._reach((address,))
        else:
            resolve(self._reactor, self._host, self._found)

    def _found(self, found: Found) -> None:
        if self._closed:
            return
        if found.addresses:
            self._reach(found.addresses)
        else:
            self._tell_failure(found.reason)
            self._later()

    def _reach(self, addresses: tuple[str, ...]) -> None:
        self._trying = list(addresses)
        self._dial()

    def _dial(self) -> None:
        address = self._trying[0]
        self._hello = self._hello.replace(attempt=self._hello.attempt + 1)
        self._link = Link(
            self._reactor,
            self,
            address=address,
            port=self._port,
            hello=self._hello,
            interval=self._member.keep_alive_interval,
            local_addr=self._member.local_addr,
            token=self._member.token,
            tls=None if self._member.tls is None else (self._member.tls.client, self._host),
            patience=self.connect_patience,
        )

    def _later(self) -> None:
        if not self._closed:
            self._pause.then(self._seek)

    def _tell_failure(self, reason: str) -> None:
        self._attempts += 1
        self._watcher.store_tried(self.where, reason, self._attempts)

    def _reached(self, address: str) -> str:
        """Return where peers reach this node, whose end of the connection is at ``address``."""
        if loopback(address) and numeric(self._host) is None:
            # The name means this very machine, by a loopback entry of its own (see ``tcp``): others use the name.
            return self._host
        return address
