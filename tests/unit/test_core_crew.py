"""The crew: units that fail and start again apart."""

import signal

import pytest
from corekit import Spec, Timing, WorkerId, e, ended, failure, info, o, place, view

from rallypoint.core.apart import Apart
from rallypoint.core.crew import Crew
from rallypoint.model import node
from rallypoint.model.node import View
from rallypoint.model.spec import JOB, NODE, WORKER, ExitRule, RestartPolicy

TIMING = Timing(shutdown_timeout=10.0, kill_timeout=5.0)
HERE = info("a", slots=2)
GIVEN = [place(0, 2), place(1, 2)]
A, B = WorkerId(1, 0), WorkerId(1, 1)


def crew(scope):
    it = Crew(TIMING, (), scope)
    assert [order.worker for order in it.start(1, GIVEN, HERE)] == [A, B]
    for worker, pid in ((A, 11), (B, 12)):
        assert it.handle(e.Spawned(worker, pid), 100.0) == []
    return it


def kinds(orders):
    return [type(order).__name__ for order in orders]


def lives(**known):
    return view(1, members=("a",), slots=2, lives=tuple((name.replace("_", "/"), life) for name, life in known.items()))


def test_worker_one_fails_the_other_is_not_asked_to_stop():
    it = crew(WORKER)
    orders = it.handle(e.Exited(B, ended(3, pid=12)), 101.0)
    assert kinds(orders) == ["Publish", "Sweep"] and orders[1].local_rank == 1
    assert it.handle(e.Swept(1, (), 1), 101.1) == []
    assert it.active and not it.stopping
    assert it.resume(lives(), GIVEN, HERE) == [] == it.resume(lives(a_0=0), GIVEN, HERE)
    (spawn,) = it.resume(lives(a_1=1), [g.replace(restart_count=1) for g in GIVEN], HERE)
    assert spawn == o.Spawn(WorkerId(1, 1, 1), GIVEN[1].replace(restart_count=1))
    assert it.resume(lives(a_1=1), GIVEN, HERE) == [], "once"
    it.handle(e.Spawned(spawn.worker, 13), 102.0)
    it.handle(e.Exited(A, ended(0)), 103.0)
    it.handle(e.Swept(1, (), 0), 103.0)
    assert it.handle(e.Exited(spawn.worker, ended(0, pid=13)), 104.0)[0].local_rank == 1
    (last,) = it.handle(e.Swept(1, (), 1), 104.0)
    assert last == o.Sweep(1, 114.0) and it.active
    assert it.handle(e.Swept(1), 105.0) == []
    assert it.succeeded and not it.active


def test_node_all_of_it_stops_and_starts_again():
    it = crew(NODE)
    orders = it.handle(e.Exited(B, ended(3, pid=12)), 101.0)
    assert kinds(orders) == ["Publish", "Signal"]
    assert it.resume(lives(a=1), GIVEN, HERE) == [], "not before all of it is gone"
    it.handle(e.Exited(A, ended(signal=15)), 101.5)
    assert it.handle(e.Swept(1), 101.6) == []
    assert it.active and not it.succeeded
    assert [s.worker for s in it.resume(lives(a=1), GIVEN, HERE)] == [WorkerId(1, 0, 1), WorkerId(1, 1, 1)]


@pytest.mark.parametrize("scope", [NODE, WORKER])
def test_stopped_nothing_starts_again_and_one_last_sweep_follows(scope):
    it = crew(scope)
    it.handle(e.Exited(B, ended(3, pid=12)), 101.0)
    if scope == WORKER:
        it.handle(e.Swept(1, (), 1), 101.0)
    it.stop(signal.SIGTERM, 102.0)
    orders = it.handle(e.Exited(A, ended(signal=15)), 103.0)
    local = 0 if scope == WORKER else -1
    assert it.resume(lives(a=1, a_1=1), GIVEN, HERE) == []
    assert kinds(orders) == ["Sweep"] and orders[0].local_rank == local
    (last,) = it.handle(e.Swept(1, (), local), 104.0)
    assert last == o.Sweep(1, 112.0)
    assert it.kill(105.0) == [o.Sweep(1, 105.0)], "asked twice: the last sweep is hurried too"
    it.handle(e.Swept(1), 106.0)
    assert not it.active and not it.succeeded


