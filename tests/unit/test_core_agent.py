"""Transcripts: what one agent is told, and what it orders."""

import signal

from corekit import NodeInfo, Tale, WorkerId, e, ended, failure, info, node, o, view

from rallypoint.core.ranks import assignments
from rallypoint.model.result import Outcome

A1, A2 = WorkerId(1, 0), WorkerId(2, 0)
TERM1 = o.Signal(A1, signal.SIGTERM)


def me(**more):
    return NodeInfo("a", "host-a", **{"address": "10.0.0.1", "slots": 1, "port": 4000, **more})


def test_coming_in_and_starting():
    tale = Tale()
    assert tale.tell(e.Started()) == []
    assert tale.tell(e.ViewSeen(None, 0)) == []
    assert tale.tell(e.LeaderSeen("b")) == []
    assert tale.tell(e.StoreBack(True, "10.0.0.1")) == [o.ServeWorkers(1)]
    assert tale.tell(e.Serving(1, 4000)) == [o.Join(me())]
    assert tale.tell(e.Joined()) == []
    running = view(1, members=("b", "a"))
    assert tale.tell(e.ViewSeen(running, 5)) == [o.Spawn(A1, assignments(running, "a")[0])]
    assert tale.tell(e.Spawned(A1, 11)) == []
    assert tale.agent.wake_at() is None, "idle means asleep"


def test_whoever_finds_no_leader_takes_the_lease_and_asks_for_everything():
    tale = Tale()
    tale.tell(e.Started(), e.ViewSeen(None, 0), e.LeaderSeen(None))
    tale.tell(e.StoreBack(True, "10.0.0.1"))
    assert tale.tell(e.Serving(1, 4000)) == [o.Join(me()), o.Lead()]
    assert tale.tell(e.Joined()) == [], "one attempt at a time"
    assert tale.tell(e.LeaderSeen("a")) == [o.Gather()]
    assert tale.tell(e.LeaderSeen("a")) == []
    assert tale.tell(e.PeerSeen(me(), 1)) == [], "nothing is proposed before all is known"
    expected = view(1, members=(me(),))
    assert tale.tell(e.Gathered()) == [o.Propose(expected, 0)]
    assert tale.tell(e.PeerSeen(info("b"), 2)) == [], "one proposal at a time"
    assert [type(order) for order in tale.tell(e.ViewSeen(expected, 5))] == [o.Spawn]


def test_a_refused_swap_is_thought_over():
    tale = Tale(min_nodes=2, max_nodes=2)
    assert tale.leading(info("b")) == [o.Propose(view(1, members=(me(), info("b")), master_port=4000), 0)]
    other = view(1, members=("b", "c"))
    assert tale.tell(e.ViewSeen(other, 7)) == [o.Propose(other.replace(phase=node.DRAINING, reason="node c: lost"), 7)]
    assert tale.agent.state == "STANDBY"


def test_a_round_ends_and_the_next_begins():
    tale = Tale()
    tale.running()
    assert tale.tell(e.ViewSeen(view(1, node.DRAINING, ("a", "b")), 6), at=200.0) == [TERM1]
    assert tale.agent.wake_at() == 210.0
    assert tale.tell(e.Exited(A1, ended(signal=15))) == [o.Sweep(1, 210.0)]
    assert tale.tell(e.Swept(1)) == [o.ServeWorkers(2)]
    assert tale.tell(e.Serving(2, 4001)) == [o.Join(me(port=4001, round=1))]
    assert tale.agent.state == "JOINING"
    running = view(2, members=("a", "b"), restarts=1)
    (spawn,) = tale.tell(e.ViewSeen(running, 7))
    assert (spawn.worker, spawn.assignment.restart_count) == (A2, 1)


def test_success_is_told_and_the_end_awaited():
    tale = Tale()
    tale.running()
    assert tale.tell(e.Exited(A1, ended(0))) == [o.Sweep(1, 110.0)]
    assert tale.tell(e.Swept(1)) == [o.Join(me(round=1, state=node.DONE))]
    assert tale.agent.wake_at() is None
    over = view(1, node.CLOSED, ("a", "b"), reason="all workers succeeded")
    assert tale.tell(e.ViewSeen(over, 8)) == [
        o.Leave("all workers succeeded"),
        o.Finish(Outcome("succeeded", 0, "all workers succeeded", rounds=1)),
    ]


