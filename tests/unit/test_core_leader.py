"""The leader's work: what the nodes say, and the view that follows."""

import pytest
from corekit import e, failure, info, node, spec, view

from rallypoint.core import leader
from rallypoint.model.node import View

FIRST = View(round=0, phase=node.FORMING)


class Lead:
    """A board, the view, and the time; ``seen`` writes the view as the store would tell it."""

    def __init__(self, *names, view=FIRST, min_nodes=1, max_nodes=4, **config):
        self.board = leader.Board(spec(min_nodes, max_nodes, **config))
        self.now = 100.0
        self.joined = 0
        self.view = view
        if view is not FIRST:
            self.board.view_seen(view, self.now)
        for name in names:
            self.peer(name)
        self.board.complete = True

    def peer(self, name, anew=False, **more):
        self.joined += 1
        known = self.board._joined.get(name)
        said = name if not isinstance(name, str) else info(name, **more)
        self.board.peer_seen(e.PeerSeen(said, self.joined if anew or known is None else known))

    def lose(self, name, left=False, reason=""):
        self.board.peer_lost(e.PeerLost(name, left, reason))

    def fail(self, told):
        self.board.failure_seen(e.FailureSeen(told))

    def next(self, after=0.0):
        self.now += after
        return self.board.next_view(self.view, self.now)

    def write(self, after=0.0):
        """The next view is proposed, written and told."""
        view = self.next(after)
        if view is not None:
            self.view = view
            self.board.view_seen(view, self.now)
        return view

    def running(self):
        assert (self.write() or self.write(after=2.0)).phase == node.RUNNING
        return self


def forming(*names, **config):
    lead = Lead(*names, **config)
    lead.next()
    return lead


def test_nothing_is_decided_before_all_is_known():
    lead = Lead("a", "b", "c", "d")
    lead.board.complete = False
    assert lead.next() is None and lead.board.wake_at(FIRST) is None


def test_at_once_when_all_that_can_come_are_there():
    lead = Lead("a", "b", "c", "d")
    formed = lead.next()
    assert formed == view(1, members=("a", "b", "c", "d"))


def test_the_last_call():
    lead = forming("a", "b", min_nodes=2)
    assert lead.next() is None
    assert lead.board.wake_at(FIRST) == 102.0
    assert lead.next(after=1.9) is None
    assert lead.next(after=0.1).roster.nodes == ("a", "b")


def test_the_last_call_begins_anew_when_there_are_too_few_again():
    lead = forming("a", "b", min_nodes=2)
    lead.lose("b")
    assert lead.next(after=1.0) is None
    lead.peer("c")
    assert lead.next(after=1.5) is None
    assert lead.write(after=1.9).phase == node.FORMING, "the call began when there were enough again"
    assert lead.next(after=0.1).roster.nodes == ("a", "c")


def test_too_few_are_told_who_is_here_and_not_too_often():
    lead = forming("a", min_nodes=3)
    assert lead.board.wake_at(FIRST) == 104.0
    assert lead.next(after=3.9) is None
    assert lead.write(after=0.1).here == ("a",)
    assert lead.board.wake_at(lead.view) is None
    lead.peer("b")
    assert lead.next(after=1.0) is None
    assert lead.board.wake_at(lead.view) == 106.0
    assert lead.write(after=1.0).here == ("a", "b")


def test_the_master_is_the_first_node():
    lead = Lead(max_nodes=2)
    lead.peer("b", address="10.0.0.2", port=4711)
    lead.peer("a")
    formed = lead.next()
    assert (formed.roster.nodes, formed.master_addr, formed.master_port) == (("b", "a"), "10.0.0.2", 4711)


def test_more_than_fit_stand_by():
    lead = Lead("a", "b", "c", max_nodes=2).running()
    assert lead.view.roster.nodes == ("a", "b")
    assert lead.next() is None


