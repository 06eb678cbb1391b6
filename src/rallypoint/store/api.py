"""The coordination store: five verbs, asynchronous, and the contract that every backend keeps.

Laws (checked by ``rallypoint.testing.check_store`` against the real thing):

1. Keys are short strings ("nodes/h1:17:ab"), values JSON. Every accepted write gives the store a
   new revision, larger than any before; a key's revision is that of its last write.
2. ``swap`` writes only if the key is at the expected revision (0: the key does not exist), so of
   several writers who saw the same revision exactly one succeeds. Value None deletes.
3. ``lease`` creates or rewrites a key that lives as long as its owner's session: it goes when the
   owner gives it back (``ttl`` 0), closes, or is unheard of for ``ttl`` seconds by the store's own
   clock. A key under another live session's lease is not taken: the reply says so.
4. ``watch`` first tells every key below the prefix that is there, then every change, each key's
   changes in order; a key that came and went in between may be left out. After a lost connection
   it resumes by itself, telling the keys that vanished meanwhile as gone.
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

    Json = dict[str, Any] | list[Any] | str | int | float | bool | None
else:
    Protocol = object


class Entry(Value):
    """A key with its value (None: the key is gone) at ``revision``; ``created``: revision of its first write.

    For a key that is gone, ``left`` tells whether its owner gave it back (True) or was lost (False).
    """

    key: str
    value: Json
    revision: int
    created: int = 0
    left: bool = False


class Reply(Value):
    """The answer to one call. ``ok``: it was done. Else ``entry`` is what is there instead, or ``error`` says why not.

    ``entries`` answers ``read``. ``revision`` is the store's revision at that moment.
    """

    ok: bool
    revision: int = 0
    entry: Entry | None = None
    entries: tuple[Entry, ...] = ()
    error: str = ""


class StoreWatcher(Protocol):
    """What a store tells its user about itself. Each is called from the loop."""

    def store_up(self, address: str, fresh: bool) -> None:
        """Connected; ``address`` is the local address of the connection ("" if there is none).

        ``fresh``: this is the first time, or the leases of before are gone.
        """

    def store_tried(self, where: str, reason: str, attempt: int) -> None:
        """An attempt to connect failed; the store tries again by itself."""

    def store_lost(self, reason: str) -> None:
        """The connection is gone; the store reconnects by itself."""

    def store_refused(self, field: str, mine: str, theirs: str) -> None:
        """The store will not serve this run (other run id, other protocol): final."""


class Store(Protocol):
    """A coordination store; see the laws above. ``where`` names it for people."""

    where: str

    def read(self, prefix: str, done: Callable[[Reply], None]) -> None: ...

    def swap(self, key: str, expected: int, value: Json, done: Callable[[Reply], None]) -> None: ...

    def lease(self, key: str, ttl: float, value: Json, done: Callable[[Reply], None]) -> None: ...

    def watch(self, prefix: str, since: int, seen: Callable[[Entry], None]) -> None:
        """Tell ``seen`` of each key below ``prefix`` with a revision above ``since``, then of each change."""

    def close(self) -> None:
        """Give back all leases, flush, release everything. Safe to call twice."""
