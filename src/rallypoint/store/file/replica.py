"""What the journal says: keys, owners and sessions, and what a request changes in them. No I/O and no clock.

A transaction is a list of changes, each a list of its kind and its fields:

    whole  epoch, revision                          the first: nothing was there
    in     session, node, version, ttl              a session opens
    out    session, reason                          it ends (its keys are cut before)
    put    key, value, revision, created, owner     a key is written; owner: a session, or "" for none
    cut    key, revision, left, reason              a key is gone
"""

from __future__ import annotations

from rallypoint.model.errors import ProtocolError
from rallypoint.model.value import Value
from rallypoint.store.api import Entry
from rallypoint.store.messages import Answer, Lease, Listing, Read, Swap, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rallypoint.store.api import Json
    from rallypoint.store.messages import Message

    Change = list[Any]


class Member(Value):
    """A session as the journal has it; ``ttl``: seconds that it may be unheard of."""

    node: str
    version: str
    ttl: float


class Replica:
    """The state that the journal has led to, as far as it was read."""

    def __init__(self) -> None:
        self.epoch = 0
        self.revision = 0
        self.entries: dict[str, Entry] = {}
        self.owners: dict[str, str] = {}
        self.sessions: dict[str, Member] = {}

    # Reading

    def apply(self, changes: list[Change]) -> list[Entry]:
        """Take in one transaction; return what watches are to be told. Raises ProtocolError for what is none."""
        told: list[Entry] = []
        for kind, *fields in changes:
            try:
                told += _TAKE[kind](self, *fields)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ProtocolError(f"the journal holds {kind!r} {fields!r}, which is no change: {error}") from None
        return told

    def since(self, before: Replica) -> list[Entry]:
        """Return what is different from an earlier state, for watches."""
        reason = "gone while this node looked away"
        gone = [
            Entry(e.key, None, self.revision, e.created, False, reason)
            for e in before.entries.values()
            if e.key not in self.entries
        ]
        known = {e.key: e.revision for e in before.entries.values()}
        new = [e for e in self.entries.values() if known.get(e.key) != e.revision]
        return [*gone, *sorted(new, key=lambda e: e.revision)]

    def _whole(self, epoch: int, revision: int) -> list[Entry]:
        self.epoch, self.revision = epoch, revision
        return []

    def _in(self, session: str, node: str, version: str, ttl: float) -> list[Entry]:
        self.sessions[session] = Member(node, version, ttl)
        return []

    def _out(self, session: str, _reason: str) -> list[Entry]:
        self.sessions.pop(session, None)
        return []

    def _put(self, key: str, value: Json, revision: int, created: int, owner: str) -> list[Entry]:
        self.revision = revision
        self.owners.pop(key, None)
        if owner:
            self.owners[key] = owner
        entry = self.entries[key] = Entry(key, value, revision, created)
        return [entry]

    def _cut(self, key: str, revision: int, left: bool, reason: str) -> list[Entry]:
        self.revision = revision
        self.owners.pop(key, None)
        before = self.entries.pop(key)
        return [Entry(key, None, revision, before.created, left, reason)]

    def below(self, prefix: str) -> tuple[Entry, ...]:
        return tuple(self.entries[key] for key in sorted(self.entries) if key.startswith(prefix))

    def whole(self) -> list[Change]:
        """Return the transaction that leads to this state from nothing."""
        changes: list[Change] = [["whole", self.epoch, self.revision]]
        changes += [["in", name, m.node, m.version, m.ttl] for name, m in self.sessions.items()]
        for e in sorted(self.entries.values(), key=lambda e: e.revision):
            changes.append(["put", e.key, e.value, e.revision, e.created, self.owners.get(e.key, "")])
        return changes

    # Requests

    def request(self, session: str, message: Message) -> tuple[Message, list[Change]]:
        """Return the answer to a request of ``session``, and what it changes (which is not applied yet)."""
        if isinstance(message, Watch):
            return Listing(message.id, self.revision, self.below(message.prefix)), []
        if isinstance(message, Read):
            return Answer(message.id, True, self.revision, entries=self.below(message.prefix)), []
        assert isinstance(message, (Swap, Lease))
        there, owner = self.entries.get(message.key), self.owners.get(message.key, "")
        if isinstance(message, Swap):
            may = (there.revision if there else 0) == message.expected and owner in ("", session)
        elif message.ttl > 0:
            may = owner in ("", session)
        else:
            may = there is None or owner == session
        if not may:
            return Answer(message.id, False, self.revision, there), []
        if isinstance(message, Swap):
            return self._write(message.id, message.key, message.value, owner)
        if message.ttl > 0:
            return self._write(message.id, message.key, message.value, session)
        return self._take(message.id, message.key, message.value if isinstance(message.value, str) else "")

    def _write(self, number: int, key: str, value: Json, owner: str) -> tuple[Answer, list[Change]]:
        if value is None:
            return self._take(number, key, "")
        revision = self.revision + 1
        created = self.entries[key].created if key in self.entries else revision
        answer = Answer(number, True, revision, created=created)
        return answer, [["put", key, value, revision, created, owner]]

    def _take(self, number: int, key: str, reason: str) -> tuple[Answer, list[Change]]:
        if key not in self.entries:
            return Answer(number, True, self.revision), []
        revision = self.revision + 1
        return Answer(number, True, revision), [["cut", key, revision, True, reason]]

    def leave(self, session: str, left: bool, reason: str) -> list[Change]:
        """Return what the end of a session changes. If it is the last and it ``left``, nothing remains."""
        if session not in self.sessions:
            return []
        keys = [key for key, owner in self.owners.items() if owner == session]
        if left and len(self.sessions) == 1:
            keys = list(self.entries)
        return [*self._cuts(keys, left, reason), ["out", session, reason]]

    def empty(self) -> list[Change]:
        """Return what takes away every key."""
        return self._cuts(list(self.entries), False, "the run was given up long ago")

    def _cuts(self, keys: list[str], left: bool, reason: str) -> list[Change]:
        return [["cut", key, self.revision + n, left, reason] for n, key in enumerate(keys, 1)]

    def __repr__(self) -> str:
        return f"<Replica at revision {self.revision}, {len(self.entries)} keys, {len(self.sessions)} sessions>"


_TAKE: dict[str, Callable[..., list[Entry]]] = {
    "whole": Replica._whole,
    "in": Replica._in,
    "out": Replica._out,
    "put": Replica._put,
    "cut": Replica._cut,
}
