"""The contract of a coordination store, as checks that any backend has to pass against the real thing.

A backend brings a *lab*: a fresh, empty store that several nodes can use, and a loop. From pytest:

    import pytest
    from rallypoint.testing.check_store import LAWS

    @pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
    def test_contract(law):
        with MyLab() as lab:
            law(lab)

or, in one call, ``check_store(MyLab)``. The laws are those of ``rallypoint.store.api``; a check that
fails raises AssertionError, saying what was expected and what came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from rallypoint.store.api import MAX_KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from rallypoint.store.api import Entry, Json, Reply, Store, StoreWatcher

LIMIT = 10.0
"""Seconds that any one answer may take."""
TTL = 5.0


class Lab(Protocol):
    """What a backend brings to be checked."""

    def open(self, watcher: StoreWatcher) -> Store:
        """Open the store for one more node of the same run."""

    def lose(self, store: Store) -> None:
        """Have the node of ``store`` die: no goodbye, no answer any more."""

    def run_until(self, done: Callable[[], object], limit: float) -> bool:
        """Run the loop until ``done()`` is true (as ``driver.loop.Loop.run_until`` does)."""


class Notes:
    """A ``StoreWatcher`` that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def store_up(self, address: str, fresh: bool) -> None:
        self.told.append(("up", address, fresh))

    def store_tried(self, where: str, reason: str, attempt: int) -> None:
        self.told.append(("tried", where, reason, attempt))

    def store_lost(self, reason: str, silent: float) -> None:
        self.told.append(("lost", reason))

    def store_refused(self, field: str, mine: str, theirs: str) -> None:
        self.told.append(("refused", field, mine, theirs))

    def count(self, kind: str) -> int:
        return sum(note[0] == kind for note in self.told)


class Node:
    """A store with its notes, and the verbs as calls that wait for the answer."""

    def __init__(self, lab: Lab) -> None:
        self.notes = Notes()
        self._lab = lab
        self.store = lab.open(self.notes)

    def until(self, done: Callable[[], object], what: str) -> None:
        assert self._lab.run_until(done, LIMIT), f"{what}: not within {LIMIT:g} s; {self.store!r}"

    def up(self) -> Node:
        self.until(lambda: self.notes.count("up"), "store_up")
        return self

    def answer(self, ask: Callable[[Callable[[Reply], None]], None]) -> Reply:
        replies: list[Reply] = []
        ask(replies.append)
        assert not replies, "done was called from within the verb; it has to come later"
        self.until(lambda: replies, "an answer")
        return replies[0]

    def swap(self, key: str, expected: int, value: Json) -> Reply:
        return self.answer(lambda done: self.store.swap(key, expected, value, done))

    def lease(self, key: str, ttl: float, value: Json) -> Reply:
        return self.answer(lambda done: self.store.lease(key, ttl, value, done))

    def read(self, prefix: str) -> list[Entry]:
        reply = self.answer(lambda done: self.store.read(prefix, done))
        assert reply.ok, f"read({prefix!r}) was answered {reply}"
        return list(reply.entries)

    def watch(self, prefix: str, since: int = 0) -> list[Entry]:
        """Watch, and return the list into which everything is written, what is there already told."""
        seen: list[Entry] = []
        self.store.watch(prefix, since, seen.append)
        self.read(prefix)
        return seen


def writes_get_growing_revisions(lab: Lab) -> None:
    """Law 1, revisions."""
    node = Node(lab).up()
    first = node.swap("a", 0, {"x": [1, 2.5, None, True, "ü\ud800"]})
    second = node.lease("b", TTL, 1)
    third = node.swap("a", first.revision, "again")
    assert first.ok and second.ok and third.ok
    assert 0 < first.revision < second.revision < third.revision
    assert third.entry is not None, "an accepted write is answered with the entry written"
    assert (third.entry.value, third.entry.revision) == ("again", third.revision)
    assert third.entry.created == first.revision, "created is the revision of a key's first write"
    assert [(e.key, e.value, e.revision) for e in node.read("")] == [
        ("a", "again", third.revision),
        ("b", 1, second.revision),
    ]


def values_are_json(lab: Lab) -> None:
    """Law 1, values and keys."""
    node = Node(lab).up()
    value: dict[str, Any] = {"": [{"deep": [[], {}, 1e300, -(2**53), ""]}], "text": "\0\n\u2028😀\ud800"}
    assert node.swap("k", 0, value).ok
    value["text"] = "changed after it was given away"
    (entry,) = node.read("k")
    assert entry.value == {"": [{"deep": [[], {}, 1e300, -(2**53), ""]}], "text": "\0\n\u2028😀\ud800"}
    assert node.swap("tuple", 0, (1, (2,))).ok
    assert [e.value for e in node.read("tuple")] == [[1, [2]]], "a tuple comes back as a list"
    for wrong in (b"bytes", {1: 2}, float("nan"), object()):
        _raises(TypeError, lambda wrong=wrong: node.store.swap("w", 0, wrong, print))  # type: ignore[misc]
    for key in ("", "k" * (MAX_KEY + 1)):
        _raises(ValueError, lambda key=key: node.store.swap(key, 0, 1, print))  # type: ignore[misc]
    assert node.swap("k" * MAX_KEY, 0, 1).ok


