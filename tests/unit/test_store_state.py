"""The store's state, as transcripts: facts in, (who, what) out, time by hand."""

from __future__ import annotations

import pytest

from rallypoint.model.errors import RefusedError
from rallypoint.store.api import Entry
from rallypoint.store.messages import (
    PROTOCOL,
    Answer,
    Changed,
    Dropped,
    Hello,
    Lease,
    Listing,
    Read,
    Swap,
    Watch,
    Welcome,
)
from rallypoint.store.state import FOREVER, KEEP, StaleError, State


class Story:
    """A state, its sessions by name, and what came out as (name, message)."""

    def __init__(self, epoch=0):
        self.state = State(epoch)
        self.names = {}
        self.sessions = {}
        self.now = 100.0

    def told(self, out):
        return [(self.names[session], message) for session, message in out]

    def join(self, name, ttl=10.0, run="run", token=None, version="1", attempt=0):
        hello = Hello(PROTOCOL, version, run, name, ttl, token or name, attempt)
        session, out = self.state.join(hello, self.now)
        self.sessions[name] = session
        self.names[session] = name
        return self.told(out)

    def say(self, name, request):
        return self.told(self.state.handle(self.sessions[name], request, self.now))

    def leave(self, name, left=True, reason="bye"):
        return self.told(self.state.leave(self.sessions[name], left, reason, self.now))

    def at(self, now):
        self.now = now
        return self.told(self.state.expire(now))


def test_a_run_in_full():
    story = Story()
    assert story.join("a") == [("a", Welcome(0, 0, False))]
    assert story.join("b") == [("b", Welcome(0, 0, False))]
    assert story.say("a", Watch(1, "nodes/")) == [("a", Listing(1, 0, ()))]
    assert story.say("b", Lease(1, "nodes/b", 10.0, {"slots": 2})) == [
        ("b", Answer(1, True, 1, created=1)),
        ("a", Changed(Entry("nodes/b", {"slots": 2}, 1, 1))),
    ]
    assert story.say("a", Swap(2, "view", 0, "forming")) == [("a", Answer(2, True, 2, created=2))]
    assert story.say("b", Swap(2, "view", 0, "mine")) == [
        ("b", Answer(2, False, 2, Entry("view", "forming", 2, 2))),
    ]
    assert story.say("a", Swap(3, "view", 2, "running")) == [("a", Answer(3, True, 3, created=2))]
    assert story.say("b", Read(3, "v")) == [("b", Answer(3, True, 3, entries=(Entry("view", "running", 3, 2),)))]
    assert story.leave("b", False, "its connection ended") == [
        ("a", Changed(Entry("nodes/b", None, 4, 1, False, "its connection ended"))),
    ]
    assert story.leave("b") == []
    assert story.say("b", Read(4, "")) == [], "an ended session has no say"
    assert repr(story.state) == "<State at revision 4, 1 runs>"


def test_a_change_is_one_message_for_all_and_told_once_to_each():
    story = Story()
    for name in "abc":
        story.join(name)
        story.say(name, Watch(1, "v"))
        story.say(name, Watch(2, "view"))
        story.say(name, Watch(3, ""))
    out = story.say("a", Swap(4, "view", 0, 1))
    changes = [(who, message) for who, message in out if isinstance(message, Changed)]
    assert sorted(who for who, _ in changes) == ["a", "b", "c"]
    assert len({id(message) for _, message in changes}) == 1


def test_a_change_costs_no_more_for_watches_that_do_not_match():
    story = Story()
    story.join("a")
    for number in range(1000):
        story.join(f"n{number}")
        story.say(f"n{number}", Watch(1, f"mine/{number}"))
    looked = 0

    class Counting(dict):
        def get(self, *args):
            nonlocal looked
            looked += 1
            return super().get(*args)

    run = story.state.runs["run"]
    run.watches = Counting(run.watches)
    story.say("a", Swap(1, "view", 0, 1))
    assert looked == len("view") + 1


def test_a_lease_expires_by_the_time_that_the_store_is_given():
    story = Story()
    story.join("a", ttl=10.0)
    story.join("watcher", ttl=FOREVER)
    story.say("watcher", Watch(1, ""))
    story.say("a", Lease(1, "k", 10.0, 1))
    assert story.state.next_deadline() == 110.0
    assert story.at(109.9) == []
    assert story.at(110.0) == [
        ("watcher", Changed(Entry("k", None, 2, 1, False, "unheard of for 10.0 s"))),
        ("a", Dropped("unheard of for 10.0 s", 10.0)),
    ]
    assert story.state.next_deadline() is None


def test_who_is_heard_of_lives_on():
    story = Story()
    story.join("a", ttl=10.0)
    story.say("a", Lease(1, "k", 10.0, 1))
    story.now = 109.0
    story.say("a", Read(2, "k"))
    assert story.at(110.0) == []
    assert story.state.next_deadline() == 119.0
    assert story.at(119.0) == [("a", Dropped("unheard of for 10.0 s", 10.0))]


def test_each_lease_has_its_own_time_and_the_session_outlives_the_longest():
    story = Story()
    story.join("a", ttl=5.0)
    story.join("w", ttl=FOREVER)
    story.say("w", Watch(1, ""))
    story.say("a", Lease(1, "short", 2.0, 1))
    story.say("a", Lease(2, "long", 9.0, 1))
    assert story.state.next_deadline() == 102.0
    assert [m.entry.key for _, m in story.at(102.0)] == ["short"]
    assert story.at(105.0) == []
    assert story.sessions["a"].live
    assert [type(m) for _, m in story.at(109.0)] == [Changed, Dropped]
    assert not story.sessions["a"].live


