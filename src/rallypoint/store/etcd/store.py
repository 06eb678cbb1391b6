"""The five verbs on etcd: one session after the other, from member to member, under one lease as long as it lives."""

from __future__ import annotations

import os

from rallypoint.net import join_endpoint
from rallypoint.store.etcd import wire
from rallypoint.store.etcd.http import Place
from rallypoint.store.etcd.session import Session, Terms
from rallypoint.store.front import Front
from rallypoint.store.pause import Pause
from rallypoint.store.resolve import loopback, numeric, resolve, way_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from rallypoint.model.reactor import Reactor
    from rallypoint.store.api import StoreWatcher
    from rallypoint.store.client import Member
    from rallypoint.store.etcd.session import Leases
    from rallypoint.store.messages import Message, Welcome
    from rallypoint.store.resolve import Found

GOODBYE = 2.0
"""Seconds that ``close`` waits for etcd to take the goodbye."""


class EtcdStore(Front):
    """The store in the etcd cluster whose members are at ``endpoints``, for ``member``.

    Any member will do; when one fails the next is tried, and the lease goes on. ``prefix`` is where in etcd the
    runs are. ``user`` and ``password`` sign on; ``context`` is for TLS (None: plain HTTP).

    Fencing counts from the request by which the lease was last renewed, so a node stops before etcd gives it up;
    etcd counts whole seconds, and at least its election time-out.
    """

    def __init__(
        self,
        reactor: Reactor,
        watcher: StoreWatcher,
        endpoints: Sequence[tuple[str, int]],
        member: Member,
        *,
        prefix: str = wire.DEFAULT_PREFIX,
        user: str = "",
        password: str = "",
        context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(reactor, watcher, ",".join(join_endpoint(*endpoint) for endpoint in endpoints))
        self._endpoints = list(endpoints)
        self._next = os.urandom(1)[0] % len(endpoints)  # spread the nodes over the members
        self._member = member
        self._context = context
        self._terms = Terms(
            wire.Names(prefix, member.run_id),
            os.urandom(16).hex(),
            member.ttl,
            min(member.keep_alive_interval, member.ttl / 3),
            user,
            password,
        )
        self._trying: list[str] = []
        self._session: Session | None = None
        self._leases: Leases | None = None
        self._renewed = reactor.now()
        self._attempts = 0
        self._pause = Pause(reactor)
        self._seek()

    def close(self) -> None:
        """Give back all leases; etcd is waited for, ``GOODBYE`` seconds at most."""
        super().close()
        self._pause.cancel()
        session, self._session = self._session, None
        if session is not None:
            session.close(GOODBYE)

    def lose(self) -> None:
        """Vanish without a goodbye, as a node that dies (for tests)."""
        super().close()
        self._pause.cancel()
        if self._session is not None:
            self._session.drop()

    # What the session tells

    def session_up(self, welcome: Welcome, address: str) -> None:
        assert self._session is not None
        self._attempts = 0
        self._opened(self._session.carry, welcome, self._reached(address))

    def session_told(self, message: Message) -> None:
        self._pause.reset()  # only now: one that lets us in and then refuses every write is not to be hurried
        self._receive(message)

    def session_refused(self, field: str, mine: str, theirs: str) -> None:
        self._refuse(field, mine, theirs)

    def session_ended(self, reason: str) -> None:
        session, self._session = self._session, None
        assert session is not None
        self._leases = session.leases
        self._renewed = max(self._renewed, session.renewed)
        if self._carry is not None:
            self._lost(self._named(reason), self._reactor.now() - self._renewed)
        else:
            self._tell_failure(reason)
        self._on()

    # From member to member

    @property
    def _at(self) -> str:
        return join_endpoint(*self._endpoints[self._next])

    def _on(self) -> None:
        """Try the next address; after the last, the next member; after all of them, pause."""
        if self._closed:
            return
        if self._trying:
            self._dial()
            return
        self._next = (self._next + 1) % len(self._endpoints)
        self._pause.then(self._seek, every=len(self._endpoints))

    def _seek(self) -> None:
        host, _ = self._endpoints[self._next]
        if (address := numeric(host)) is not None:
            self._trying = [address]
            self._dial()
        else:
            resolve(self._reactor, host, self._found)

    def _found(self, found: Found) -> None:
        if self._closed:
            return
        self._trying = list(found.addresses)
        if not found.addresses:
            self._tell_failure(found.reason)
        self._on()

    def _dial(self) -> None:
        host, port = self._endpoints[self._next]
        place = Place(self._trying.pop(0), port, host, self._member.local_addr, self._context)
        self._session = Session(self._reactor, self, place, self._terms, self._leases)

    def _tell_failure(self, reason: str) -> None:
        self._attempts += 1
        self._watcher.store_tried(self.where, self._named(reason), self._attempts)

    def _named(self, reason: str) -> str:
        """Say which member it is about, if there are several."""
        return f"{self._at}: {reason}" if len(self._endpoints) > 1 else reason

    def _reached(self, address: str) -> str:
        """Return where peers reach this node, as seen on the way to etcd; if that is loopback, to another member."""
        if not loopback(address):
            return address
        others = [numeric(host) for host, _ in self._endpoints]
        return next((own for other in others if other and not loopback(own := way_to(other))), address)


def open_etcd(
    reactor: Reactor,
    watcher: StoreWatcher,
    endpoints: Sequence[tuple[str, int]],
    member: Member,
    conf: Mapping[str, str],
) -> EtcdStore:
    """Open the store as ``--rdzv-conf`` says. Raises UsageError for files that do not serve."""
    from rallypoint.store.etcd.settings import settings

    return EtcdStore(reactor, watcher, endpoints, member, **settings("--rdzv-conf", conf))
