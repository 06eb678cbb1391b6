"""The way from one seat to another: dialled until it answers, and again when it is lost."""

from __future__ import annotations

from rallypoint.net import join_endpoint
from rallypoint.store.link import Link
from rallypoint.store.messages import Vote
from rallypoint.store.pause import Pause
from rallypoint.store.resolve import numeric, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from rallypoint.model.reactor import Reactor
    from rallypoint.store.client import Member
    from rallypoint.store.messages import Ask, Elsewhere, Hello, Message, Refusal, Welcome
    from rallypoint.store.resolve import Found

    Place = tuple[str, int]

    class PeerUser(Protocol):
        """Whom the way tells of it."""

        def linked(self, number: int) -> None: ...

        def unlinked(self, number: int) -> None: ...

        def voted(self, number: int, vote: Vote) -> None: ...

        def refused(self, refusal: Refusal, where: str) -> None: ...


CONNECT = 3.0
"""The most seconds that one endpoint may take to answer: others may be better."""


class Peer:
    """Keeps a link to seat ``number``, at ``place``, and says ``hello`` there; see ``LinkUser`` for the rest."""

    def __init__(
        self, reactor: Reactor, user: PeerUser, number: int, place: Place, member: Member, hello: Hello
    ) -> None:
        self._reactor = reactor
        self._user = user
        self._number = number
        self._place = place
        self._member = member
        self._hello = hello
        self._link: Link | None = None
        self._up = False
        self._closed = False
        self._refused = False
        self._pause = Pause(reactor)
        reactor.soon(self._seek)

    def ask(self, ask: Ask) -> None:
        """Send ``ask``; it may be lost."""
        if self._link is not None and self._up:
            self._link.carry(ask)

    def close(self) -> None:
        self._closed = True
        self._pause.cancel()
        if self._link is not None:
            self._link.close()
            self._link = None

    # What the link tells

    def link_up(self, _welcome: Welcome, _address: str) -> None:
        self._up = True
        self._refused = False
        self._pause.reset()
        self._user.linked(self._number)

    def link_told(self, message: Message) -> None:
        if isinstance(message, Vote):
            self._user.voted(self._number, message)

    def link_refused(self, refusal: Refusal) -> None:
        if not self._refused:
            self._refused = True
            self._user.refused(refusal, join_endpoint(*self._place))
        self.link_ended("", 0.0)

    def link_moved(self, _elsewhere: Elsewhere) -> None:
        self.link_ended("", 0.0)

    def link_ended(self, _reason: str, _silent: float) -> None:
        self._link = None
        if self._up:
            self._up = False
            self._user.unlinked(self._number)
        if not self._closed:
            self._pause.then(self._seek)

    # Finding it

    def _seek(self) -> None:
        host, _ = self._place
        if self._closed:
            return
        if (address := numeric(host)) is not None:
            self._dial((address,))
        else:
            resolve(self._reactor, host, self._found)

    def _found(self, found: Found) -> None:
        if self._closed:
            return
        if found.addresses:
            self._dial(found.addresses)
        else:
            self._pause.then(self._seek)

    def _dial(self, addresses: tuple[str, ...]) -> None:
        host, port = self._place
        address = addresses[self._hello.attempt % len(addresses)]
        self._hello = self._hello.replace(attempt=self._hello.attempt + 1)
        member = self._member
        self._link = Link(
            self._reactor,
            self,
            address=address,
            port=port,
            hello=self._hello,
            interval=member.keep_alive_interval,
            local_addr=member.local_addr,
            token=member.token,
            tls=None if member.tls is None else (member.tls.client, host),
            patience=CONNECT,
        )

    def __repr__(self) -> str:
        return f"<Peer {join_endpoint(*self._place)}, {'linked' if self._up else 'not linked'}>"
