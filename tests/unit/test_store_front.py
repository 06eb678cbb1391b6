"""The user's side of a store over a carrier of the test's own: what is told after a lost connection."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rallypoint.store.api import Entry, Reply
from rallypoint.store.front import Front, plain
from rallypoint.store.messages import (
    PROTOCOL,
    Answer,
    Changed,
    Hello,
    Listing,
    Read,
    Swap,
    Watch,
    Welcome,
)
from rallypoint.store.state import State
from rallypoint.testing.check_store import Notes


class Soon:
    """A reactor that keeps what is to be called next turn."""

    def __init__(self):
        self.calls = []

    def soon(self, call):
        self.calls.append(call)

    def turn(self):
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Desk:
    """A front, what it was told, and what it sends."""

    def __init__(self):
        self.reactor, self.notes, self.sent = Soon(), Notes(), []
        self.front = Front(self.reactor, self.notes, "here")

    def up(self, epoch=0, resumed=False):
        self.sent.clear()
        self.front._opened(self.sent.append, Welcome(epoch, epoch, resumed), "addr")


def test_what_waits_is_sent_in_order_watches_first():
    desk, replies = Desk(), []
    desk.front.swap("k", 0, 1, replies.append)
    desk.front.watch("w", 0, replies.append)
    desk.front.read("", replies.append)
    assert desk.sent == []
    desk.up()
    assert desk.sent == [Watch(2, "w"), Swap(1, "k", 0, 1), Read(3, "")]
    assert desk.notes.told == [("up", "addr", True)]


def test_after_a_loss_reads_are_asked_again_and_writes_answer_an_error():
    desk, replies = Desk(), []
    desk.up()
    desk.front.swap("k", 0, 1, replies.append)
    desk.front.lease("l", 5, 1, replies.append)
    desk.front.read("", replies.append)
    desk.front._lost("cut", 0.0)
    desk.front.swap("later", 0, 1, replies.append)
    assert [r.error for r in replies] == ["the connection was lost before the answer came (cut)"] * 2
    desk.up(resumed=True)
    assert desk.sent == [Read(3, ""), Swap(4, "later", 0, 1)]
    assert desk.notes.told == [("up", "addr", True), ("lost", "cut"), ("up", "addr", False)]
    desk.front._receive(Answer(3, True, 7))
    assert replies[2] == Reply(True, 7)
    desk.front._receive(Answer(3, True, 7))
    assert len(replies) == 3, "an answer comes once"


def test_a_watch_tells_what_vanished_and_what_changed_meanwhile_and_nothing_else():
    desk, seen = Desk(), []
    desk.front.watch("n/", 0, seen.append)
    desk.up()
    same, old = Entry("n/same", 1, 1, 1), Entry("n/old", 1, 2, 2)
    desk.front._receive(Listing(1, 3, (old, same, Entry("n/gone", 1, 3, 3))))
    desk.front._lost("cut", 0.0)
    desk.up(resumed=True)
    new = Entry("n/old", 2, 6, 2)
    desk.front._receive(Listing(1, 9, (new, same)))
    assert seen[3:] == [Entry("n/gone", None, 9, 3, False, "gone while the store was out of reach"), new]


def test_another_store_tells_all_anew_even_at_smaller_revisions():
    desk, seen = Desk(), []
    desk.front.watch("", 50, seen.append)
    desk.up(epoch=100)
    desk.front._receive(Listing(1, 300, (Entry("a", 1, 200, 200), Entry("b", 1, 300, 300))))
    desk.front._lost("cut", 0.0)
    desk.up(epoch=5)
    desk.front._receive(Listing(1, 7, (Entry("a", "new", 7, 7),)))
    assert [(e.key, e.value) for e in seen[2:]] == [("b", None), ("a", "new")]


def test_what_is_older_than_since_is_not_told_but_its_end_is():
    desk, seen = Desk(), []
    desk.front.watch("", 5, seen.append)
    desk.up()
    desk.front._receive(Listing(1, 6, (Entry("new", 1, 6, 6), Entry("old", 1, 4, 4))))
    assert [e.key for e in seen] == ["new"]
    desk.front._receive(Changed(Entry("old", None, 7, 4, True)))
    assert [e.key for e in seen] == ["new", "old"]


def test_a_change_before_the_listing_waits_for_it():
    desk, first, second = Desk(), [], []
    desk.up()
    desk.front.watch("k", 0, first.append)
    desk.front._receive(Listing(1, 0, ()))
    desk.front.watch("k", 0, second.append)
    change = Entry("k", 1, 1, 1)
    desk.front._receive(Changed(change))
    assert (first, second) == ([change], [])
    desk.front._receive(Listing(2, 1, (change,)))
    assert (first, second) == ([change], [change])


def test_an_accepted_write_is_answered_with_what_was_written():
    desk, replies = Desk(), []
    desk.up()
    desk.front.swap("k", 3, ("a", 1), replies.append)
    desk.front._receive(Answer(1, True, 4, created=2))
    assert replies == [Reply(True, 4, Entry("k", ["a", 1], 4, 2))]


def test_a_refusal_answers_everything_from_then_on():
    desk, replies = Desk(), []
    desk.front.read("", replies.append)
    desk.front._refuse("run id", "a", "b")
    desk.front.lease("k", 1, 1, replies.append)
    assert len(replies) == 1
    desk.reactor.turn()
    assert [r.error for r in replies] == ["refused: run id is 'a' here, 'b' there"] * 2
    assert "refused" in repr(desk.front)


@pytest.mark.parametrize("value", [None, True, 0, -1.5, "", [], {}, {"a": [{"b": [1, None]}]}])
def test_plain_leaves_json_as_it_is(value):
    assert plain(value) == value


@pytest.mark.parametrize("value", [float("inf"), float("nan"), {1: 2}, {"a": {2}}, b"", object()])
def test_plain_refuses_what_json_has_not(value):
    with pytest.raises(TypeError, match="cannot be written in JSON"):
        plain(value)


KEYS = st.sampled_from(["a", "b", "n/1", "n/2", "n/12", "view"])
STEPS = st.one_of(
    st.tuples(st.just("swap"), st.integers(0, 2), KEYS, st.booleans(), st.none() | st.integers(0, 9)),
    st.tuples(st.just("lease"), st.integers(0, 2), KEYS, st.sampled_from([0.0, 2.0, 9.0])),
    st.tuples(st.just("watch"), st.integers(0, 2), st.sampled_from(["", "n/", "n/1", "view"])),
    st.tuples(st.just("cut"), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("tick"), st.floats(0.5, 6.0)),
)


class World:
    """Three fronts over one state, with connections that break; each watch keeps what it was told."""

    def __init__(self):
        self.state, self.now = State(), 0.0
        self.desks = [Desk() for _ in range(3)]
        self.inbox = []
        self.sessions = {}
        self.maps = []
        for number in range(3):
            self.connect(number)
        self.deliver()

    def connect(self, number, back=False):
        hello = Hello(PROTOCOL, "1", "run", str(number), 5.0, f"s{number}" if back else f"s{number}.{self.now}")
        self.sessions[number], out = self.state.join(hello, self.now)
        self.send(out)

    def send(self, out):
        self.inbox += out

    def deliver(self):
        while self.inbox:
            session, message = self.inbox.pop(0)
            numbers = [n for n, s in self.sessions.items() if s is session]
            for number in numbers:
                if isinstance(message, Welcome):
                    self.desks[number].front._opened(self.carrier(number), message, "")
                else:
                    self.desks[number].front._receive(message)

    def carrier(self, number):
        session = self.sessions[number]
        return lambda message: self.send(self.state.handle(session, message, self.now))

    def step(self, kind, *args):
        getattr(self, kind)(*args)
        self.deliver()
        for number, session in self.sessions.items():
            if not session.live:  # expired: the connection goes, and comes back
                self.desks[number].front._lost("expired", 0.0)
                self.connect(number)
        self.deliver()

    def swap(self, number, key, right, value):
        there = self.state.runs["run"].entries.get(key)
        expected = (there.revision if there else 0) if right else 99999
        self.desks[number].front.swap(key, expected, value, lambda _reply: None)

    def lease(self, number, key, ttl):
        self.desks[number].front.lease(key, ttl, {"by": number}, lambda _reply: None)

    def watch(self, number, prefix):
        told = {}
        last = {}

        def seen(entry):
            assert entry.revision > last.get(entry.key, -1), "a key's changes came out of order"
            last[entry.key] = entry.revision
            if entry.value is None:
                assert told.pop(entry.key, None) is not None, "a key went that was not there"
            else:
                told[entry.key] = (entry.value, entry.revision, entry.created)

        self.maps.append((prefix, told))
        self.desks[number].front.watch(prefix, 0, seen)

    def cut(self, number, noticed):
        if noticed:
            self.send(self.state.leave(self.sessions[number], False, "cut", self.now))
        self.desks[number].front._lost("cut", 0.0)
        self.connect(number)

    def tick(self, seconds):
        self.now += seconds
        self.send(self.state.expire(self.now))


@settings(deadline=None, max_examples=150)
@given(st.lists(STEPS, max_size=40))
def test_every_watch_ends_up_knowing_what_is_there(steps):
    world = World()
    for step in steps:
        world.step(*step)
        run = world.state.runs["run"]
        assert run.order == sorted(run.entries)
        assert {k for s in run.sessions.values() for k in s.leases} == set(run.owners)
        for prefix, told in world.maps:
            there = {e.key: (e.value, e.revision, e.created) for e in run.below(prefix)}
            assert told == there