def test_success():
    lead = Lead("a", "b", max_nodes=2).running()
    lead.peer("a", round=1, state=node.DONE)
    assert lead.next() is None
    lead.lose("a")  # done and gone
    assert lead.next() is None
    lead.peer("b", round=1, state=node.DONE)
    assert lead.write() == lead.view.replace(phase=node.CLOSED, reason="all workers succeeded")
    assert lead.next() is None


@pytest.mark.parametrize(("limit", "said"), [(None, False), (5.0, True)])
def test_finishing_is_said_if_there_is_a_limit(limit, said):
    lead = Lead("a", "b", max_nodes=2, timing={"success_timeout": limit}).running()
    lead.peer("a", round=1, state=node.FINISHING)
    got = lead.write()
    assert (got is not None and got.finishing) == said
    assert lead.next() is None


def test_one_failure_one_restart():
    lead = Lead("a", "b", max_nodes=2, max_restarts=1).running()
    first, second = failure(name="a"), failure(name="b", rank=1)
    lead.fail(first)
    drained = lead.write()
    assert (drained.phase, drained.failures, drained.restarts) == (node.DRAINING, (first,), 0)
    assert drained.reason == "rank 0 (local 0) on host-a: exit code 3"
    lead.fail(second)
    lead.peer("a", round=1)
    assert lead.next() is None, "the workers of b are not gone yet"
    lead.peer("b", round=1)
    formed = lead.write()
    assert (formed.phase, formed.round, formed.restarts, formed.failures) == (node.RUNNING, 2, 1, ())
    lead.fail(failure(2, "b"))
    lead.write()
    lead.peer("a", round=2)
    lead.peer("b", round=2)
    over = lead.write()
    assert (over.phase, over.restarts, [f.node for f in over.failures]) == (node.CLOSED, 1, ["b"])


def test_the_cause_is_named_even_if_it_was_told_last():
    lead = Lead("a", "b", max_nodes=2).running()
    lead.fail(failure(name="a", consequence=True))
    lead.write()
    lead.fail(failure(name="b"))
    lead.peer("a", round=1)
    lead.peer("b", round=1)
    assert [f.node for f in lead.write().failures] == ["b", "a"]


def test_failures_of_an_earlier_round_do_not_count():
    lead = Lead("a", "b", max_nodes=2, view=view(3, members=("a", "b")))
    lead.fail(failure(2))
    assert lead.next() is None


def test_a_lost_node_ends_the_round_and_costs_nothing():
    lead = Lead("a", "b", "c", max_nodes=3, min_nodes=2).running()
    lead.lose("b", reason="unheard of")
    assert lead.write().reason == "node b: unheard of"
    lead.fail(failure(name="a", consequence=True))
    lead.peer("a", round=1)
    assert lead.next() is None
    lead.peer("c", round=1)
    formed = lead.write()
    assert (formed.phase, formed.round, formed.restarts, formed.roster.nodes) == (node.RUNNING, 2, 0, ("a", "c"))


def test_too_few_are_left():
    lead = Lead("a", "b", max_nodes=2, min_nodes=2).running()
    lead.lose("b")
    lead.write()
    lead.peer("a", round=1)
    formed = lead.write()
    assert (formed.phase, formed.round) == (node.FORMING, 1)
    lead.peer("c")
    again = lead.write()
    assert (again.phase, again.round, again.roster.nodes, again.restarts) == (node.RUNNING, 2, ("a", "c"), 0)


def test_a_leave_is_awaited():
    lead = Lead("a", "b", max_nodes=2).running()
    lead.peer("b", round=1, state=node.LEAVING)
    assert lead.write().reason == "node b leaves"
    lead.peer("a", round=1)
    assert lead.next() is None, "b's workers save their work"
    lead.lose("b", left=True)
    assert lead.write().roster.nodes == ("a",)