def a_read_tells_what_is_below_a_prefix(lab: Lab) -> None:
    """The verb ``read``."""
    node = Node(lab).up()
    for key in ("b/2", "a", "b/1", "b", "c/1"):
        assert node.swap(key, 0, key).ok
    assert [e.key for e in node.read("b/")] == ["b/1", "b/2"]
    assert [e.key for e in node.read("b")] == ["b", "b/1", "b/2"]
    assert node.read("nothing") == []


def of_several_writers_one_succeeds(lab: Lab) -> None:
    """Law 2: a swap at a revision that has passed changes nothing, and says what is there."""
    nodes = [Node(lab).up() for _ in range(4)]
    start = nodes[0].swap("view", 0, "start").revision
    replies: list[Reply] = []
    for number, node in enumerate(nodes):
        node.store.swap("view", start, number, replies.append)
    nodes[0].until(lambda: len(replies) == 4, "four answers")
    won = [r for r in replies if r.ok]
    assert len(won) == 1, f"{len(won)} of 4 writers succeeded"
    for reply in replies:
        assert reply.entry is not None
        assert not reply.error
        assert reply.entry.revision == won[0].revision, "a loser is told what is there instead"
    late = nodes[1].swap("view", 0, "as if new")
    assert not late.ok
    missing = nodes[1].swap("missing", start, "as if there")
    assert not missing.ok
    assert missing.entry is None


def a_swap_to_none_deletes(lab: Lab) -> None:
    """Law 2, deletion."""
    node, other = Node(lab).up(), Node(lab).up()
    seen = other.watch("k")
    written = node.swap("k", 0, 1)
    assert not node.swap("k", written.revision + 1, None).ok
    gone = node.swap("k", written.revision, None)
    assert gone.ok
    assert gone.entry is None
    assert node.read("k") == []
    other.until(lambda: len(seen) == 2, "the deletion")
    assert (seen[1].value, seen[1].revision) == (None, gone.revision)
    again = node.swap("k", 0, 2)
    assert again.entry is not None
    assert again.entry.created == again.revision, "a key that comes back is created anew"


def a_lease_belongs_to_its_owner(lab: Lab) -> None:
    """Law 3: another live session's lease is neither taken nor swapped nor given back."""
    owner, other = Node(lab).up(), Node(lab).up()
    first = owner.lease("leader", TTL, "owner")
    assert first.ok
    taken = other.lease("leader", TTL, "other")
    assert not taken.ok
    assert taken.entry is not None, "the reply says who has it"
    assert taken.entry.value == "owner"
    assert not other.swap("leader", first.revision, "other").ok
    assert not other.lease("leader", 0, None).ok
    rewritten = owner.lease("leader", TTL, "owner again")
    assert rewritten.ok
    assert rewritten.entry is not None
    assert rewritten.entry.created == first.revision
    swapped = owner.swap("leader", rewritten.revision, "swapped")
    assert swapped.ok, "the owner may swap it"
    assert not other.lease("leader", TTL, "other").ok, "and it is still under the lease"


def a_lease_given_back_is_left(lab: Lab) -> None:
    """Law 3, by ``ttl`` 0 and by ``close``."""
    owner, other = Node(lab).up(), Node(lab).up()
    seen = other.watch("nodes/")
    assert owner.lease("nodes/a", TTL, 1).ok
    assert owner.lease("nodes/b", TTL, 2).ok
    assert owner.lease("nodes/a", 0, "told to go").ok
    assert owner.lease("nodes/a", 0, "twice").ok, "giving back what is gone is no failure"
    other.until(lambda: len(seen) == 3, "the key given back")
    assert (seen[2].key, seen[2].value, seen[2].left, seen[2].reason) == ("nodes/a", None, True, "told to go")
    owner.store.close()
    owner.store.close()
    other.until(lambda: len(seen) == 4, "the key of a store that closed")
    assert (seen[3].key, seen[3].value, seen[3].left) == ("nodes/b", None, True)
    assert other.lease("nodes/b", TTL, 3).ok, "the key is free"


def a_lease_of_the_lost_is_lost(lab: Lab) -> None:
    """Law 3, when the owner dies; what it wrote without a lease stays."""
    owner, other = Node(lab).up(), Node(lab).up()
    seen = other.watch("")
    assert owner.lease("nodes/a", TTL, 1).ok
    assert owner.swap("plain", 0, 1).ok
    other.until(lambda: len(seen) == 2, "both keys")
    lab.lose(owner.store)
    other.until(lambda: len(seen) == 3, "the lost lease")
    assert (seen[2].key, seen[2].value, seen[2].left) == ("nodes/a", None, False)
    assert seen[2].reason, "a reason in words"
    assert [e.key for e in other.read("")] == ["plain"]
    assert other.lease("nodes/a", TTL, 2).ok, "the key is free"


