import signal

import pytest
from corekit import Exit, Failure, Timing, WorkerError, WorkerId, e, ended, info, o, place, snapshot

from rallypoint.core import group as g
from rallypoint.model.errors import IllegalTransitionError

TIMING = Timing(shutdown_timeout=10.0, kill_timeout=5.0, success_timeout=4.0)
A, B = WorkerId(1, 0), WorkerId(1, 1)
TERM_A, TERM_B = o.Signal(A, signal.SIGTERM), o.Signal(B, signal.SIGTERM)
KILL_A, KILL_B = o.Signal(A, signal.SIGKILL), o.Signal(B, signal.SIGKILL)


def started(round_=1, timing=TIMING):
    group = g.Group(timing)
    group.start(round_, [place(0, 2), place(1, 2)], info(slots=2))
    return group


def up():
    group = started()
    assert group.handle(e.Spawned(A, 11), 0.0) == []
    assert group.handle(e.Spawned(B, 12), 0.0) == []
    return group


def draining():
    group = up()
    group.stop(signal.SIGTERM, 100.0)
    return group


def sweeping():
    group = draining()
    group.handle(e.Exited(A, ended(signal=15)), 101.0)
    group.handle(e.Exited(B, ended(signal=15)), 101.0)
    return group


def down():
    group = sweeping()
    group.handle(e.Swept(1), 102.0)
    return group


WAYS = {g.EMPTY: lambda: g.Group(TIMING), g.STARTING: started, g.UP: up, g.DRAINING: draining, g.DOWN: down}
FACTS = {
    e.Spawned: e.Spawned(A, 11),
    e.SpawnFailed: e.SpawnFailed(A, "no such file"),
    e.Exited: e.Exited(A, ended(3)),
    e.Swept: e.Swept(1),
    e.DeadlinePassed: e.DeadlinePassed(),
}


def test_table_is_total():
    assert set(FACTS) == set(g.EVENTS)
    assert set(g.TABLE) == {(state, kind) for state in g.STATES for kind in g.EVENTS}
    named = set(g.TABLE.values()) - {g.IGNORE, g.ILLEGAL}
    assert all(callable(getattr(g.Group, name)) for name in named)


@pytest.mark.parametrize("state", g.STATES)
@pytest.mark.parametrize("kind", g.EVENTS)
def test_illegal_raises_and_changes_nothing_and_ignored_is_ignored(state, kind):
    group = WAYS[state]()
    assert group.state == state
    before = snapshot(group)
    if g.TABLE[state, kind] is g.ILLEGAL:
        with pytest.raises(IllegalTransitionError):
            group.handle(FACTS[kind], 200.0)
        assert snapshot(group) == before
    elif g.TABLE[state, kind] is g.IGNORE:
        assert group.handle(FACTS[kind], 200.0) == []
        assert snapshot(group) == before


def test_a_worker_that_cannot_be_spawned_again_leaves_the_group_as_it_was():
    group = started()
    group.handle(e.Spawned(A, 11), 0.0)
    before = snapshot(group)
    with pytest.raises(IllegalTransitionError):
        group.handle(e.Spawned(A, 12), 0.0)
    assert snapshot(group) == before


def test_start_spawns_all_and_only_when_nothing_is_left():
    group = g.Group(TIMING)
    given = [place(0, 2), place(1, 2)]
    assert group.start(1, given, info()) == [o.Spawn(A, given[0]), o.Spawn(B, given[1])]
    with pytest.raises(IllegalTransitionError):
        group.start(2, given, info())
    assert down().start(2, given, info()) == [o.Spawn(WorkerId(2, 0), given[0]), o.Spawn(WorkerId(2, 1), given[1])]


def test_all_end_well():
    group = up()
    assert group.handle(e.Exited(A, ended(0)), 50.0) == []
    assert group.some_succeeded and not group.succeeded
    assert group.handle(e.Exited(B, ended(0)), 60.0) == [o.Sweep(1, 70.0)]
    assert group.wake_at() is None
    assert group.handle(e.Swept(1), 61.0) == []
    assert group.succeeded and not group.active


def test_one_dies_all_are_stopped_and_only_the_first_is_told():
    group = up()
    told = Failure("worker", 1, "a", "host-a", "exit code 3", 3, rank=0, local_rank=0, pid=11)
    assert group.handle(e.Exited(A, ended(3)), 100.0) == [o.Publish(told), TERM_B]
    assert group.wake_at() == 110.0
    assert group.handle(e.Exited(B, ended(signal=15)), 101.0) == [o.Sweep(1, 110.0)]
    assert group.handle(e.Swept(1), 102.0) == []
    assert (group.state, group.failures) == (g.DOWN, [told])


def test_the_whole_ladder_for_all_at_once():
    group = up()
    assert group.stop(signal.SIGINT, 100.0) == [o.Signal(A, signal.SIGINT), o.Signal(B, signal.SIGINT)]
    assert group.stop(signal.SIGTERM, 101.0) == []
    assert group.handle(e.DeadlinePassed(), 109.9) == []
    assert group.handle(e.DeadlinePassed(), 110.0) == [KILL_A, KILL_B]
    assert group.wake_at() == 115.0
    assert group.handle(e.Exited(A, ended(signal=9)), 110.1) == []
    # B sleeps in the kernel: it is given up, and what is left of the others is killed at once.
    assert group.handle(e.DeadlinePassed(), 115.0) == [o.Abandon(B), o.Sweep(1, 115.0)]
    assert group.handle(e.Swept(1, (12,)), 120.0) == []
    assert group.state == g.DOWN
    assert group.handle(e.Exited(B, ended(signal=9)), 500.0) == []