def test_done_here_but_the_round_is_drained_elsewhere():
    tale = Tale()
    tale.running()
    tale.tell(e.Exited(A1, ended(0)), e.Swept(1))
    assert tale.tell(e.ViewSeen(view(1, node.DRAINING, ("a", "b")), 8)) == [o.ServeWorkers(2)]
    assert tale.tell(e.Serving(2, 4001)) == [o.Join(me(port=4001, round=1))]


def test_a_failure_is_published_and_the_end_is_the_views():
    tale = Tale(slots=2)
    tale.running()
    published, term, *_ = tale.tell(e.Exited(A1, ended(42)))
    assert published.failure == failure(words="exit code 42", status=42, pid=11)
    assert term == o.Signal(WorkerId(1, 1), signal.SIGTERM)
    tale.tell(e.Exited(WorkerId(1, 1), ended(signal=15)), e.Swept(1), e.Serving(2, 4001))
    cause = failure(1, "b", words="exit code 7", status=7)
    over = view(1, node.CLOSED, ("a", "b"), failures=(cause,), reason="rank 0: exit code 7")
    assert tale.tell(e.ViewSeen(over, 9))[-1] == o.Finish(
        Outcome("failed", 7, "rank 0: exit code 7", failures=(cause,), rounds=1)
    )


def test_told_to_end_while_waiting():
    tale = Tale()
    tale.joined()
    assert tale.tell(e.SignalReceived(2)) == [
        o.Leave("stopped by SIGINT"),
        o.Finish(Outcome("stopped", 130, "stopped by SIGINT", signal=2)),
    ]


def test_told_to_end_while_running_and_again():
    tale = Tale()
    tale.running()
    interrupt, leaving = tale.tell(e.SignalReceived(2))
    assert (interrupt, leaving) == (o.Signal(A1, 2), o.Join(me(round=1, state=node.LEAVING)))
    assert tale.tell(e.SignalReceived(2)) == [o.Signal(A1, signal.SIGKILL)]
    assert tale.tell(e.SignalReceived(2)) == []
    tale.tell(e.Exited(A1, ended(signal=9)))
    assert tale.tell(e.Swept(1))[-1].outcome.exit_code == 130


def test_forwarded_signals_reach_the_main_processes_and_nothing_else_happens():
    tale = Tale(forward_signals=(10,))
    tale.running()
    assert tale.tell(e.SignalReceived(10)) == [o.Signal(A1, 10, group=False)]
    assert tale.tell(e.SignalReceived(12)) == []
    assert tale.agent.state == "IN"


def test_shutdown_goes_before_failure():
    tale = Tale()
    tale.running()
    tale.tell(e.SignalReceived(15))
    over = view(1, node.CLOSED, ("a", "b"), failures=(failure(),))
    tale.tell(e.ViewSeen(over, 9), e.Exited(A1, ended(signal=15)))
    assert tale.tell(e.Swept(1))[-1].outcome.status == "stopped"


def test_refused():
    tale = Tale()
    tale.tell(e.Started())
    leave, finish = tale.tell(e.Refused("--nnodes", "1:2", "1:4"))
    assert finish.outcome.exit_code == 77 and "--nnodes" in finish.outcome.reason
    assert leave == o.Leave(finish.outcome.reason)


def test_too_few_nodes():
    tale = Tale(min_nodes=2, max_nodes=2)
    tale.joined()
    assert tale.agent.wake_at() == 100.0 + 600.0
    assert tale.wake()[-1].outcome.exit_code == 75


def test_out_of_touch_for_a_moment_changes_nothing():
    tale = Tale()
    tale.running()
    assert tale.tell(e.StoreLost("reset")) == []
    assert tale.agent.wake_at() == 103.0
    assert tale.tell(e.StoreLost("reset"), at=102.0) == []
    assert tale.agent.wake_at() == 103.0, "the first loss counts"
    assert tale.tell(e.StoreBack(False, "10.0.0.1"), at=102.5) == []
    assert tale.agent.wake_at() is None


