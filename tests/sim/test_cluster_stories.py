"""Whole stories with real agents and coordinators, in virtual time."""

import pytest

from rallypoint.model import node
from rallypoint.model.result import WorkerId
from rallypoint.model.spec import Membership, RestartPolicy, Spec, Timing
from rallypoint.testing.laws import LawBrokenError
from rallypoint.testing.simulated_workers import Script
from rallypoint.testing.simulator import Cluster

NEVER = Script()


def cluster(min_nodes, max_nodes=None, count=None, script=None, nproc=1, seed=3, **config):
    times = {"last_call_timeout": 2.0, "keep_alive_interval": 1.0, "shutdown_timeout": 5.0}
    timing = Timing(**(times | config.pop("timing", {})))
    spec = Spec(
        argv=("train",),
        environ={},
        backend="tcp",
        min_nodes=min_nodes,
        max_nodes=max_nodes or min_nodes,
        nproc=nproc,
        timing=timing,
        **config,
    )
    it = Cluster(spec, seed, script)
    for n in range(max_nodes or min_nodes if count is None else count):
        it.start(f"n{n + 1}")
    return it


def formed(it, limit=60.0, **members):
    assert it.run_until(lambda: it.formed, limit), it.story(60)
    return it.view


def outcomes(it):
    return {n.name: (n.outcome.status, n.outcome.exit_code) for n in it.nodes.values() if n.outcome}


def by_round(**scripts):
    """Scripts by node and round: ``n1_2`` is what node n1's first worker does in round 2."""
    return lambda name, order: scripts.get(f"{name}_{order.worker.round}", NEVER)


def test_a_job_from_its_start_to_its_end():
    it = cluster(2, script=lambda _name, _order: Script(after=5.0), nproc=2)
    formed(it, limit=1.0)
    assert list(it.ranks()) == [0, 1, 2, 3]
    assert it.run_until(lambda: not it.live, 6.0)
    assert outcomes(it) == {"n1": ("succeeded", 0), "n2": ("succeeded", 0)}


def test_all_at_once_without_a_last_call_and_else_with_one():
    it = cluster(2, 3, count=3)
    begin = it.clock.now()
    formed(it)
    assert it.clock.now() - begin < 0.1
    it = cluster(2, 3, count=2)
    begin = it.clock.now()
    formed(it)
    assert 2.0 <= it.clock.now() - begin < 2.1


@pytest.mark.parametrize(("scope", "again"), [("worker", [(1, 1)]), ("node", [(1, 0), (1, 1)])])
def test_who_failed_starts_again_alone(scope, again):
    """Nobody else is disturbed; it costs one restart, and the run ends when all have succeeded."""

    def script(name, order):
        fails = name == "n2" and order.worker.local_rank == 1 and order.worker.life == 0
        return Script(after=1.0, code=3) if fails else Script(after=5.0)

    it = cluster(2, nproc=2, script=script, max_restarts=1, restart=RestartPolicy(scope=scope))
    formed(it)
    assert it.run_until(lambda: it.view.lives, 3.0)
    assert it.run_until(lambda: not it.live, 12.0), it.story(60)
    started = {name: at.processes.workers for name, at in it.nodes.items()}
    lives = {name: sorted((w.round, w.local_rank, w.life) for w in started[name]) for name in it.nodes}
    assert lives["n1"] == [(1, 0, 0), (1, 1, 0)]
    assert lives["n2"] == sorted([(1, 0, 0), (1, 1, 0), *((1, local, life) for life, local in again)])
    restarts = {w.assignment.restart_count for w in it.nodes["n2"].processes.workers.values() if w.id.life}
    assert restarts == {1}
    assert set(outcomes(it).values()) == {("succeeded", 0)}
    assert {(n.outcome.rounds, n.outcome.restarts) for n in it.nodes.values()} == {(1, 1)}


@pytest.mark.parametrize("scope", ["worker", "node"])
def test_alone_they_spend_the_budget_of_all(scope):
    fails = Script(after=1.0, code=42)
    it = cluster(
        3,
        script=lambda name, _order: fails if name != "n1" else NEVER,
        max_restarts=3,
        restart=RestartPolicy(scope=scope),
    )
    formed(it)
    assert it.run_until(lambda: not it.live, 30.0), it.story(60)
    starts = sum(len(n.processes.workers) for n in it.nodes.values())
    assert starts == 3 + 3
    assert set(outcomes(it).values()) == {("failed", 42)}


