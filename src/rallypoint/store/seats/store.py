"""The user's side of a store at several endpoints: takes a seat if it can, and finds whoever serves."""

from __future__ import annotations

import errno

from rallypoint.model.errors import StoreError
from rallypoint.net import join_endpoint, listen
from rallypoint.store.messages import Elsewhere, Welcome
from rallypoint.store.resolve import numeric, resolve
from rallypoint.store.seats.peer import CONNECT
from rallypoint.store.seats.seat import Seat
from rallypoint.store.tcp import Hosting, bindable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.reactor import Reactor
    from rallypoint.store.api import StoreWatcher
    from rallypoint.store.client import Member
    from rallypoint.store.resolve import Found
    from rallypoint.store.seats.peer import Place


class SeatsStore(Hosting):
    """The store at one of ``places``, three or more. This node holds a seat if it can bind one of them.

    ``is_host`` True: hold a seat or fail; False: hold none. ``warn``: see ``open_tcp``.
    """

    connect_patience = CONNECT

    def __init__(
        self,
        reactor: Reactor,
        watcher: StoreWatcher,
        places: tuple[Place, ...],
        member: Member,
        *,
        is_host: bool | None,
        warn: Callable[[str], None],
    ) -> None:
        self.seat: Seat | None = None
        self._places = places
        self._is_host = is_host
        self._warn = warn
        self._place = -1  # which of them is tried, or was last
        self._aim = -1  # which of them is said to serve
        self._bad = -1  # which of them has failed last
        self._asked = False  # whether the names among them were looked up, to take a seat there
        endpoints = ",".join(join_endpoint(*place) for place in places)
        super().__init__(reactor, watcher, *places[0], member.replace(endpoints=endpoints))

    def linger(self, timeout: float, done: Callable[[], None]) -> None:
        """Call ``done``, later: if serving, when no other node is connected or ``timeout`` seconds have passed."""
        if self.seat is not None and self.seat.serving:
            self.seat.host.linger(timeout, done)
        else:
            self._reactor.soon(done)

    def close(self) -> None:
        super().close()
        if self.seat is not None:
            self.seat.close()

    # Finding who serves

    def link_up(self, welcome: Welcome, address: str) -> None:
        self._bad = -1
        super().link_up(welcome, address)

    def link_moved(self, elsewhere: Elsewhere) -> None:
        self._link = None
        known = 0 <= elsewhere.holder < len(self._places)
        self._aim = elsewhere.holder if known and elsewhere.holder != self._bad else -1
        if not known:
            self._tell_failure(self._yet(elsewhere.held))
        self._later()

    def _yet(self, held: int) -> str:
        count = len(self._places)
        majority = count // 2 + 1
        if held < majority:
            rest = f", a majority of {majority} is needed"
        else:
            rest = f"; they agree within {self._member.ttl:g} s, at once when all are open"
        return f"no store yet: {held} of {count} endpoints are open{rest}"

    def link_ended(self, reason: str, silent: float) -> None:
        self._bad, self._aim, self._asked = self._place, -1, False
        super().link_ended(reason, silent)

    def _seek(self) -> None:
        if self._closed or self._carry is not None or self._link is not None:
            return
        if self._is_host is not False and self.seat is None:
            self._claim()
        if self._local is None:
            self._place = self._choose()
            self._host, self._port = self._places[self._place]
            self.where = join_endpoint(self._host, self._port)
            super()._seek()

    def _choose(self) -> int:
        own, said = (-1, -1) if self.seat is None else (self.seat.number, self.seat.holder)
        said = said if said not in (own, self._bad) else -1
        aim, self._aim = self._aim, -1
        if aim < 0 and said < 0:
            aim = (self._place + 1) % len(self._places)
            aim = (aim + 1) % len(self._places) if aim == own else aim
        return aim if aim >= 0 else said

    def _reach(self, addresses: tuple[str, ...]) -> None:
        if self._carry is not None or self._link is not None:
            return  # meanwhile the store was found here
        self._take(self._place, addresses)
        if self.seat is not None and self.seat.number == self._place:
            self._seek()
        else:
            super()._reach(addresses)

    def _later(self) -> None:
        if self._is_host and self.seat is None and self._attempts >= len(self._places):
            raise StoreError(self.where, "this node has to hold one of the endpoints, and can bind none of them")
        if not self._closed:
            self._pause.then(self._seek, every=len(self._places))

    # The seat

    def _claim(self) -> None:
        """Take the first endpoint that can be bound here; those with names follow when they are resolved."""
        for number, (host, _) in enumerate(self._places):
            if (address := numeric(host)) is not None:
                self._take(number, (address,))
            elif not self._asked:
                resolve(self._reactor, host, lambda found, number=number: self._named(number, found))  # type: ignore[misc]
        self._asked = True

    def _named(self, number: int, found: Found) -> None:
        if not self._closed:
            self._take(number, found.addresses)

    def _take(self, number: int, addresses: tuple[str, ...]) -> None:
        if self._is_host is False:
            return
        host, port = self._places[number]
        for address in dict.fromkeys(bindable(host, a) for a in addresses):
            if self.seat is not None:
                return
            try:
                sock = listen(address, port)
            except OSError as error:
                if error.errno == errno.EACCES:
                    self._warn(f"this user may not open port {port}: give the endpoints ports above 1023")
                continue
            self.seat = Seat(self._reactor, sock, number, self._places, self._member, self._warn, self._turned)

    def _turned(self) -> None:
        """The seat begins to serve, or ceases."""
        assert self.seat is not None
        if self._closed:
            return
        local, self._local = self._local, None
        if local is not None:
            local.close(True, "it serves no more")
        if not self.seat.serving:
            if self._carry is not None:
                self._lost("a majority of the endpoints is out of reach from this one, which served", self._member.ttl)
            self._later()
            return
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._carry is not None:
            self._lost("this endpoint serves now", 0.0)
        self._host, self._port = self._places[self.seat.number]
        self._enter(self.seat.host)