def test_a_stop_while_starting_waits_for_the_processes():
    group = started()
    assert group.stop(signal.SIGTERM, 100.0) == []
    assert group.handle(e.Spawned(A, 11), 100.1) == [TERM_A]
    assert group.handle(e.SpawnFailed(B, "no such file"), 100.1)[0].failure.kind == "spawn"
    assert group.handle(e.Exited(A, ended(signal=15)), 100.2) == [o.Sweep(1, 110.0)]


def test_a_command_that_does_not_start():
    group = started()
    told = Failure("spawn", 1, "a", "host-a", "could not be started: no such file", 127, rank=0, local_rank=0)
    assert group.handle(e.SpawnFailed(A, "no such file"), 100.0) == [o.Publish(told)]
    again = told.replace(rank=1, local_rank=1, order=1)
    assert group.handle(e.SpawnFailed(B, "no such file"), 100.0) == [o.Publish(again), o.Sweep(1, 110.0)]


def test_killing_at_once_hurries_the_sweep_too():
    group = up()
    assert group.kill(100.0) == [KILL_A, KILL_B]
    assert group.wake_at() == 105.0
    group.handle(e.Exited(A, ended(signal=9)), 100.1)
    assert group.handle(e.Exited(B, ended(signal=9)), 100.2) == [o.Sweep(1, 100.2)]
    group = sweeping()
    assert group.kill(103.0) == [o.Sweep(1, 103.0)]
    group.handle(e.Swept(1), 104.0)
    assert group.handle(e.Swept(1), 104.0) == [], "the second sweep was hurried just when the first was done"
    assert group.kill(105.0) == [] == g.Group(TIMING).kill(105.0)


def test_asking_to_kill_again_does_not_put_off_giving_up():
    group = up()
    group.kill(100.0)
    assert group.kill(104.0) == []
    assert group.wake_at() == 105.0


def test_facts_of_an_earlier_round_are_ignored():
    group = down()
    group.start(2, [place()], info())
    assert group.handle(e.Exited(A, ended(3)), 200.0) == []
    assert group.handle(e.Swept(1), 200.0) == []
    assert group.state == g.STARTING


def test_overdue_workers_say_where_they_are_and_are_stopped():
    group = up()
    group.handle(e.Exited(A, ended(0)), 50.0)
    group.expect_success(50.0)
    group.expect_success(52.0)
    assert group.wake_at() == 54.0
    assert group.handle(e.DeadlinePassed(), 54.0) == [o.DumpStacks(B)]
    assert group.wake_at() == 54.5
    published, term = group.handle(e.DeadlinePassed(), 54.5)
    assert (published.failure.kind, published.failure.status, published.failure.rank) == ("overdue", 124, 1)
    assert term == TERM_B
    # Its end is no second failure of the same worker.
    assert group.handle(e.Exited(B, ended(1)), 55.0) == [o.Sweep(1, 64.5)]


def test_no_success_timeout_no_deadline():
    group = started(timing=Timing())
    group.expect_success(50.0)
    assert group.wake_at() is None


def test_a_stopped_worker_that_wrote_down_an_exception_is_told_of():
    group = draining()
    error = WorkerError("ValueError", "bad batch")
    orders = group.handle(e.Exited(A, Exit(11, 1, error=error)), 101.0)
    assert [type(order) for order in orders] == [o.Publish] and not orders[0].failure.consequence


def test_repr_tells_the_state():
    assert "DRAINING" in repr(draining()) and "STOPPING" in repr(draining())


BROKEN = WorkerError("RuntimeError", "Connection closed by peer [127.0.0.1]:1")
OWN = WorkerError("ValueError", "bad input")


def test_a_broken_connection_waits_a_moment_for_its_cause():
    group = up()
    assert group.handle(e.Exited(A, ended(1, error=BROKEN)), 100.0) == []
    assert group.wake_at() == 100.0 + g.CAUSE_WAIT
    orders = group.handle(e.Exited(B, ended(1, error=OWN)), 100.2)
    told = [order.failure for order in orders if isinstance(order, o.Publish)]
    assert [(f.local_rank, f.consequence) for f in told] == [(0, True), (1, False)]
    assert orders[-1] == o.Sweep(1, 100.2 + TIMING.shutdown_timeout)


def test_without_a_cause_the_others_are_stopped_after_the_wait():
    group = up()
    group.handle(e.Exited(A, ended(1, error=BROKEN)), 100.0)
    assert group.handle(e.DeadlinePassed(), 100.5) == []
    publish, stop = group.handle(e.DeadlinePassed(), 100.0 + g.CAUSE_WAIT)
    assert publish.failure.consequence and stop == TERM_B
    assert group.state == g.DRAINING


def test_a_stop_from_elsewhere_tells_at_once_what_was_waiting_for_its_cause():
    group = up()
    group.handle(e.Exited(A, ended(1, error=BROKEN)), 100.0)
    stop, publish = group.stop(signal.SIGTERM, 100.3)
    assert stop == TERM_B and publish.failure.local_rank == 0
    assert group.handle(e.DeadlinePassed(), 101.5) == []
