"""One endpoint that this process holds: the listening socket, the way to the other seats, the election at work."""

from __future__ import annotations

import os
import time

from rallypoint.model.errors import ProtocolError
from rallypoint.store.messages import (
    CLEAN,
    LOOK,
    PROMISE,
    RELEASE,
    Dropped,
    Elsewhere,
    Hello,
    Welcome,
)
from rallypoint.store.seats.election import Election
from rallypoint.store.seats.peer import Peer
from rallypoint.store.tcp import Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from rallypoint.model.reactor import Reactor, Timer
    from rallypoint.store.client import Member
    from rallypoint.store.messages import Ask, Refusal, Vote
    from rallypoint.store.seats.peer import Place
    from rallypoint.store.server import Connection


def clock() -> float:
    """Return seconds that go on while the machine is suspended: a promise runs out meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Seat:
    """Seat ``number`` among ``places``, at the socket ``sock`` that listens there; a ``server.Bench``.

    ``changed`` is called when it begins to serve (``host.hub`` is there) and when it ceases. ``warn``: see
    ``open_tcp``.
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        number: int,
        places: tuple[Place, ...],
        member: Member,
        warn: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self.number = number
        self.serving = False
        self._closed = False
        self._reactor = reactor
        self._warn = warn
        self._changed = changed
        self._tenure = member.ttl
        self._timer: Timer | None = None
        self._others: dict[int, Connection] = {}
        name = os.urandom(16).hex()
        self.election = Election(number, len(places), name, member.ttl, clock())
        tls = None if member.tls is None else member.tls.server
        self.host = Host(reactor, sock, member.run_id, warn, None, member.token, tls, member.endpoints, self)
        hello = member.hello(name, number)
        self._peers = {n: Peer(reactor, self, n, place, member, hello) for n, place in enumerate(places) if n != number}

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.host.close()
        for peer in self._peers.values():
            peer.close()
        for connection in tuple(self._others.values()):
            connection.hang_up()

    @property
    def holder(self) -> int:
        """The number of the seat that probably serves, or -1."""
        return self.election.holder(clock())

    # What the server asks: see ``server.Bench``

    def other(self, seat: int) -> bool:
        """Whether there is another seat of this number."""
        return seat in self._peers

    def elsewhere(self) -> Elsewhere:
        return Elsewhere(self.holder, self.election.held)

    def sat(self, connection: Connection, hello: Hello) -> Welcome:
        """A seat is connected; it has one connection at a time."""
        earlier, self._others[hello.seat] = self._others.get(hello.seat), connection
        if earlier is not None:
            earlier.end("a later connection is here")
        return Welcome(0, 0, False)

    def asked(self, hello: Hello, ask: Ask) -> Vote | None:
        """Another seat asks for our vote. Raises ProtocolError for what cannot be asked."""
        if ask.want not in (LOOK, PROMISE, CLEAN, RELEASE):
            raise ProtocolError(f"ask: {ask.want!r} cannot be asked for")
        vote = self.election.answer(hello.seat, hello.session, ask, clock(), hello.attempt)
        self._reactor.soon(self.step)
        return vote

    def rose(self, connection: Connection, hello: Hello, hung_up: bool) -> None:
        if self._others.get(hello.seat) is connection:
            del self._others[hello.seat]
        if hung_up:
            self.election.closed(hello.seat, hello.session, clock(), hello.attempt)
            self._reactor.soon(self.step)

    # What the way to a peer tells

    def linked(self, number: int) -> None:
        self.election.linked(number, clock())
        self.step()

    def unlinked(self, number: int) -> None:
        self.election.unlinked(number, clock())
        self.step()

    def voted(self, number: int, vote: Vote) -> None:
        self.election.voted(number, vote, clock())
        self.step()

    def refused(self, refusal: Refusal, where: str) -> None:
        self._warn(f"the endpoint {where} is not of this run: {refusal.field} is {refusal.theirs!r} there")

    def step(self) -> None:
        """Do what the election wants now, and be woken when it wants more."""
        if self._closed:
            return
        while asks := self.election.step(clock()):
            for number, ask in asks:
                self._peers[number].ask(ask)
        now = clock()
        if self.election.active(now) != self.serving:
            self._turn(not self.serving)
        if self._timer is not None:
            self._timer.cancel()
        due = self.election.wake_at()
        self._timer = None if due is None else self._reactor.call_at(self._reactor.now() + due - now, self.step)

    def _turn(self, serving: bool) -> None:
        self.serving = serving
        if serving:
            self.host.serve(lambda: self.election.active(clock()))
        else:
            # Another may serve already, and others run without those who still trust this one: they are to stop.
            self.host.stand_down(Dropped("a majority of the endpoints is out of its reach", self._tenure))
        self._changed()

    def __repr__(self) -> str:
        return f"<Seat {self.number}, {self.election!r}>"
