import signal

import pytest
from corekit import WorkerId, ended, o, place, snapshot

from rallypoint.core import worker as w
from rallypoint.model.errors import IllegalTransitionError

ID = WorkerId(1, 0)
TERM = o.Signal(ID, signal.SIGTERM)
KILL = o.Signal(ID, signal.SIGKILL)

WAYS = {
    w.SPAWNING: [],
    w.RUNNING: [w.SPAWNED],
    w.STOPPING: [w.SPAWNED, w.STOP],
    w.KILLING: [w.SPAWNED, w.KILL],
    w.GONE: [w.SPAWNED, w.EXITED],
    w.STUCK: [w.SPAWNED, w.KILL, w.GIVE_UP],
}
DO = {
    w.SPAWNED: lambda it: it.spawned(11),
    w.SPAWN_FAILED: lambda it: it.spawn_failed(),
    w.EXITED: lambda it: it.exited(ended(3)),
    w.STOP: lambda it: it.stop(signal.SIGTERM),
    w.KILL: lambda it: it.kill(),
    w.GIVE_UP: lambda it: it.give_up(),
}


def fresh(*inputs):
    it = w.Worker(ID, place())
    for what in inputs:
        DO[what](it)
    return it


def test_table_is_total():
    assert set(w.TABLE) == {(state, what) for state in w.STATES for what in w.INPUTS}
    assert set(w.TABLE.values()) <= {*w.STATES, w.IGNORE, w.ILLEGAL}


@pytest.mark.parametrize("state", w.STATES)
@pytest.mark.parametrize("what", w.INPUTS)
def test_every_pair_does_what_the_table_says(state, what):
    it = fresh(*WAYS[state])
    assert it.state == state
    before = snapshot(it)
    result = w.TABLE[state, what]
    if result is w.ILLEGAL:
        with pytest.raises(IllegalTransitionError):
            DO[what](it)
        assert snapshot(it) == before
    else:
        DO[what](it)
        assert it.state == (state if result is w.IGNORE else result)


def test_stop_then_kill_then_giving_up():
    it = fresh()
    assert it.spawned(11) == []
    assert it.stop(signal.SIGTERM) == [TERM]
    assert it.stop(signal.SIGTERM) == []
    assert it.kill() == [KILL]
    assert it.kill() == []
    assert it.give_up() == [o.Abandon(ID)]
    assert it.give_up() == []
    assert it.over
    it.exited(ended(signal=9))
    assert it.state == w.GONE and it.stopped


def test_a_stop_before_the_process_exists_is_carried_out_when_it_does():
    it = fresh()
    assert it.stop(signal.SIGINT) == []
    assert it.spawned(11) == [o.Signal(ID, signal.SIGINT)]


def test_a_kill_before_the_process_exists_too():
    it = fresh()
    assert it.kill() == []
    assert it.spawned(11) == [KILL]


def test_a_worker_that_ends_by_itself_was_not_stopped():
    it = fresh(w.SPAWNED, w.EXITED)
    assert not it.stopped and it.over and it.pid == 11
    assert fresh(w.SPAWNED, w.STOP, w.EXITED).stopped
    assert "GONE" in repr(it)
