"""The memory store against the contract, and what it alone can do."""

from __future__ import annotations

import pytest

from rallypoint.driver.loop import Loop
from rallypoint.store.hub import Hub
from rallypoint.store.memory import MemoryStore, open_memory
from rallypoint.testing import check_store


class MemoryLab:
    def __enter__(self):
        self.loop = Loop()
        self.hub = Hub(self.loop)
        self.count = 0
        return self

    def __exit__(self, *_exc):
        self.hub.close()
        self.loop.close()

    def open(self, watcher):
        self.count += 1
        return MemoryStore(self.loop, watcher, self.hub, run_id="r", node=f"n{self.count}")

    def lose(self, store):
        store.lose("it died")

    def run_until(self, done, limit):
        return self.loop.run_until(done, limit)


@pytest.mark.parametrize("law", check_store.LAWS, ids=lambda law: law.__name__)
def test_contract(law):
    with MemoryLab() as lab:
        law(lab)


def test_check_store_runs_every_law():
    labs = []

    class Counted(MemoryLab):
        def __enter__(self):
            labs.append(self)
            return super().__enter__()

    check_store.check_store(Counted)
    assert len(labs) == len(check_store.LAWS)


def test_check_store_finds_a_store_that_forgets():
    class Forgetful(MemoryLab):
        def open(self, watcher):
            store = super().open(watcher)
            store.read = lambda _prefix, done: MemoryStore.read(store, "nothing", done)
            return store

    with pytest.raises(AssertionError):
        check_store.check_store(Forgetful)


def test_runs_of_one_hub_are_apart():
    with MemoryLab() as lab:
        one, other = check_store.Notes(), check_store.Notes()
        first = MemoryStore(lab.loop, one, lab.hub, run_id="one")
        second = MemoryStore(lab.loop, other, lab.hub, run_id="other")
        replies = []
        first.swap("k", 0, 1, replies.append)
        second.swap("k", 0, 2, replies.append)
        second.read("", replies.append)
        assert lab.run_until(lambda: len(replies) == 3, 5)
        assert replies[0].ok and replies[1].ok
        assert [e.value for e in replies[2].entries] == [2]


def test_a_store_alone_needs_no_timer_and_says_what_it_is():
    with Loop() as loop:
        notes = check_store.Notes()
        store = open_memory(loop, notes, "run", "n1")
        replies = []
        store.lease("nodes/n1", 0.01, {}, replies.append)
        assert loop.run_until(lambda: replies, 5)
        assert store.hub.state.next_deadline() is None  # its own process is never unheard of
        assert repr(store) == "<MemoryStore memory, up, 0 calls, 0 watches>"
        store.close()
        assert "closed" in repr(store)
        assert not store.hub.state.runs


def test_leasing_nothing_is_a_mistake():
    with MemoryLab() as lab:
        store = lab.open(check_store.Notes())
        with pytest.raises(ValueError, match="a lease has a value"):
            store.lease("k", 1, None, print)
        with pytest.raises(ValueError, match="no time below 0"):
            store.lease("k", -1, 1, print)
