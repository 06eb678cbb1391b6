"""Who may come, and when: spares, gathering, notice, safe points, topology. The leader's work as a transcript."""

import pytest
from corekit import info, node, spec
from test_core_leader import Lead

from rallypoint.core import admission, ranks
from rallypoint.model.node import Roster
from rallypoint.model.spec import Membership

NOTICE = {"notice_signal": 10, "notice_grace": 5.0}


def lead(*names, running=True, min_nodes=1, max_nodes=4, timing=None, **members):
    it = Lead(*names, min_nodes=min_nodes, max_nodes=max_nodes, membership=Membership(**members), timing=timing)
    if running:
        it.running()
        for name in it.view.roster.nodes:
            it.peer(name, round=1, state=node.WORKING)
    return it


def settle(it):
    """Every node of the round has stopped its workers."""
    for name in it.view.roster.nodes:
        if name in it.board._peers and not it.board._peers[name].leaving:
            it.peer(name, round=it.view.round)


@pytest.mark.parametrize(
    ("here", "before", "spares", "size"),
    [(1, 0, 0, 1), (3, 0, 0, 3), (6, 0, 0, 4), (3, 0, 1, 2), (5, 0, 1, 4), (2, 0, 5, 2), (3, 3, 1, 3), (2, 3, 1, 2)],
)
def test_how_many_run(here, before, spares, size):
    assert admission.size(spec(2, 4, membership=Membership(spares=spares)), here, before) == size


def test_joiners_are_gathered_and_taken_in_together():
    it = lead("a", "b", join_interval=2.0)
    it.peer("c")
    assert it.next() is None
    assert it.board.wake_at(it.view) == it.now + 2.0
    it.peer("d")
    assert it.next(after=0.5).phase == node.DRAINING, "nobody else fits: no need to wait"


def test_one_joiner_waits_for_others_that_may_come():
    it = lead("a", "b", join_interval=2.0)
    it.peer("c")
    assert it.next() is None and it.next(after=1.9) is None
    drains = it.next(after=0.2)
    assert (drains.phase, drains.reason) == (node.DRAINING, "node c joins")


def test_a_joiner_that_goes_again_disturbs_nobody():
    it = lead("a", "b", join_interval=2.0)
    it.peer("c")
    assert it.next() is None
    it.lose("c", left=True)
    assert it.next(after=3.0) is None and it.board.wake_at(it.view) is None


def test_at_restart_nobody_is_stopped_for_a_newcomer():
    it = lead("a", "b", admit="at-restart", join_interval=0.0)
    it.peer("c")
    assert it.next() is None and it.board.wake_at(it.view) is None
    it.lose("b")
    assert it.write().phase == node.DRAINING
    settle(it)
    assert it.write().roster.nodes == ("a", "c")


def test_when_ready_waits_for_every_safe_point():
    it = lead("a", "b", admit="when-ready", join_interval=0.0)
    it.peer("c")
    assert it.write().pending == "node c joins"
    assert it.next(after=1000.0) is None
    it.peer("a", round=1, state=node.WORKING, ready=1)
    assert it.next() is None
    it.peer("b", round=1, state=node.WORKING, ready=1)
    drains = it.write()
    assert (drains.phase, drains.reason) == (node.DRAINING, "node c joins")
    settle(it)
    assert (it.write().roster.nodes, it.view.pending, it.view.restarts) == (("a", "b", "c"), "", 0)


def test_notice_is_given_for_a_time():
    it = lead("a", "b", join_interval=0.0, **NOTICE)
    it.peer("c")
    assert it.write().pending == "node c joins"
    assert it.next(after=4.9) is None and it.board.wake_at(it.view) is not None
    assert it.next(after=0.2).phase == node.DRAINING


def test_a_job_that_is_ending_is_not_stopped_for_a_newcomer_after_all():
    it = lead("a", "b", join_interval=0.0, **NOTICE)
    it.peer("c")
    assert it.write().pending == "node c joins"
    it.peer("a", round=1, state=node.DONE)
    assert it.next(after=100.0) is None and it.board.wake_at(it.view) is None
    it.peer("b", round=1, state=node.DONE)
    assert it.next().phase == node.CLOSED


def test_who_leaves_is_not_in_the_next_round():
    it = lead("a", "b", "c", **NOTICE)
    it.peer("b", round=1, state=node.WORKING, leaving=True)
    assert it.write().pending == "node b leaves"
    for name in "ac":
        it.peer(name, round=1, state=node.WORKING, ready=1)
    it.peer("b", round=1, state=node.WORKING, ready=1, leaving=True)
    assert it.write().phase == node.DRAINING
    settle(it)
    it.peer("b", round=1, leaving=True)
    assert it.write().roster.nodes == ("a", "c")


def test_spares_stand_by_and_step_in_at_once():
    it = lead("a", "b", "c", running=False, spares=1, timing={"regroup_grace": 60.0})
    assert it.write() is None
    assert it.write(after=2.0).roster.nodes == ("a", "b")
    for name in "ab":
        it.peer(name, round=1, state=node.WORKING)
    assert it.next() is None, "a round does not grow at the cost of its spare"
    it.lose("a")
    assert it.write().phase == node.DRAINING
    settle(it)
    assert it.write().roster.nodes == ("c", "b")


def test_a_replacement_is_waited_for():
    it = lead("a", "b", "c", timing={"regroup_grace": 5.0})
    it.lose("b")
    it.write()
    settle(it)
    assert it.write().phase == node.FORMING
    assert it.write(after=4.0).phase == node.FORMING, "they are told who is here"
    assert it.board.wake_at(it.view) == pytest.approx(it.now + 1.0)
    assert it.next(after=1.1).roster.nodes == ("a", "c")
    it.peer("d")
    assert it.next().roster.nodes == ("a", "d", "c")


def test_a_node_put_aside_is_never_taken_again():
    it = lead("a", "b", join_interval=0.0)
    it.lose("b")
    it.write()
    settle(it)
    it.view = it.view.replace(aside=("c",))
    it.peer("c")
    assert it.write().roster.nodes == ("a",)
    it.peer("a", round=2, state=node.WORKING)
    assert it.next() is None and it.view.aside == ("c",)


def arranged(previous, *ready, limit=9):
    roster = Roster(tuple(previous), (1,) * len(previous), ("default",) * len(previous))
    nodes = [info(name, topology=key) for name, key in (pair.split(":") for pair in ready)]
    return [n.id for n in ranks.arrange(nodes, roster, limit)]


def test_neighbours_in_the_network_are_neighbours_in_rank():
    assert arranged("", "a:rack10", "b:rack9", "c:", "d:rack10", "e:rack9") == ["b", "e", "a", "d", "c"]
    assert arranged("", "a:", "b:") == ["a", "b"]


def test_a_newcomer_goes_beside_its_own():
    assert arranged("aXbY", "a:r1", "b:r2", "n:r2", "m:r1") == ["a", "m", "b", "n"]
    assert arranged("aXb", "a:r1", "b:r1", "n:r7") == ["a", "n", "b"]