def test_a_session_without_leases_ends_too():
    story = Story()
    story.join("a", ttl=3.0)
    assert story.at(103.0) == [("a", Dropped("unheard of for 3.0 s", 3.0))]


def test_a_store_that_slept_excuses_everybody():
    story = Story()
    story.join("a", ttl=10.0)
    story.state.excuse(150.0)
    assert story.at(150.0) == []
    assert story.at(160.0) == [("a", Dropped("unheard of for 10.0 s", 10.0))]


def test_the_same_session_on_a_second_connection_takes_over_the_leases():
    story = Story()
    story.join("a1", token="secret")
    story.join("w")
    story.say("w", Watch(1, ""))
    story.say("a1", Watch(1, ""))
    story.say("a1", Lease(2, "k", 10.0, 1))
    assert story.join("a2", token="secret") == [
        ("a2", Welcome(1, 0, True)),
        ("a1", Dropped("this node came back on another connection")),
    ]
    assert story.leave("a1", left=False) == [], "the old connection's end ends nothing"
    assert story.say("a2", Lease(1, "k", 10.0, 2))[0] == ("a2", Answer(1, True, 2, created=1))
    assert [who for who, _ in story.leave("a2")] == ["w"], "the old connection's watches are gone"


def test_a_connection_that_its_node_has_given_up_takes_nothing_over():
    """A store that was stopped finds the attempts of before in its queue, and may read the last one first."""
    story = Story()
    story.join("a2", token="secret", attempt=2)
    story.say("a2", Lease(1, "k", 10.0, 1))
    with pytest.raises(StaleError):
        story.join("a1", token="secret", attempt=1)
    assert story.say("a2", Lease(2, "k", 10.0, 2))[0] == ("a2", Answer(2, True, 2, created=1))
    assert story.join("a3", token="secret", attempt=3)[0] == ("a3", Welcome(2, 0, True))


def test_the_terms_of_a_key_under_a_lease():
    story = Story()
    story.join("a")
    story.join("b")
    story.say("a", Lease(1, "k", 10.0, "a"))
    there = Entry("k", "a", 1, 1)
    assert story.say("b", Lease(1, "k", 10.0, "b")) == [("b", Answer(1, False, 1, there))]
    assert story.say("b", Swap(2, "k", 1, "b")) == [("b", Answer(2, False, 1, there))]
    assert story.say("b", Lease(3, "k", 0.0, None)) == [("b", Answer(3, False, 1, there))]
    assert story.say("a", Lease(2, "k", 10.0, None)) == [("a", Answer(2, False, 1, error="a lease needs a value"))]
    assert story.say("a", Swap(3, "k", 1, None)) == [("a", Answer(3, True, 2))]
    assert story.leave("a") == [], "the deleted key's lease is forgotten"


def test_a_plain_key_can_come_under_a_lease_but_not_be_given_back_before():
    story = Story()
    story.join("a")
    story.say("a", Swap(1, "k", 0, 1))
    assert not story.say("a", Lease(2, "k", 0.0, None))[0][1].ok
    assert story.say("a", Lease(3, "k", 10.0, 2)) == [("a", Answer(3, True, 2, created=1))]
    story.join("w")
    story.say("w", Watch(1, ""))
    assert story.leave("a", reason="done") == [("w", Changed(Entry("k", None, 3, 1, True, "done")))]


def test_another_version_is_refused_as_long_as_somebody_is_there():
    story = Story()
    story.join("a", version="1")
    with pytest.raises(RefusedError) as caught:
        story.join("b", version="2")
    assert (caught.value.field, caught.value.mine, caught.value.theirs) == ("the version of Rallypoint", "2", "1")
    story.leave("a")
    assert story.join("b", version="2")


def test_a_runs_keys_go_with_the_last_who_leaves_and_stay_a_while_if_it_was_lost():
    story = Story()
    story.join("a")
    story.say("a", Swap(1, "k", 0, 1))
    story.leave("a", left=True)
    assert not story.state.runs
    story.join("b", ttl=FOREVER)
    story.say("b", Swap(1, "k", 0, 1))
    story.leave("b", left=False)
    story.at(110.0)
    assert story.state.next_deadline() == 100.0 + KEEP
    story.at(100.0 + KEEP - 1)
    assert story.state.runs
    story.join("c", ttl=FOREVER)
    assert [e.key for e in story.say("c", Read(1, ""))[0][1].entries] == ["k"]
    story.leave("c", left=False)
    story.at(story.now + KEEP)
    assert not story.state.runs
    assert story.state.next_deadline() is None


def test_revisions_start_at_the_epoch():
    story = Story(epoch=1 << 40)
    assert story.join("a") == [("a", Welcome(1 << 40, 1 << 40, False))]
    assert story.say("a", Swap(1, "k", 0, 1))[0][1].revision == (1 << 40) + 1


def test_reprs_tell_the_state():
    story = Story()
    story.join("a")
    story.say("a", Lease(1, "k", 5.0, 1))
    assert repr(story.sessions["a"]) == "<Session of 'a', 1 leases>"
    assert repr(story.state.runs["run"]) == "<Run 'run': 1 keys, 1 sessions>"
    story.leave("a")
    assert repr(story.sessions["a"]) == "<Session of 'a', 0 leases, ended>"