def a_watch_tells_what_is_there_and_then_each_change(lab: Lab) -> None:
    """Law 4."""
    writer, reader = Node(lab).up(), Node(lab).up()
    old = writer.swap("w/old", 0, "old")
    new = writer.swap("w/new", 0, "new")
    assert writer.swap("other", 0, "x").ok
    everything, later, twin = reader.watch("w/"), reader.watch("w/", since=old.revision), reader.watch("w")
    assert sorted(e.key for e in everything) == ["w/new", "w/old"]
    assert [e.key for e in later] == ["w/new"]
    last = new.revision
    for number in range(50):
        last = writer.swap("w/new", last, number).revision
    assert writer.swap("w/old", old.revision, None).ok
    for seen, count in ((everything, 53), (later, 52), (twin, 53)):
        reader.until(lambda seen=seen, count=count: len(seen) >= count, "every change")  # type: ignore[misc]
        assert len(seen) == count, "each change is told once"
        assert [e.value for e in seen if e.key == "w/new"] == ["new", *range(50)], "a key's changes come in order"
        assert seen[-1].value is None


def told_and_answered_keep_the_order_of_calls(lab: Lab) -> None:
    """Law 4: a read asked after a watch is answered after its listing; a write before its own event."""
    node = Node(lab).up()
    for number in range(20):
        assert node.swap(f"k/{number}", 0, number).ok
    story: list[str] = []
    node.store.watch("k/", 0, lambda entry: story.append(entry.key))
    node.store.read("nothing", lambda _reply: story.append("read"))
    node.store.swap("k/new", 0, 1, lambda _reply: story.append("written"))
    node.until(lambda: len(story) == 23, "all of the story")
    assert story[20:] == ["read", "written", "k/new"]


def calls_wait_until_the_store_is_there(lab: Lab) -> None:
    """Law 5: what is asked before ``store_up`` is answered, in order, once."""
    node = Node(lab)
    story: list[str] = []
    node.store.swap("k", 0, 1, lambda reply: story.append(f"swap {reply.ok}"))
    node.store.read("k", lambda reply: story.append(f"read {len(reply.entries)}"))
    assert not story
    assert not node.notes.told, "the watcher is called from the loop, later"
    node.up()
    node.until(lambda: len(story) >= 2, "both answers")
    node.read("k")
    assert story == ["swap True", "read 1"]
    assert node.notes.told[0][0] == "up"
    assert node.notes.told[0][2] is True, "the first time is fresh"


def after_close_nothing_is_called(lab: Lab) -> None:
    """Law 5: ``close`` is the end, also for what has been asked."""
    node, other = Node(lab).up(), Node(lab).up()
    calls: list[object] = []
    node.store.watch("k", 0, calls.append)
    node.store.read("k", calls.append)
    node.store.close()
    told = list(node.notes.told)
    node.store.read("k", calls.append)
    node.store.watch("k", 0, calls.append)
    node.store.swap("k2", 0, 1, calls.append)
    assert other.swap("k", 0, 1).ok
    assert [e.key for e in other.read("")] == ["k"]
    assert not calls
    assert node.notes.told == told


def close_within_a_callback_is_safe(lab: Lab) -> None:
    """Law 5: whatever calls back, it may close the store."""
    other = Node(lab).up()
    for number in range(3):
        assert other.swap(f"k/{number}", 0, number).ok
    node = Node(lab).up()
    seen: list[Entry] = []

    def close(entry: Entry) -> None:
        seen.append(entry)
        node.store.close()

    node.store.watch("k/", 0, close)
    other.until(lambda: seen, "the first entry")
    other.read("")
    assert len(seen) == 1, "nothing is told after close"


LAWS: tuple[Callable[[Lab], None], ...] = (
    writes_get_growing_revisions,
    values_are_json,
    a_read_tells_what_is_below_a_prefix,
    of_several_writers_one_succeeds,
    a_swap_to_none_deletes,
    a_lease_belongs_to_its_owner,
    a_lease_given_back_is_left,
    a_lease_of_the_lost_is_lost,
    a_watch_tells_what_is_there_and_then_each_change,
    told_and_answered_keep_the_order_of_calls,
    calls_wait_until_the_store_is_there,
    after_close_nothing_is_called,
    close_within_a_callback_is_safe,
)
"""Every law as a check of one lab."""


def check_store(make: Callable[[], AbstractContextManager[Lab]]) -> None:
    """Check every law, each in a lab of its own. Raises AssertionError at the first that is broken."""
    for law in LAWS:
        with make() as lab:
            law(lab)


def _raises(kind: type[Exception], call: Callable[[], object]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")
