"""The user's side of a store: the five verbs, over whatever carries the messages.

It remembers what was asked and what was told, so that a lost connection costs nothing but time:
see laws 4 and 5 of ``api``. Subclasses bring a carrier (in-process or TCP) and call ``_opened``,
``_receive``, ``_lost`` and ``_refuse``.
"""

from __future__ import annotations

import time

from rallypoint.store.api import MAX_KEY, Entry, Reply
from rallypoint.store.messages import Answer, Changed, Lease, Listing, Read, Swap, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.reactor import Reactor
    from rallypoint.store.api import Json, StoreWatcher
    from rallypoint.store.messages import Message, Welcome

UNKNOWN = -1


class Front:
    """Implements ``api.Store`` but for reaching one. ``where`` names the store for people.

    ``clock_offset``: seconds by which the store's clock is before ours, None if it does not tell its time.
    """

    def __init__(self, reactor: Reactor, watcher: StoreWatcher, where: str) -> None:
        self.where = where
        self.clock_offset: float | None = None
        self._reactor = reactor
        self._watcher = watcher
        self._carry: Callable[[Message], None] | None = None
        self._calls: dict[int, _Call] = {}
        self._watches: dict[int, _Watch] = {}
        self._count = 0
        self._epoch: int | None = None
        self._refusal = ""
        self._closed = False

    # The verbs

    def read(self, prefix: str, done: Callable[[Reply], None]) -> None:
        self._ask(Read(self._number(), _key(prefix, 0)), done)

    def swap(self, key: str, expected: int, value: Json, done: Callable[[Reply], None]) -> None:
        self._ask(Swap(self._number(), _key(key), expected, plain(value)), done)

    def lease(self, key: str, ttl: float, value: Json, done: Callable[[Reply], None]) -> None:
        if ttl < 0 or (ttl > 0 and value is None):
            raise ValueError(f"lease of {key!r}: ttl {ttl}, value {value!r}; a lease has a value, and no time below 0")
        self._ask(Lease(self._number(), _key(key), float(ttl), plain(value)), done)

    def watch(self, prefix: str, since: int, seen: Callable[[Entry], None]) -> None:
        watch = _Watch(Watch(self._number(), _key(prefix, 0)), since, seen)
        if not self._closed:
            self._watches[watch.request.id] = watch
            if self._carry is not None:
                self._carry(watch.request)

    def close(self) -> None:
        self._closed = True
        self._carry = None
        self._calls.clear()
        self._watches.clear()

    # What the carrier tells

    def _opened(self, carry: Callable[[Message], None], welcome: Welcome, address: str) -> None:
        """Take up the connection: watches first, then what waits in the order it was asked, then the user."""
        fresh = not welcome.resumed
        other = self._epoch not in (None, welcome.epoch)
        self._epoch = welcome.epoch
        if welcome.now:
            self.clock_offset = welcome.now - time.time()
        self._carry = carry
        for watch in self._watches.values():
            watch.listed = False
            if other:
                watch.forget_revisions()
            carry(watch.request)
        for call in self._calls.values():
            call.sent = True
            carry(call.request)
        self._watcher.store_up(address, fresh)

    def _receive(self, message: Message) -> None:
        if self._closed:
            return
        if type(message) is Changed:
            for watch in tuple(self._watches.values()):
                if watch.listed and message.entry.key.startswith(watch.request.prefix) and not self._closed:
                    watch.tell(message.entry)
        elif type(message) is Answer:
            if (call := self._calls.pop(message.id, None)) is not None:
                call.done(_reply(call.request, message))
        elif type(message) is Listing and (found := self._watches.get(message.id)) is not None:
            found.listed = True
            for entry in found.compare(message):
                if not self._closed:
                    found.tell(entry)

    def _lost(self, reason: str, silent: float) -> None:
        """The carrier is gone: writes that may have been carried out answer ``error``, reads will be asked again."""
        self._carry = None
        self._watcher.store_lost(reason, silent)
        for call in [c for c in self._calls.values() if c.sent]:
            call.sent = False
            if type(call.request) is not Read:
                self._fail(call.request.id, f"the connection was lost before the answer came ({reason})")

    def _refuse(self, field: str, mine: str, theirs: str) -> None:
        if self._closed:
            return
        self._carry = None
        self._refusal = f"refused: {field} is {mine!r} here, {theirs!r} there"
        self._watcher.store_refused(field, mine, theirs)
        for number in tuple(self._calls):
            self._fail(number, self._refusal)

    def _number(self) -> int:
        self._count += 1
        return self._count

    def _ask(self, request: Read | Swap | Lease, done: Callable[[Reply], None]) -> None:
        if self._closed:
            return
        call = self._calls[request.id] = _Call(request, done)
        if self._refusal:
            self._reactor.soon(lambda: self._fail(request.id, self._refusal))
        elif self._carry is not None:
            call.sent = True
            self._carry(request)

    def _fail(self, number: int, error: str) -> None:
        if (call := self._calls.pop(number, None)) is not None:
            call.done(Reply(False, error=error))

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._refusal or ("out of reach" if self._carry is None else "up")
        return f"<{type(self).__name__} {self.where}, {state}, {len(self._calls)} calls, {len(self._watches)} watches>"


class _Call:
    """A request that waits for its answer. ``sent``: on the connection that is open now."""

    __slots__ = ("done", "request", "sent")

    def __init__(self, request: Read | Swap | Lease, done: Callable[[Reply], None]) -> None:
        self.request = request
        self.done = done
        self.sent = False


class _Watch:
    """What one watch was told: revision and creation of each key that is there, told or older than ``since``."""

    __slots__ = ("known", "listed", "request", "seen", "since")

    def __init__(self, request: Watch, since: int, seen: Callable[[Entry], None]) -> None:
        self.request = request
        self.since = since
        self.seen = seen
        self.known: dict[str, tuple[int, int]] = {}
        self.listed = False

    def forget_revisions(self) -> None:
        """Another store answers: what it lists is new, even at a smaller revision."""
        self.since = UNKNOWN
        self.known = {key: (UNKNOWN, created) for key, (_, created) in self.known.items()}

    def compare(self, listing: Listing) -> list[Entry]:
        """Return what changed between what is known and ``listing``."""
        there = {entry.key for entry in listing.entries}
        reason = "gone while the store was out of reach"
        gone = [
            Entry(key, None, listing.revision, created, False, reason)
            for key, (_, created) in self.known.items()
            if key not in there
        ]
        return [*gone, *listing.entries]

    def tell(self, entry: Entry) -> None:
        known = self.known.get(entry.key)
        if entry.value is None:
            if known is not None:
                del self.known[entry.key]
                self.seen(entry)
        elif known is None or known[0] < entry.revision:
            self.known[entry.key] = (entry.revision, entry.created)
            if entry.revision > self.since:
                self.seen(entry)


def _reply(request: Read | Swap | Lease, answer: Answer) -> Reply:
    entry = answer.entry
    if not isinstance(request, Read) and answer.created:
        entry = Entry(request.key, request.value, answer.revision, answer.created)
    return Reply(answer.ok, answer.revision, entry, answer.entries, answer.error)


def _key(key: str, least: int = 1) -> str:
    if not least <= len(key) <= MAX_KEY:
        raise ValueError(f"a key has {least} to {MAX_KEY} characters, not {len(key)}: {key[:60]!r}")
    return key


def plain(value: Json) -> Json:
    """Return ``value`` as JSON would give it back, apart from the caller's own. Raises TypeError."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float) and value - value == 0:  # neither NaN nor infinite
        return value
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(v) for key, v in value.items()}
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be written in JSON")