def test_a_stop_while_all_wait_to_start_again_is_over_with_a_sweep():
    it = crew(NODE)
    it.handle(e.Exited(B, ended(3, pid=12)), 101.0)
    it.handle(e.Exited(A, ended(signal=15)), 101.5)
    it.handle(e.Swept(1), 101.6)
    assert it.stop(signal.SIGTERM, 102.0) == [o.Sweep(1, 112.0)]
    assert it.stop(signal.SIGTERM, 103.0) == []
    it.handle(e.Swept(1), 102.0)
    assert not it.active


def test_job_is_one_group_and_over_with_it():
    it = crew(JOB)
    it.handle(e.Exited(B, ended(3, pid=12)), 101.0)
    it.handle(e.Exited(A, ended(signal=15)), 101.5)
    assert it.handle(e.Swept(1), 101.6) == []
    assert not it.active and it.failures and it.round == 1


def test_late_facts_of_an_earlier_life_are_ignored():
    it = crew(WORKER)
    it.handle(e.Exited(B, ended(3, pid=12)), 101.0)
    it.handle(e.Swept(1, (), 1), 101.0)
    it.resume(lives(a_1=1), GIVEN, HERE)
    assert it.handle(e.Exited(B, ended(0, pid=12)), 102.0) == []
    assert it.active


# The leader's side


def apart(scope=WORKER, **policy):
    it = Spec(("x",), {}, max_restarts=2, restart=RestartPolicy(scope=scope, max_delay=60.0, **policy))
    return Apart(it)


RUNNING = view(1, members=("a", "b"), slots=2)


def after(it, failures, view_=RUNNING, now=50.0):
    return it.next_view(view_, it.unpaid(view_, failures), now, 20.0, [])


def test_each_unit_is_granted_by_itself_and_paid():
    it = apart()
    failures = (failure(1, "a", local_rank=1, rank=1), failure(1, "b", order=1, rank=2))
    one = after(it, failures)
    assert (one.phase, one.lives, one.restarts, one.failures) == (node.RUNNING, (("a/1", 1),), 1, failures[:1])
    two = after(it, failures, one)
    assert (two.lives, two.restarts) == ((("a/1", 1), ("b/0", 1)), 2)
    assert after(it, failures, two) is None
    spent = after(it, (*failures, failure(1, "b", order=2, rank=2, life=1)), two)
    assert spent.phase == node.DRAINING and [f.life for f in spent.failures] == [1]


def test_failures_of_one_life_of_a_node_are_one_restart():
    it = apart(NODE)
    failures = (failure(1, "a", rank=0), failure(1, "a", order=1, rank=1, local_rank=1))
    one = after(it, failures)
    assert (one.lives, one.restarts, len(one.failures)) == ((("a", 1),), 1, 2)
    assert after(it, failures, one) is None


@pytest.mark.parametrize("action", ["fail", "replace-node"])
def test_what_concerns_all_ends_the_round_with_its_cause_first(action):
    it = apart(rules=(ExitRule("17", action),))
    failures = (failure(1, "a", rank=0), failure(1, "b", order=1, rank=2, status=17, words="exit code 17"))
    one = after(it, failures)
    assert one.lives == (("a/0", 1),), "that one is not final"
    two = after(it, failures, one)
    assert two.phase == node.DRAINING and two.failures[0].status == 17


def test_a_delay_holds_only_its_own_unit():
    it = apart(delay=4.0)
    one = (failure(1, "a", rank=0),)
    assert after(it, one) is None and it.due == 54.0
    assert after(it, one, now=53.0) is None and it.due == 54.0
    assert after(it, one, now=54.0).lives == (("a/0", 1),)


def test_a_failure_of_a_later_life_is_of_another_store():
    assert after(apart(), (failure(1, "a", life=3),)) is None


def test_lives_in_json():
    known = View.from_json(RUNNING.replace(lives=(("a/1", 2), ("b", 1))).to_json())
    assert (known.life("a", 1), known.life("b", -1), known.life("a", 0)) == (2, 1, 0)