def test_alone_but_after_a_delay_and_when_nodes_change_all_together():
    first = Script(after=1.0, code=3)
    it = cluster(
        2,
        3,
        count=2,
        script=lambda name, order: first if name == "n2" and order.worker == WorkerId(1, 0) else NEVER,
        max_restarts=5,
        restart=RestartPolicy(scope="worker", delay=4.0, max_delay=8.0),
        membership=Membership(join_interval=0.0),
    )
    formed(it)
    begin = it.clock.now()
    assert it.run_until(lambda: it.view.lives, 9.0)
    assert 4.9 < it.clock.now() - begin < 5.5
    formed(it)
    assert it.view.round == 1
    it.start("n3")
    assert it.run_until(lambda: it.formed and it.view.round == 2, 20.0)
    assert len(it.view.roster) == 3 and not it.view.lives and it.view.restarts == 1


def test_budget_is_the_jobs_whoever_fails():
    """Case 9: failures on alternating nodes; after exactly three restarts everybody ends the same way."""
    fails = Script(after=1.0, code=42)
    it = cluster(3, script=by_round(n1_1=fails, n2_2=fails, n3_3=fails, n1_4=fails), max_restarts=3)
    seen = []
    while it.live:
        assert it.run_until(lambda: it.formed or not it.live, 30.0), it.story(40)
        if it.live:
            given = {w.assignment.restart_count for n in it.live for w in n.processes.alive}
            seen.append(given)
            assert it.run_until(lambda: not it.formed, 30.0)
    assert seen == [{0}, {1}, {2}, {3}]
    assert set(outcomes(it).values()) == {("failed", 42)}
    assert len({n.outcome.failures[0] for n in it.nodes.values()}) == 1


def test_many_workers_that_fail_at_once_cost_one():
    fails = Script(after=1.0, code=1)
    it = cluster(3, script=by_round(n1_1=fails, n2_1=fails, n3_1=fails), max_restarts=5, nproc=2)
    formed(it)
    it.run_until(lambda: it.view.round == 2)
    assert formed(it).restarts == 1


def test_an_agent_that_is_killed_is_replaced_and_the_others_keep_their_ranks():
    """Cases 4 and 13."""
    it = cluster(3, max_restarts=3)
    places = dict(formed(it).roster.nodes and {n: r for r, n in it.ranks().items()})
    lost = next(n for n, rank in places.items() if rank == 1)
    it.kill(lost)
    assert it.run_until(lambda: it.view.phase == node.FORMING, 10.0)
    it.start("n4")
    view = formed(it)
    assert view.restarts == 0
    now = {n: r for r, n in it.ranks().items()}
    assert now == {n: r for n, r in places.items() if n != lost} | {"n4": 1}


def test_a_late_one_is_let_in():
    """Case 3."""
    it = cluster(1, 2, count=1)
    assert formed(it).roster.world_size == 1
    it.start("n2")
    assert it.run_until(lambda: it.formed and len(it.running) == 2, 5.0)


def test_told_to_leave():
    """Case 5: it drains in the grace, the others go on, a new one may come."""
    it = cluster(2, 3, count=3, script=lambda _n, _o: Script(saves=3.0))
    formed(it)
    it.signal("n2", 15)
    assert it.run_until(lambda: "n2" in outcomes(it), 3.2)
    assert outcomes(it) == {"n2": ("stopped", 143)}
    formed(it, limit=5.0)
    assert it.running == {"n1", "n3"} and it.view.restarts == 0
    it.start("n4")
    assert it.run_until(lambda: it.running == {"n1", "n3", "n4"}, 10.0)


def test_frozen_for_less_than_a_lease_changes_nothing():
    """Case 7, first half."""
    it = cluster(1, 2)
    formed(it)
    it.freeze("n2")
    it.run_for(1.5)
    it.thaw("n2")
    it.run_for(10.0)
    assert it.view.round == 1 and it.formed


