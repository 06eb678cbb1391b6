"""The server of a simulated store: keys, revisions, leases and watches in virtual time."""

from __future__ import annotations

import json

from rallypoint.store.api import Entry, Reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rallypoint.store.api import Json
    from rallypoint.testing.clock import ManualClock
    from rallypoint.testing.simulated_store import SimulatedStore


class Link:
    """One connection: two queues of calls, each in order. ``hold`` keeps what arrives until ``release``."""

    def __init__(self, clock: ManualClock, delay: Callable[[], float]) -> None:
        self._clock = clock
        self._delay = delay
        self._last = {True: 0.0, False: 0.0}
        self._waiting: list[Callable[[], None]] = []
        self._held = False
        self.open = True

    def send(self, up: bool, call: Callable[[], None]) -> None:
        """Run ``call`` at the other end, a while later: ``up`` to the server, else to the node."""
        when = self._last[up] = max(self._last[up], self._clock.now() + self._delay())
        self._clock.call_at(when, lambda: self._arrive(call))

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        self._held = False
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            self._arrive(call)

    def _arrive(self, call: Callable[[], None]) -> None:
        if self._held:
            self._waiting.append(call)
        elif self.open:
            call()


class Session:
    """One node as the server knows it; it outlives a link by ``ttl`` seconds of silence."""

    def __init__(self, name: str, client: SimulatedStore, link: Link) -> None:
        self.name = name
        self.client = client
        self.link = link
        self.live = True
        self.unheard_since: float | None = None
        self.leases: list[str] = []
        self.prefixes: list[str] = []

    def __repr__(self) -> str:
        return f"<Session of {self.name}: {'live' if self.live else 'ended'}, {self.leases}>"


class SimulatedServer:
    """The keys of one run. ``written`` is shown each entry that is written (for laws to be checked)."""

    def __init__(self, clock: ManualClock, epoch: int, written: Callable[[Entry], None]) -> None:
        self._clock = clock
        self._written = written
        self.epoch = epoch
        self.revision = epoch
        self.entries: dict[str, Entry] = {}
        self.sessions: dict[str, Session] = {}
        self._owners: dict[str, Session] = {}
        self.alive = True

    def open(self, name: str, client: SimulatedStore, link: Link) -> tuple[Session, bool]:
        """Take up the session of a node again, or begin one; return it and whether its leases are gone."""
        known = self.sessions.get(name)
        if known is not None:
            known.link, known.unheard_since, known.prefixes = link, None, []
            return known, False
        session = self.sessions[name] = Session(name, client, link)
        return session, True

    def end(self, session: Session, left: bool, reason: str) -> None:
        """The session is over: its leases go, everybody is told, its link is closed."""
        if not session.live or not self.alive:
            return
        session.live = False
        del self.sessions[session.name]
        for key in list(session.leases):
            self._delete(key, left, reason)
        session.link.send(False, lambda: session.client.dropped(session, reason))

    def unheard(self, session: Session) -> None:
        """Nothing arrives from the session's node from now on, until ``heard``."""
        since = session.unheard_since = self._clock.now()

        def expire() -> None:
            if session.unheard_since == since:
                self.end(session, False, "unheard of")

        self._clock.call_at(since + session.client.ttl, expire)

    def die(self) -> None:
        """The host of the store is gone, and with it all that it knew."""
        self.alive = False
        for session in self.sessions.values():
            session.live = False
            session.link.send(False, _dropper(session, "the store closed the connection"))

    def request(self, session: Session, verb: str, args: tuple[Any, ...], answer: Callable[[Reply], None]) -> None:
        """Carry out one call; ``answer`` is sent back before any change is told."""
        if session.live and self.alive:
            getattr(self, "_" + verb)(session, *args, lambda reply: session.link.send(False, lambda: answer(reply)))

    def watch(self, session: Session, prefix: str) -> None:
        session.prefixes.append(prefix)
        there = self._below(prefix)
        session.link.send(False, lambda: session.client.listed(session, prefix, there))

    def _below(self, prefix: str) -> list[Entry]:
        return [self.entries[key] for key in sorted(self.entries) if key.startswith(prefix)]

    def _read(self, _session: Session, prefix: str, answer: Callable[[Reply], None]) -> None:
        answer(Reply(True, self.revision, entries=tuple(self._below(prefix))))

    def _swap(self, session: Session, key: str, expected: int, value: Json, answer: Callable[[Reply], None]) -> None:
        there = self.entries.get(key)
        ours = self._owners.get(key, session) is session
        if (there.revision if there else 0) != expected or not ours:
            answer(Reply(False, self.revision, there))
        elif value is not None:
            self._write(key, value, answer)
        else:
            answer(Reply(True, self.revision + 1))
            self._delete(key, True, "")

    def _lease(self, session: Session, key: str, ttl: float, value: Json, answer: Callable[[Reply], None]) -> None:
        if self._owners.get(key, session) is not session:
            answer(Reply(False, self.revision, self.entries.get(key)))
        elif ttl > 0:
            if key not in session.leases:
                session.leases.append(key)
            self._owners[key] = session
            self._write(key, value, answer)
        else:
            answer(Reply(True, self.revision + 1))
            if key in self.entries:
                self._delete(key, True, value if isinstance(value, str) else "")

    def _write(self, key: str, value: Json, answer: Callable[[Reply], None]) -> None:
        self.revision += 1
        there = self.entries.get(key)
        value = json.loads(json.dumps(value))
        entry = Entry(key, value, self.revision, there.created if there else self.revision)
        self.entries[key] = entry
        self._written(entry)
        answer(Reply(True, self.revision, entry))
        self._tell(entry)

    def _delete(self, key: str, left: bool, reason: str) -> None:
        self.revision += 1
        there = self.entries.pop(key)
        if (owner := self._owners.pop(key, None)) is not None:
            owner.leases.remove(key)
        self._tell(Entry(key, None, self.revision, there.created, left, reason))

    def _tell(self, entry: Entry) -> None:
        for session in self.sessions.values():
            if any(entry.key.startswith(prefix) for prefix in session.prefixes):
                session.link.send(False, _teller(session, entry))

    def __repr__(self) -> str:
        return f"<SimulatedServer at {self.revision}: {sorted(self.entries)}>"


def _teller(session: Session, entry: Entry) -> Callable[[], None]:
    return lambda: session.client.changed(session, entry)


def _dropper(session: Session, reason: str) -> Callable[[], None]:
    return lambda: session.client.dropped(session, reason)