def test_out_of_touch_for_longer_stops_the_workers_first():
    tale = Tale()
    tale.running()
    tale.tell(e.StoreLost("reset"))
    assert tale.wake() == [TERM1]
    tale.tell(e.Exited(A1, ended(signal=15)))
    assert tale.tell(e.Swept(1)) == [o.ServeWorkers(2)]
    assert tale.tell(e.Serving(2, 4001)) == []
    assert tale.tell(e.StoreBack(True, "10.0.0.1")) == [o.Join(me(port=4001, round=1, place=0))]
    assert [type(x) for x in tale.tell(e.ViewSeen(view(2), 9))] == [o.Spawn]
    assert tale.tell(e.Spawned(A2, 12)) == [], "the fence is down again"


def test_waiting_out_of_touch_does_not_fence_the_next_round():
    tale = Tale()
    tale.joined()
    tale.tell(e.StoreLost("reset"))
    assert tale.wake() == []
    assert [type(x) for x in tale.tell(e.StoreBack(True, "10.0.0.1"))] == [o.Join]
    assert [type(x) for x in tale.tell(e.ViewSeen(view(1), 9))] == [o.Spawn]
    assert tale.tell(e.Spawned(A1, 11)) == []
    assert tale.agent.group.active and not tale.agent.group.stopping


def test_standing_by_without_a_store_gives_up_in_time():
    tale = Tale()
    tale.joined(there=view(1, members=("b",)))
    assert tale.agent.state == "STANDBY" and tale.agent.wake_at() is None
    tale.tell(e.StoreLost("reset"))
    assert tale.wake() == []
    assert tale.wake()[-1].outcome.exit_code == 75


def test_a_store_that_dies_after_our_success_is_a_success():
    tale = Tale()
    tale.running()
    tale.tell(e.Exited(A1, ended(0)), e.Swept(1), e.StoreLost("gone"))
    assert tale.wake()[-1].outcome.status == "succeeded"


def test_but_not_if_the_run_went_on_after_our_success():
    tale = Tale()
    tale.running()
    tale.tell(e.Exited(A1, ended(0)), e.Swept(1), e.ViewSeen(view(1, node.DRAINING, ("a", "b")), 8))
    tale.tell(e.Serving(2, 4001), e.StoreLost("gone"))
    assert tale.wake() == []
    assert tale.agent.state == "JOINING"


def test_an_empty_store_stops_the_workers_and_goes_on_from_what_is_remembered():
    tale = Tale()
    tale.running(round_=4)
    assert tale.tell(e.StoreLost("gone")) == []
    assert tale.tell(e.ViewSeen(None, 0)) == [o.Signal(WorkerId(4, 0), signal.SIGTERM)]
    tale.tell(e.LeaderSeen(None), e.Exited(WorkerId(4, 0), ended(signal=15)), e.Swept(4), e.Serving(5, 4001))
    assert tale.tell(e.StoreBack(True, "10.0.0.1")) == [o.Join(me(port=4001, round=4, place=0)), o.Lead()]
    tale.tell(e.Joined(), e.LeaderSeen("a"), e.PeerSeen(tale.agent.info, 1))
    (propose,) = tale.tell(e.Gathered())
    assert (propose.view.round, propose.view.roster.nodes, propose.expected) == (5, ("a",), 0)


def test_in_an_empty_store_whoever_waits_is_ready_whatever_round_it_remembers():
    tale = Tale(min_nodes=2, max_nodes=2)
    tale.running(round_=4)
    tale.tell(e.StoreLost("gone"), e.ViewSeen(None, 0), e.LeaderSeen(None))
    tale.tell(e.Exited(WorkerId(4, 0), ended(signal=15)), e.Swept(4), e.Serving(5, 4001))
    tale.tell(e.StoreBack(True, "10.0.0.1"), e.Joined(), e.LeaderSeen("a"))
    tale.tell(e.PeerSeen(tale.agent.info, 1), e.PeerSeen(info("b", round=3), 2))
    (propose,) = tale.tell(e.Gathered())
    assert (propose.view.round, propose.view.roster.nodes) == (5, ("a", "b"))