def test_frozen_for_long_is_evicted_once_and_comes_back():
    """Case 7: it must stop its own workers before it joins again."""
    it = cluster(1, 2, seed=5)
    formed(it)
    it.freeze("n2")
    assert it.run_until(lambda: it.running == {"n1"} and it.view.round == 2, 10.0)
    assert [w.id.round for w in it.nodes["n2"].processes.alive] == [1]
    it.thaw("n2")
    assert it.run_until(lambda: it.running == {"n1", "n2"}, 15.0)
    assert it.view.round == 3 and it.view.restarts == 0


def test_the_leader_is_cut_off_and_fences_itself():
    it = cluster(2, 3, count=3)
    formed(it)
    leader = it.server.entries["leader"].value
    it.cut(leader)
    assert it.run_until(lambda: len(it.running) == 2 and leader not in it.running, 15.0)
    assert it.run_until(lambda: not it.nodes[leader].processes.alive, 10.0)
    it.mend(leader)
    assert it.run_until(lambda: len(it.running) == 3, 15.0)
    assert it.view.restarts == 0


def test_the_host_of_the_store_dies():
    """Case 1: nobody exits, the rest re-forms; round numbers go on."""
    it = cluster(3, 4, count=4)
    formed(it)
    it.kill("n1")
    it.kill_store()
    it.run_for(0.3)
    it.revive_store()
    assert it.run_until(lambda: it.formed and len(it.running) == 3, 8.0)
    assert it.view.round == 2 and it.view.roster.world_size == 3 and not outcomes(it)


@pytest.mark.parametrize("seed", range(4))
def test_a_node_that_never_heard_of_its_round_does_not_hold_up_the_next(seed):
    """Found by chance: its lease lived, so its leader waited for an acknowledgement that never came."""
    it = cluster(2, 3, count=2, seed=seed, max_restarts=1)
    it.run_for(1.5)  # in the last call
    late = next(n for n in it.nodes if n != it.server.entries["leader"].value)
    it.cut(late)
    assert it.run_until(lambda: it.running, 1.0)
    first = next(n for n in it.live if n.runs)
    first.processes.end_soon(first.processes.alive[0], 0.2, code=1)
    assert it.run_until(lambda: it.view.phase == node.DRAINING, 1.0)
    it.run_for(1.2)
    it.mend(late)  # before its lease is over
    assert it.run_until(lambda: it.formed and it.view.round == 2, 10.0), it.story(40)
    assert it.running == {"n1", "n2"} and it.view.restarts == 1


def test_a_worker_that_cannot_be_killed_is_given_up():
    stuck = Script(saves=None, unkillable=1e6)
    it = cluster(1, 2, script=by_round(n1_1=stuck))
    formed(it)
    it.signal("n1", 15)
    assert it.run_until(lambda: "n1" in outcomes(it), 5.0 + 5.0 + 1.0)
    assert it.run_until(lambda: it.running == {"n2"}, 5.0)


def test_a_second_signal_kills_at_once():
    """Case 21."""
    it = cluster(1, script=lambda _n, _o: Script(saves=None))
    formed(it)
    it.signal("n1", 2)
    it.run_for(0.5)
    assert not outcomes(it)
    it.signal("n1", 2)
    assert it.run_until(lambda: outcomes(it) == {"n1": ("stopped", 130)}, 1.0)


def test_the_rest_is_overdue_after_the_first_success():
    """Case 16."""
    it = cluster(2, script=by_round(n1_1=Script(after=1.0)), timing={"success_timeout": 5.0})
    formed(it)
    assert it.run_until(lambda: len(outcomes(it)) == 2, 8.0)
    assert set(outcomes(it).values()) == {("failed", 124)}
    culprit = it.nodes["n1"].outcome.failures[0]
    assert (culprit.kind, culprit.node) == ("overdue", "n2")


def test_too_few_ever():
    it = cluster(2, count=1, timing={"join_timeout": 20.0})
    assert it.run_until(lambda: outcomes(it) == {"n1": ("timeout", 75)}, 21.0)


def test_the_simulator_finds_a_broken_law():
    """The checks are worth something only if they can fail: two nodes are handed the same round."""
    it = cluster(1, 2)
    formed(it)
    view = it.view
    with pytest.raises(LawBrokenError, match=r"round or roster changed while running(.|\n)*seed 3(.|\n)*START"):
        it.laws._view_written(view.replace(phase=node.DRAINING))
        it.laws._view_written(view.replace(roster=view.roster.replace(nodes=("n2", "n1"))))
