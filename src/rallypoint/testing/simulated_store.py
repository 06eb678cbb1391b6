"""One node's end of a simulated store: it keeps the laws of ``store.api`` and uses the freedom they leave.

``simulated_server.SimulatedServer`` holds the keys; between them is a ``Link`` that keeps the order in
each direction and may be slow, held up for a while, or lost.
"""

from __future__ import annotations

from rallypoint.store.api import Entry, Reply
from rallypoint.testing.simulated_server import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from typing import Any

    from rallypoint.store.api import Json, StoreWatcher
    from rallypoint.testing.clock import ManualClock
    from rallypoint.testing.simulated_server import Session, SimulatedServer

RETRY = (0.05, 1.0)
"""Seconds between two attempts to connect: at least, at most."""


class _Call:
    """A call that has not been answered."""

    def __init__(self, verb: str, args: tuple[Any, ...], done: Callable[[Reply], None]) -> None:
        self.verb = verb
        self.args = args
        self.done = done
        self.sent = False


class SimulatedStore:
    """``store.api.Store`` for one node. ``gate`` runs what the node does, unless it is dead or frozen.

    ``server`` answers the server that can be reached now, or None.
    """

    where = "simulation"

    def __init__(
        self,
        clock: ManualClock,
        rng: random.Random,
        name: str,
        ttl: float,
        gate: Callable[[Callable[[], None]], None],
        server: Callable[[], SimulatedServer | None],
    ) -> None:
        self.ttl = ttl
        self.delay = 0.001
        self.session: Session | None = None
        self.epoch = 0
        self._clock = clock
        self._rng = rng
        self._name = name
        self._gate = gate
        self._server = server
        self._reached: SimulatedServer | None = None
        self._watcher: StoreWatcher | None = None
        self._watches: list[tuple[str, Callable[[Entry], None], dict[str, Entry]]] = []
        self._calls: list[_Call] = []
        self._mutes: set[str] = set()
        self._attempts = 0
        self._closed = False

    # -- the five verbs

    def read(self, prefix: str, done: Callable[[Reply], None]) -> None:
        self._ask("read", (prefix,), done)

    def swap(self, key: str, expected: int, value: Json, done: Callable[[Reply], None]) -> None:
        self._ask("swap", (key, expected, value), done)

    def lease(self, key: str, ttl: float, value: Json, done: Callable[[Reply], None]) -> None:
        self._ask("lease", (key, ttl, value), done)

    def watch(self, prefix: str, since: int, seen: Callable[[Entry], None]) -> None:
        """Watch; ``since`` must be 0 (all that is there)."""
        assert since == 0, "the simulation resumes by itself"
        self._watches.append((prefix, seen, {}))
        if self.session is not None:
            self._send_watch(prefix)

    def close(self) -> None:
        self._closed = True
        if self.session is not None:
            self._hang_up(self.session, left=True, reason="left")

    # -- what the world does to it

    def connect(self, watcher: StoreWatcher) -> None:
        """Begin to look for the server; ``watcher`` is told what comes of it."""
        self._watcher = watcher
        self._try()

    def mute(self, why: str, muted: bool = True) -> None:
        """Nothing is heard of the node any more (a cut cable, a frozen node), or it is again."""
        self._mutes = self._mutes | {why} if muted else self._mutes - {why}
        if (session := self.session) is None or self._reached is None:
            return
        if muted and session.unheard_since is None:
            self._reached.unheard(session)
        elif not self._mutes and session.live:
            session.unheard_since = None

    def cut(self) -> None:
        """The network takes nothing more; after a keep-alive time-out the node notices."""
        self.mute("cut")
        if (session := self.session) is None:
            return
        link = session.link
        link.hold()
        patience = self._rng.uniform(0.0, 1.0) * self.ttl

        def notice() -> None:
            if self.session is session and "cut" in self._mutes and session.link is link:
                self._lost(session, f"no answer for {patience:.1f} s")

        self._clock.call_at(self._clock.now() + patience, lambda: self._gate(notice))

    def mend(self) -> None:
        """What was cut is whole again; what was held up arrives."""
        self.mute("cut", False)
        if self.session is not None:
            self.session.link.release()

    def reset(self) -> None:
        """Both ends see the connection closed."""
        if (session := self.session) is not None and (server := self._reached) is not None:
            link = session.link
            self._gate(lambda: self._lost(session, "connection reset by peer"))

            def closed() -> None:
                if session.link is link:
                    server.end(session, False, "its connection was closed")

            self._clock.call_at(self._clock.now() + self._rng.uniform(0.0, 0.5), closed)

    def crash(self) -> None:
        """The node was killed: the kernel sends what was written and closes."""
        self._closed = True
        if self.session is not None:
            self._hang_up(self.session, left=False, reason="its connection was closed")

    # -- what the server says

    def listed(self, session: Session, prefix: str, entries: list[Entry]) -> None:
        """All that is there below a prefix, after (re)connecting."""
        self._gate(lambda: self._listed(session, prefix, entries))

    def changed(self, session: Session, entry: Entry) -> None:
        """One change of a watched key."""
        self._gate(lambda: self._changed(session, entry))

    def dropped(self, session: Session, reason: str) -> None:
        """The server closed the connection."""
        self._gate(lambda: self._lost(session, reason))

    # -- inside

    @property
    def _link(self) -> Link | None:
        return self.session.link if self.session else None

    def _hang_up(self, session: Session, left: bool, reason: str) -> None:
        server = self._reached
        assert server is not None, "a session is one with a server"
        link = session.link

        def closed() -> None:
            if session.link is link:
                server.end(session, left, reason)

        link.send(True, closed)

    def _ask(self, verb: str, args: tuple[Any, ...], done: Callable[[Reply], None]) -> None:
        call = _Call(verb, args, done)
        self._calls.append(call)
        if self.session is not None:
            self._send(call)

    def _send(self, call: _Call) -> None:
        session, server = self.session, self._reached
        assert session is not None and server is not None, "only what is connected sends"
        call.sent = True
        link = session.link

        def answered(reply: Reply) -> None:
            self._gate(lambda: self._answered(link, call, reply))

        link.send(True, lambda: server.request(session, call.verb, call.args, answered))

    def _answered(self, link: Link, call: _Call, reply: Reply) -> None:
        if call in self._calls and self._link is link:
            self._calls.remove(call)
            call.done(reply)

    def _send_watch(self, prefix: str) -> None:
        session, server = self.session, self._reached
        assert session is not None and server is not None, "only what is connected watches"
        session.link.send(True, lambda: server.watch(session, prefix))

    def _listed(self, session: Session, prefix: str, entries: list[Entry]) -> None:
        if session is not self.session:
            return
        for watched, seen, known in list(self._watches):
            if watched == prefix:
                there = {entry.key for entry in entries}
                news = [Entry(key, None, e.revision, e.created) for key, e in known.items() if key not in there]
                news += [entry for entry in entries if known.get(entry.key) != entry]
                for entry in sorted(news, key=lambda e: e.revision):
                    self._note(known, entry)
                    seen(entry)

    def _changed(self, session: Session, entry: Entry) -> None:
        if session is self.session:
            for prefix, seen, known in list(self._watches):
                if entry.key.startswith(prefix):
                    self._note(known, entry)
                    seen(entry)

    @staticmethod
    def _note(known: dict[str, Entry], entry: Entry) -> None:
        if entry.value is None:
            known.pop(entry.key, None)
        else:
            known[entry.key] = entry

    def _lost(self, session: Session, reason: str) -> None:
        if session is not self.session or self._watcher is None or self._closed:
            return
        session.link.open = False
        if session.live and session.unheard_since is None and self._reached is not None:
            self._reached.unheard(session)
        self.session = None
        unsure = [c for c in self._calls if c.sent and c.verb in ("swap", "lease")]
        self._calls = [c for c in self._calls if c not in unsure]
        for call in self._calls:
            call.sent = False
        self._watcher.store_lost(reason, 0.0)
        for call in unsure:
            call.done(Reply(False, error=reason))
        self._later()

    def _later(self) -> None:
        pause = self._rng.uniform(*RETRY)
        self._clock.call_at(self._clock.now() + pause, lambda: self._gate(self._try))

    def _try(self) -> None:
        if self._closed or self._watcher is None:
            return
        server = self._server()
        if server is None or self._mutes:
            self._attempts += 1
            self._watcher.store_tried(self.where, "connection refused", self._attempts)
            self._later()
            return
        link = Link(self._clock, lambda: self._rng.uniform(0.1, 2.0) * self.delay)
        link.send(False, lambda: self._gate(lambda: self._welcome(server, link)))

    def _welcome(self, server: SimulatedServer, link: Link) -> None:
        assert self._watcher is not None, "connect() comes before"
        if not server.alive or self._mutes or self._closed:
            self._later()
            return
        self.epoch = server.epoch
        session, fresh = server.open(self._name, self, link)
        # What the watcher asks for now is sent after the watches of before, as is all that waits.
        self._watcher.store_up(f"10.0.0.{self._name.strip('n')}", fresh)
        self._reached, self.session = server, session
        for prefix in [w[0] for w in self._watches]:
            self._send_watch(prefix)
        for call in [c for c in self._calls if not c.sent]:
            self._send(call)

    def __repr__(self) -> str:
        return f"<SimulatedStore of {self._name}: {self.session}, {len(self._calls)} calls>"
