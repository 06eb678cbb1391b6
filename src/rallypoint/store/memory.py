"""A store inside this process: for one node alone, for tests, and for the agent that hosts the store."""

from __future__ import annotations

from rallypoint import __version__
from rallypoint.store.front import Front
from rallypoint.store.hub import Hub
from rallypoint.store.messages import PROTOCOL, Hello, Welcome
from rallypoint.store.state import FOREVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.reactor import Reactor
    from rallypoint.store.api import StoreWatcher
    from rallypoint.store.messages import Message


class LocalLink:
    """Carries messages between a front and a hub of the same process; what the hub tells comes a turn later.

    Its user is never unheard of, so the ``hello`` has a ttl of ``FOREVER``.
    """

    def __init__(self, reactor: Reactor, hub: Hub, hello: Hello, receive: Callable[[Message], None]) -> None:
        self._reactor = reactor
        self._hub = hub
        self._receive = receive
        self._inbox: list[Message] = []
        self._session = hub.join(hello, self._tell)

    def carry(self, message: Message) -> None:
        self._hub.handle(self._session, message)

    def close(self, left: bool, reason: str) -> None:
        self._inbox.clear()
        self._hub.leave(self._session, left, reason)

    def _tell(self, message: Message) -> None:
        self._inbox.append(message)
        if len(self._inbox) == 1:
            self._reactor.soon(self._drain)

    def _drain(self) -> None:
        inbox, self._inbox = self._inbox, []
        for message in inbox:
            self._receive(message)

    def __repr__(self) -> str:
        return f"<LocalLink {self._session!r}, {len(self._inbox)} messages to tell>"


class MemoryStore(Front):
    """A store in this process. Those given the same ``hub`` share keys, run by run."""

    def __init__(
        self,
        reactor: Reactor,
        watcher: StoreWatcher,
        hub: Hub | None = None,
        *,
        run_id: str = "",
        node: str = "",
        where: str = "memory",
    ) -> None:
        super().__init__(reactor, watcher, where)
        self.hub = Hub(reactor) if hub is None else hub
        self._own_hub = hub is None
        hello = Hello(PROTOCOL, __version__, run_id, node, FOREVER, f"{node}:{id(self)}")
        self._link: LocalLink | None = LocalLink(reactor, self.hub, hello, self._told)

    def lose(self, reason: str = "lost") -> None:
        """Vanish without goodbye, as a node that dies (for tests): leases are lost, not given back."""
        self._end(False, reason)

    def close(self) -> None:
        self._end(True, "closed")

    def _end(self, left: bool, reason: str) -> None:
        super().close()
        if self._link is not None:
            self._link.close(left, reason)
            self._link = None
        if self._own_hub:
            self.hub.close()

    def _told(self, message: Message) -> None:
        if type(message) is Welcome and self._link is not None:
            self._opened(self._link.carry, message, "")
        else:
            self._receive(message)


def open_memory(reactor: Reactor, watcher: StoreWatcher, run_id: str = "", node: str = "") -> MemoryStore:
    """Open a store for this node alone."""
    return MemoryStore(reactor, watcher, run_id=run_id, node=node)