def test_joining_anew_with_workers_says_so():
    tale = Tale()
    tale.running()
    tale.tell(e.StoreLost("reset"))
    assert tale.tell(e.StoreBack(True, "10.0.0.1")) == [o.Join(me(round=1, state=node.WORKING, place=0))]


def test_a_round_that_was_over_before_we_knew_is_acknowledged():
    """Else its leader would wait for us for ever: our lease lived, and we never started its workers."""
    tale = Tale()
    tale.joined()
    assert tale.tell(e.ViewSeen(view(1, node.DRAINING, ("a", "b")), 6)) == [o.ServeWorkers(2)]
    assert tale.tell(e.Serving(2, 4001)) == [o.Join(me(port=4001, round=1))]
    assert [type(x) for x in tale.tell(e.ViewSeen(view(2), 9))] == [o.Spawn]


def test_whoever_lost_its_lease_leads_no_more_until_it_knows():
    tale = Tale(min_nodes=2, max_nodes=2)
    tale.leading()
    tale.tell(e.StoreLost("reset"))
    assert [type(x) for x in tale.tell(e.StoreBack(True, "10.0.0.1"))] == [o.Join]
    assert tale.tell(e.PeerSeen(info("b"), 9)) == [], "b may lead now"
    assert tale.tell(e.LeaderSeen("a")) == [o.Gather()]
    assert tale.tell(e.PeerSeen(tale.agent.info, 9)) == []
    assert tale.tell(e.Gathered()) == [], "what was known of b before is forgotten"


def test_a_lease_that_lived_keeps_leading():
    tale = Tale(min_nodes=2, max_nodes=2)
    tale.leading()
    tale.tell(e.StoreLost("reset"), e.StoreBack(False, "10.0.0.1"))
    assert [type(x) for x in tale.tell(e.PeerSeen(info("b"), 9))] == [o.Propose]


def test_a_connection_lost_before_anything_was_said_is_as_good_as_none():
    tale = Tale()
    tale.tell(e.Started(), e.ViewSeen(None, 0), e.LeaderSeen("b"), e.StoreLost("reset"))
    tale.tell(e.StoreBack(False, "10.0.0.1"))
    assert tale.tell(e.Serving(1, 4000)) == [o.Join(me())]


def test_done_at_a_new_address_is_still_done():
    tale = Tale()
    tale.running()
    tale.tell(e.Exited(A1, ended(0)), e.Swept(1), e.StoreLost("reset"))
    assert tale.tell(e.StoreBack(True, "10.0.0.7")) == [
        o.Join(me(address="10.0.0.7", round=1, state=node.DONE, place=0))
    ]


def test_a_new_address_wants_a_worker_store_there():
    tale = Tale()
    tale.joined()
    tale.tell(e.StoreLost("gone"))
    assert tale.tell(e.StoreBack(True, "10.0.0.7")) == [o.ServeWorkers(1)]
    assert tale.tell(e.Serving(1, 4001)) == [o.Join(me(address="10.0.0.7", port=4001))]


def test_static_empties_the_worker_store_before_each_round_and_only_rank_0_leads():
    tale = Tale(node_rank=0, backend="static")
    serve, propose = tale.leading()
    assert serve == o.ServeWorkers(1) and propose.view.round == 1
    other = Tale(node_rank=1, backend="static", min_nodes=2, max_nodes=2)
    assert [type(x) for x in other.joined(leader=None)] == []
    assert other.agent.state == "JOINING"


def test_overdue_everywhere_once_the_view_says_finishing():
    tale = Tale(timing={"success_timeout": 5.0})
    tale.running()
    tale.tell(e.ViewSeen(view(1, members=("a", "b"), finishing=True), 6))
    assert tale.agent.wake_at() == 105.0
    assert tale.wake() == [o.DumpStacks(A1)]


def test_a_first_success_is_told_if_the_others_have_a_limit():
    tale = Tale(slots=2, timing={"success_timeout": 5.0})
    tale.running()
    (join,) = tale.tell(e.Exited(A1, ended(0)))
    assert join.info.state == node.FINISHING


def test_repr_tells_the_state():
    tale = Tale()
    tale.running()
    assert "IN" in repr(tale.agent) and "running 1" in repr(tale.agent)
