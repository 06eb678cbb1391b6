"""The coordination store: five verbs, asynchronous, and the contract that every backend keeps.

Laws (checked by ``rallypoint.testing.check_store`` against the real thing):

1. Keys are short strings ("nodes/h1:17:ab"; 1 to 512 characters), values JSON. Every accepted write
   gives the store a new revision, larger than any before; a key's revision is that of its last write.
   What cannot be written in JSON raises TypeError, and a key that is no key ValueError, in the caller.
2. ``swap`` writes only if the key is at the expected revision (0: the key does not exist), so of
   several writers who saw the same revision exactly one succeeds. Value None deletes. A swap does
   not touch a key under another live session's lease, and leaves a lease of our own as it is.
3. ``lease`` creates or rewrites a key that lives as long as its owner's session: it goes when the
   owner gives it back (``ttl`` 0; a string as value then says why), closes, or is unheard of for
   ``ttl`` seconds by the store's own clock. A store that sees the owner die (its connection closes)
   need not wait. A key under another live session's lease is not taken: the reply says so.
4. ``watch`` first tells every key below the prefix that is there, then every change, each key's
   changes in order; a key that came and went in between may be left out. After a lost connection
   it resumes by itself, telling the keys that vanished meanwhile as gone. What is told and answered
   keeps the order of the calls: a ``read`` asked after a ``watch`` is answered when all that was
   there has been told; a write is answered before the writer's own watches tell of it.
5. No verb blocks. Each ``done`` is called from the loop, later, exactly once; never after ``close``.
   While the store is out of reach, calls wait and are sent on reconnecting, except that ``swap`` and
   ``lease`` whose request may or may not have been carried out answer ``error`` (ask again by ``read``).
"""

from __future__ import annotations

from rallypoint.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    Json = dict[str, Any] | list[Any] | tuple[Any, ...] | str | int | float | bool | None
else:
    Protocol = object

MAX_KEY = 512
"""The most characters that a key (or a prefix) may have."""


class Entry(Value):
    """A key with its value (None: the key is gone) at ``revision``; ``created``: revision of its first write.

    For a key that is gone, ``revision`` is that of its going, ``left`` tells whether its owner gave it
    back (True) or was lost (False), and ``reason`` says why in words ("" if nobody said).
    """

    key: str
    value: Json
    revision: int
    created: int = 0
    left: bool = False
    reason: str = ""


class Reply(Value):
    """The answer to one call. ``ok``: it was done. Else ``error`` says why not, or, if that is empty, ``entry`` does.

    ``entry`` is what is at the key now: what was just written or, if the write was not done, what is
    there instead; None if there is no such key. ``entries`` answers ``read``. ``revision`` is the
    store's revision at that moment: after a write, that of the write.
    """

    ok: bool
    revision: int = 0
    entry: Entry | None = None
    entries: tuple[Entry, ...] = ()
    error: str = ""


class StoreWatcher(Protocol):
    """What a store tells its user about itself. Each is called from the loop, later than the call that opens it."""

    def store_up(self, address: str, fresh: bool) -> None:
        """Connected; ``address`` is where this node is reached, as seen from the store ("" if unknown).

        ``fresh``: this is the first time, or the leases of before are gone.
        """

    def store_tried(self, where: str, reason: str, attempt: int) -> None:
        """An attempt to connect failed; the store tries again by itself."""

    def store_lost(self, reason: str, silent: float) -> None:
        """The connection is gone, nothing having been heard for ``silent`` seconds; the store reconnects by itself."""

    def store_refused(self, field: str, mine: str, theirs: str) -> None:
        """The store will not serve this node (other run id, other version, other terms): final."""


class Store(Protocol):
    """A coordination store; see the laws above. ``where`` names it for people."""

    where: str

    def read(self, prefix: str, done: Callable[[Reply], None]) -> None:
        """Answer ``entries``: every key that starts with ``prefix``, in the order of the keys."""

    def swap(self, key: str, expected: int, value: Json, done: Callable[[Reply], None]) -> None:
        """Write ``value`` (None: delete) if ``key`` is at revision ``expected``."""

    def lease(self, key: str, ttl: float, value: Json, done: Callable[[Reply], None]) -> None:
        """Write ``value`` under a lease of ours of ``ttl`` seconds (0: give the key back)."""

    def watch(self, prefix: str, since: int, seen: Callable[[Entry], None]) -> None:
        """Tell ``seen`` of each key below ``prefix`` with a revision above ``since``, then of each change."""

    def close(self) -> None:
        """Give back all leases, flush, release everything. Safe to call twice."""