def test_a_newcomer_ends_the_round_if_there_is_room():
    lead = Lead("a", max_nodes=2).running()
    lead.peer("b")
    assert lead.write().reason == "node b joins"
    lead.peer("a", round=1)
    assert (lead.write().roster.nodes, lead.view.restarts) == (("a", "b"), 0)


def test_a_newcomer_does_not_disturb_the_end():
    lead = Lead("a", "b", max_nodes=3).running()
    lead.peer("a", round=1, state=node.DONE)
    lead.peer("c")
    assert lead.next() is None


def test_a_node_that_stopped_its_workers_on_its_own():
    lead = Lead("a", "b", max_nodes=2).running()
    lead.peer("b", round=1)
    assert lead.write().reason == "node b stopped its workers"


def test_a_node_that_joined_anew_was_lost_in_between():
    lead = Lead("a", "b", max_nodes=2).running()
    lead.peer("b", anew=True, round=1, state=node.WORKING)
    assert lead.write().reason == "node b: it joined anew"
    lead.peer("a", round=1)
    assert lead.write().phase == node.FORMING, "whoever was lost does not hold up the drain"
    assert lead.next() is None, "but it is here, and has its last call to be ready"
    lead.peer("b", round=1)
    assert (lead.next().phase, lead.next().roster.nodes) == (node.RUNNING, ("a", "b"))


def test_a_spawn_failure_is_final_whatever_the_budget():
    lead = Lead("a", max_nodes=1, max_restarts=5).running()
    lead.fail(failure(kind="spawn", status=127))
    lead.write()
    lead.peer("a", round=1)
    assert lead.write().phase == node.CLOSED


def test_a_new_leader_goes_on_where_the_old_one_was():
    there = view(3, node.DRAINING, ("a", "b", "c"), restarts=2)
    lead = Lead(view=there, max_nodes=3)
    lead.peer("b", round=3)
    lead.peer("c", round=2)
    assert lead.next() is None
    lead.peer("c", round=3)
    assert (lead.write().roster.nodes, lead.view.round, lead.view.restarts) == (("b", "c"), 4, 2)


def test_leading_again_still_knows_which_round_is_on():
    """Else the nodes that are done would not count, and the run would never end."""
    lead = Lead("a", "b", max_nodes=2).running()
    lead.board.forget()
    lead.peer("a", round=1, state=node.DONE)
    lead.peer("b", round=1, state=node.DONE)
    lead.board.complete = True
    assert lead.next().phase == node.CLOSED


def test_no_round_forms_while_workers_of_an_earlier_one_run_on_a_node_that_lives():
    """A store that began anew: b came back with its workers, a and c are enough for a round."""
    lead = Lead(view=view(4, node.FORMING, ("a", "b", "c")), min_nodes=2, max_nodes=3)
    lead.board.renewed = True
    lead.peer("a", round=4)
    lead.peer("c")
    lead.peer("b", round=4, state=node.WORKING)
    assert lead.next() is None
    assert lead.write(after=9.0).phase == node.FORMING
    assert lead.board.wake_at(lead.view) is None
    lead.peer("b", round=4)
    assert lead.next().roster.nodes == ("a", "b", "c")


def test_in_a_store_that_began_anew_everybody_who_waits_is_ready():
    """b never knew of round 4, which a remembers; nobody will ever tell it of that round."""
    lead = Lead(view=view(4, node.FORMING, ("a", "b")), min_nodes=2, max_nodes=2)
    lead.peer("a", round=4)
    lead.peer("b", round=3)
    assert lead.next() is None
    lead.board.renewed = True
    assert (lead.next().roster.nodes, lead.next().round) == (("a", "b"), 5)


def test_rounds_go_on_from_what_the_nodes_remember():
    lead = Lead(max_nodes=2)
    lead.peer("a")
    lead.peer("b", round=7)
    assert lead.next().round == 8


def test_repr():
    assert "2 nodes" in repr(Lead("a", "b").board)
