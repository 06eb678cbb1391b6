"""What the launcher says, as stories: facts with their times in, exact lines out."""

import json
import signal

import pytest

from rallypoint.model import event as events
from rallypoint.model import exits
from rallypoint.model import order as orders
from rallypoint.model.event import (
    DeadlinePassed,
    Exited,
    FailureSeen,
    Joined,
    LeaderSeen,
    PeerLost,
    PeerSeen,
    Refused,
    Serving,
    SignalReceived,
    Spawned,
    SpawnFailed,
    Started,
    StoreBack,
    StoreLost,
    StoreTried,
    Swept,
    ViewSeen,
)
from rallypoint.model.node import CLOSED, DRAINING, FORMING, RUNNING, Assignment, NodeInfo, Roster, View
from rallypoint.model.order import Abandon, Decision, Finish, Gather, Publish, Spawn
from rallypoint.model.result import Exit, Failure, Outcome, WorkerError, WorkerId
from rallypoint.model.spec import Spec
from rallypoint.observe.messages import Messages

A, B, C = "h1:17:aa", "h2:21:bb", "h3:9:cc"
ONE = Spec(("python", "train.py"), {}, nproc=2)
TWO = Spec(("python", "train.py"), {}, min_nodes=2, max_nodes=2, nproc=2, backend="tcp", endpoint="h1:29400")
WALL = 1_700_000_000.0


class Launcher:
    """Plays decisions to ``Messages`` and the ticks that it asks for, as the driver does."""

    def __init__(self, spec, node=A):
        self.lines = []
        self.messages = Messages(spec, node, self.lines.append, wall=lambda: WALL)

    def at(self, when, event, *made):
        self.until(when)
        self.messages(Decision(when, event, made))
        return self

    def until(self, when):
        while (due := self.messages.next_tick()) is not None and due <= when:
            self.messages.tick(due)

    @property
    def text(self):
        return "".join(self.lines)


def said(*lines):
    return "".join(f"rallyrun: {line}\n" for line in lines)


def view(phase, number=1, members=(A,), **more):
    count = len(members)
    return ViewSeen(View(number, phase, Roster(members, (2,) * count, ("default",) * count), **more), number)


def failure(**changes):
    base = Failure("worker", 1, B, "h2", "SIGKILL", 137, rank=3, local_rank=1, pid=4711, signal=9)
    return base.replace(**changes)


def spawned(rank, local_rank, pid, number=1):
    worker = WorkerId(number, local_rank)
    place = Assignment(rank, local_rank, 4, 2, 0, 1, "default", rank, 4, "h1", 1, 0)
    return (Started(), Spawn(worker, place)), Spawned(worker, pid)


def start_workers(launcher, when, *ranks):
    for local_rank, rank in enumerate(ranks):
        (cause, order), event = spawned(rank, local_rank, 100 + rank)
        launcher.at(when, cause, order).at(when, event)
    return launcher


def peer(node, **more):
    return PeerSeen(NodeInfo(node, node.partition(":")[0], "10.0.0.1", 2, **more), 1)


SUCCEEDED = Outcome("succeeded", 0, rounds=1)


def test_one_node_that_succeeds_says_nothing():
    story = Launcher(ONE).at(0.0, Started()).at(0.0, Joined()).at(0.0, LeaderSeen(A), Gather()).at(0.0, peer(A))
    story.at(0.01, view(RUNNING))
    start_workers(story, 0.02, 0, 1)
    story.at(9.0, Exited(WorkerId(1, 0), Exit(100, 0))).at(9.0, Exited(WorkerId(1, 1), Exit(101, 0)))
    story.at(9.1, view(CLOSED, reason="all workers succeeded"), Finish(SUCCEEDED))
    assert story.lines == []
    assert story.messages.next_tick() is None


def test_one_node_verbose_tells_ports_pids_phases_and_the_end():
    story = Launcher(ONE.replace(verbosity=1)).at(0.0, Started()).at(0.0, Joined()).at(0.0, Serving(1, 4000))
    story.at(0.0, view(RUNNING, master_addr="127.0.0.1", master_port=4000))
    start_workers(story, 0.1, 0, 1)
    story.at(2.0, Exited(WorkerId(1, 0), Exit(100, 0))).at(2.5, view(CLOSED, reason="all done"), Finish(SUCCEEDED))
    assert story.text == said(
        f"node {A} joined",
        "worker store of round 1 listens on port 4000",
        "round 1: running, worker store at 127.0.0.1:4000",
        "round 1: 1 node, 2 workers",
        "rank 0 (local 0) started, pid 100",
        "rank 1 (local 1) started, pid 101",
        "rank 0 (local 0) ended, pid 100: exit code 0",
        "round 1: closed (all done)",
        "finished: 2 workers, 2.5 s",
    )


def test_one_node_that_fails_says_it_once_and_at_once():
    error = WorkerError("ValueError", "bad input", "Traceback ...\nValueError: bad input")
    mine = failure(node=A, host="h1", rank=1, pid=101, words="exit code 1", status=1, signal=None, error=error)
    story = start_workers(Launcher(ONE).at(0.0, Started()).at(0.0, view(RUNNING)), 0.1, 0, 1)
    story.at(1.0, Exited(WorkerId(1, 1), Exit(101, 1)), Publish(mine))
    assert story.text == said("rank 1 (local 1) on h1, pid 101: ValueError: bad input (exit code 1)")
    story.at(1.0, FailureSeen(mine.replace(order=3)))
    story.at(1.0, view(DRAINING, failures=(mine,))).at(1.1, view(CLOSED, failures=(mine,)))
    story.at(1.1, DeadlinePassed(), Finish(Outcome("failed", 1, failures=(mine,), rounds=1)))
    assert len(story.lines) == 1  # the report is the last word


def test_a_restart_and_then_success():
    killed = failure(node=A, host="h1")
    story = Launcher(ONE.replace(max_restarts=3)).at(100.0, Started()).at(100.0, view(RUNNING))
    story.at(112.4, Exited(WorkerId(1, 1), Exit(4711, None, 9)), Publish(killed))
    story.at(112.4, view(DRAINING, failures=(killed,))).at(113.0, view(RUNNING, 2, restarts=1))
    story.at(118.2, view(CLOSED, 2, restarts=1), Finish(Outcome("succeeded", 0, rounds=2, restarts=1)))
    assert story.text == said(
        "rank 3 (local 1) on h1, pid 4711: SIGKILL",
        "restart 1 of 3 (rank 3 on h1: SIGKILL)",
        "finished after 1 restart (rank 3 on h1: SIGKILL at 12.4 s); 2 rounds, 2 workers, 18.2 s",
    )


def test_a_second_restart_without_a_known_cause_does_not_blame_the_first():
    killed = failure()
    story = Launcher(ONE.replace(max_restarts=3)).at(0.0, view(RUNNING)).at(1.0, view(DRAINING, failures=(killed,)))
    story.at(2.0, view(RUNNING, 2, restarts=1)).at(3.0, view(RUNNING, 3, restarts=2))
    assert story.lines[-1] == said("restart 2 of 3")


def test_two_nodes_of_which_the_second_comes_after_12_seconds():
    story = Launcher(TWO).at(0.0, Started()).at(0.0, Joined()).at(0.0, LeaderSeen(A), Gather()).at(0.0, peer(A))
    story.at(4.0, view(FORMING, 0, (), here=(A,)))
    story.at(12.0, peer(B)).at(12.0, view(RUNNING, members=(A, B))).at(40.0, view(CLOSED, 1, (A, B)), Finish(SUCCEEDED))
    assert story.text == said(
        f"waiting for nodes, 5 s of 10 min: 1 of 2 nodes here ({A}), 1 missing; store at h1:29400",
        "round 1: 2 nodes, 4 workers, formed in 12 s",
        "finished: 2 nodes, 4 workers, 40 s",
    )


def test_the_second_node_waits_for_the_store_and_then_for_the_round():
    story = Launcher(TWO, B).at(0.0, Started())
    for attempt in range(1, 6):
        story.at(attempt * 1.5, StoreTried("h1:29400", "connection refused", attempt))
    story.at(12.0, StoreBack(True, "10.0.0.2")).at(12.0, view(FORMING, 0, (), here=(A, B)))
    story.until(16.0)
    story.at(17.0, view(RUNNING, members=(A, B)))
    assert story.text == said(
        "waiting for the store, 5 s of 10 min: trying the store at h1:29400: connection refused (3 attempts)",
        f"waiting for nodes, 15 s of 10 min: 2 nodes here ({A}, {B}), enough to begin; store at h1:29400",
        "round 1: 2 nodes, 4 workers, formed in 17 s",
    )


def test_waiting_lines_come_at_growing_intervals():
    story = Launcher(TWO).at(10.0, Joined())
    due = []
    for _ in range(7):
        due.append(story.messages.next_tick() - 10.0)
        story.messages.tick(story.messages.next_tick() - 0.001)
        assert len(story.lines) == len(due) - 1, "too early a tick says nothing"
        story.messages.tick(story.messages.next_tick())
    assert due == [5, 15, 35, 75, 135, 195, 255]


def test_a_late_tick_says_one_line_and_not_all_that_were_missed():
    story = Launcher(TWO).at(0.0, Joined())
    story.messages.tick(500.0)
    assert len(story.lines) == 1
    assert story.messages.next_tick() >= 500.0


def test_the_clock_of_the_wait_starts_with_a_tick_if_nothing_is_decided_yet():
    story = Launcher(TWO)
    story.messages.tick(50.0)
    assert story.messages.next_tick() == 55.0


def test_static_names_the_missing_node_ranks():
    spec = TWO.replace(backend="static", min_nodes=4, max_nodes=4, node_rank=0)
    story = Launcher(spec).at(0.0, Joined()).at(0.0, LeaderSeen(A), Gather())
    story.at(0.0, peer(A, node_rank=0)).at(0.0, peer(B, node_rank=2))
    story.until(5.0)
    where = f"waiting for nodes, 5 s of 10 min: 2 of 4 nodes here ({A}, {B}), "
    assert story.text == said(where + "node ranks 1, 3 missing; store at h1:29400")
    guest = Launcher(spec.replace(node_rank=2), B).at(0.0, StoreTried("h1:29500", "timed out", 1))
    guest.until(5.0)
    assert "trying the store of node rank 0 at h1:29500: timed out (1 attempt)" in guest.text


def test_enough_nodes_and_the_last_call_for_more():
    story = Launcher(TWO.replace(max_nodes=4)).at(0.0, Joined()).at(0.0, view(FORMING, 0, (), here=(A, B)))
    story.until(5.0)
    assert f"2 nodes here ({A}, {B}), enough to begin; last call for 2 more" in story.text


def test_a_node_is_lost_and_the_others_regroup():
    spec = TWO.replace(max_nodes=3)
    story = Launcher(spec).at(0.0, LeaderSeen(A), Gather()).at(1.0, view(RUNNING, members=(A, B, C)))
    story.at(20.0, PeerLost(B, False, "unheard of for 15.0 s"))
    story.at(20.0, view(DRAINING, 1, (A, B, C), reason=f"node {B}: unheard of for 15.0 s"))
    story.at(21.0, view(RUNNING, 2, (A, C))).at(30.0, view(CLOSED, 2, (A, C)), Finish(SUCCEEDED))
    assert story.text == said(
        "round 1: 3 nodes, 6 workers",
        f"round 1 ends: node {B}: unheard of for 15.0 s; regrouping",
        f"round 2: 2 nodes, 4 workers (left: {B})",
        f"finished after 1 membership change (left: {B} at 21 s); 2 rounds, 2 nodes, 4 workers, 30 s",
    )


def test_regrouping_that_takes_long_says_what_it_waits_for():
    story = Launcher(TWO).at(0.0, Joined()).at(0.0, view(RUNNING, members=(A, B)))
    start_workers(story, 0.0, 0)
    story.at(100.0, view(DRAINING, 1, (A, B), reason="node x leaves"))
    story.until(105.0)
    story.at(110.0, Exited(WorkerId(1, 0), Exit(100, None, 15)))
    story.until(115.0)
    story.at(116.0, view(FORMING, 1, (A, B)))
    story.until(121.0)
    assert story.text == said(
        "round 1: 2 nodes, 4 workers",
        "round 1 ends: node x leaves; regrouping",
        "stopping 1 worker, 5 s of 30 s",
        "waiting for the other nodes to stop their workers, 15 s",
        f"waiting for nodes, 5 s of 10 min: 1 of 2 nodes here ({A}), 1 missing; store at h1:29400",
    )


def test_a_newcomer_does_not_tell_restarts_it_was_not_there_for():
    story = Launcher(TWO.replace(max_nodes=3), C).at(0.0, Joined()).at(0.0, view(RUNNING, 3, (A, B), restarts=2))
    story.at(1.0, view(DRAINING, 3, (A, B), restarts=2, reason="node joins"))
    story.at(2.0, view(RUNNING, 4, (A, B, C), restarts=2))
    assert story.text == said(
        "standing by: round 3 runs without this node (2 nodes, 4 workers)",
        "round 3 ends: node joins; regrouping",
        "round 4: 3 nodes, 6 workers",
    )


def test_a_signal_stops_the_run():
    story = start_workers(Launcher(ONE).at(0.0, view(RUNNING)), 0.1, 0, 1)
    story.at(8.0, SignalReceived(signal.SIGTERM))
    story.at(8.1, StoreLost("it closed the connection"))  # the host may be the first to go
    story.at(9.5, view(DRAINING), Finish(Outcome("stopped", 143, signal=15)))
    assert story.text == said(
        "SIGTERM: stopping 2 workers, up to 30 s",
        "stopped by SIGTERM after 9.5 s, exit code 143",
    )


def test_ctrl_c_while_waiting_takes_two_lines():
    story = Launcher(TWO).at(0.0, Started())
    story.at(1.0, SignalReceived(signal.SIGINT), Finish(Outcome("stopped", 130, signal=2)))
    assert story.text == said("SIGINT: stopping", "stopped by SIGINT after 1 s, exit code 130")
    assert story.messages.next_tick() is None


def test_after_the_end_nothing_is_said():
    story = Launcher(ONE).at(0.0, view(RUNNING)).at(1.0, view(CLOSED), Finish(SUCCEEDED))
    story.at(1.1, view(FORMING, 1)).at(1.2, StoreLost("gone")).at(1.3, SignalReceived(2))
    assert story.lines == []
    assert story.messages.next_tick() is None


def test_a_second_ctrl_c_kills_and_a_third_is_not_told():
    story = start_workers(Launcher(ONE).at(0.0, view(RUNNING)), 0.1, 0, 1)
    for when in (1.0, 2.0, 3.0):
        story.at(when, SignalReceived(signal.SIGINT))
    assert story.text == said("SIGINT: stopping 2 workers, up to 30 s", "SIGINT: killing 2 workers")


def test_failures_of_workers_that_are_being_stopped_are_details():
    story = start_workers(Launcher(ONE).at(0.0, view(RUNNING)), 0.1, 0)
    story.at(1.0, SignalReceived(signal.SIGINT)).at(1.1, Exited(WorkerId(1, 0), Exit(100, 1)), Publish(failure()))
    assert len(story.lines) == 1


def test_a_forwarded_signal_is_a_detail():
    spec = ONE.replace(forward_signals=(signal.SIGUSR1,))
    for verbosity, expected in ((0, ""), (1, said("SIGUSR1 passed on to 0 workers"))):
        story = Launcher(spec.replace(verbosity=verbosity)).at(0.0, SignalReceived(signal.SIGUSR1))
        assert story.text == expected
    assert story.messages.next_tick() is not None, "the run goes on"


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("Name or service not known", "the name in h1:29400 means nothing on this node"),
        ("connection refused", "nobody hosts the store at h1:29400: is the first node up"),
        ("timed out", "no answer from h1:29400: a firewall"),
        ("no route to host", "no answer from h1:29400: a firewall"),
        ("it closed the connection", "something else than a store of this version listens at h1:29400"),
        ("run id 'x' is served there", "another run is at h1:29400"),
    ],
)
def test_a_timeout_is_explained(reason, cause):
    story = Launcher(TWO.replace(timing=TWO.timing.replace(join_timeout=10.0))).at(0.0, Started())
    story.at(1.0, StoreTried("h1:29400", reason, 1))
    story.at(10.0, DeadlinePassed(), Finish(Outcome("timeout", exits.RENDEZVOUS_TIMEOUT, "too few nodes")))
    lines = story.lines[-1].splitlines()
    assert lines[0] == f"rallyrun: gave up after 10 s: trying the store at h1:29400: {reason} (1 attempt)"
    assert lines[1].startswith(f"rallyrun: likely cause: {cause}")
    assert lines[2] == "rallyrun: exit code 75"


def test_a_timeout_with_too_few_nodes_says_who_was_there():
    story = Launcher(TWO).at(0.0, Joined()).at(0.0, view(FORMING, 0, (), here=(A,)))
    story.lines.clear()
    story.messages(Decision(600.0, DeadlinePassed(), (Finish(Outcome("timeout", 75)),)))
    assert story.text == said(
        f"gave up after 10 min: 1 of 2 nodes here ({A}), 1 missing; store at h1:29400",
        "likely cause: the missing nodes never came to this store: start each of them with the same "
        "--rdzv-endpoint, --rdzv-id and --nnodes; each says itself what it tries",
        "exit code 75",
    )


def test_refused_by_the_run_names_the_field_and_both_values():
    story = Launcher(TWO).at(0.0, Started())
    story.at(0.5, Refused("--nnodes", "2", "3"), Finish(Outcome("refused", exits.REFUSED, "refused")))
    assert story.text == said(
        "refused by the run at h1:29400: --nnodes is '2' here, '3' there; give every node the same --nnodes"
    )


def test_the_launchers_own_failure():
    story = Launcher(ONE).at(0.0, Started(), Finish(Outcome("error", exits.LAUNCHER_ERROR, "no file descriptors")))
    assert story.text == said("the launcher failed: no file descriptors; after 0 s, exit code 70")


def test_a_lost_store_is_told_once_waited_for_and_welcomed_back():
    story = start_workers(Launcher(TWO).at(0.0, view(RUNNING, members=(A, B))), 0.0, 0)
    story.at(100.0, StoreLost("connection reset by peer")).at(101.0, StoreTried("h1:29400", "connection refused", 1))
    story.at(102.0, StoreLost("again"))
    story.at(106.0, StoreBack(False, "10.0.0.1"))
    assert story.text == said(
        "round 1: 2 nodes, 4 workers",
        "lost the store at h1:29400: connection reset by peer; trying to reach it again",
        "waiting for the store, 5 s: trying the store at h1:29400: connection refused (1 attempt)",
        "the store is back after 6 s",
    )
    assert story.messages.next_tick() is None


def test_a_store_that_goes_once_the_run_is_over_is_no_news():
    story = Launcher(TWO).at(0.0, view(RUNNING, members=(A, B))).at(9.0, view(CLOSED, 1, (A, B)))
    story.at(9.1, StoreLost("it closed the connection"))
    assert story.text == said("round 1: 2 nodes, 4 workers")
    assert story.messages.next_tick() is None


def test_a_leader_forgets_who_went_and_a_deposed_one_forgets_all():
    story = Launcher(TWO.replace(min_nodes=3, max_nodes=3)).at(0.0, LeaderSeen(A), Gather())
    story.at(0.0, peer(A)).at(0.0, peer(B)).at(1.0, PeerLost(B, True, "stopped"))
    story.until(5.0)
    assert f"1 of 3 nodes here ({A}), 2 missing" in story.lines[-1]
    story.at(6.0, LeaderSeen(B)).at(6.0, view(FORMING, 0, (), here=(A, B)))
    story.until(15.0)
    assert f"2 of 3 nodes here ({A}, {B}), 1 missing" in story.lines[-1]


def test_a_fresh_store_means_waiting_for_nodes_again():
    story = Launcher(TWO).at(0.0, view(RUNNING, members=(A, B))).at(9.0, StoreLost("gone"))
    story.at(10.0, StoreBack(True, "10.0.0.1")).at(10.0, ViewSeen(None, 0))
    assert "this node joins anew" in story.text
    assert story.messages.next_tick() == 15.0


def test_only_the_first_failures_of_a_round_get_a_line_and_consequences_none():
    story = Launcher(ONE).at(0.0, view(RUNNING))
    every = tuple(failure(rank=n, local_rank=n, consequence=n < 20) for n in range(40))
    story.at(1.0, view(DRAINING, failures=every)).at(1.5, view(CLOSED, failures=every))
    assert len(story.lines) == 8
    assert "rank 20 (local 20)" in story.lines[0]
    assert "rank 27 (local 27)" in story.lines[-1]
    loud = Launcher(ONE.replace(verbosity=1)).at(1.0, view(DRAINING, failures=every))
    assert sum("SIGKILL" in line for line in loud.lines) == 40
    assert sum("[consequence]" in line for line in loud.lines) == 20


def test_workers_that_do_not_end_are_named():
    story = start_workers(Launcher(ONE).at(0.0, view(RUNNING)), 0.1, 0)
    story.at(1.0, DeadlinePassed(), Abandon(WorkerId(1, 0))).at(2.0, Swept(1, (7, 8)))
    assert story.text == said(
        "rank 0 (local 0), pid 100, does not end even on SIGKILL: left behind",
        "pids 7, 8 of round 1 do not end even on SIGKILL: left behind",
    )


def test_text_from_elsewhere_cannot_drive_the_terminal():
    bad = failure(host="h\x1b[2J2", error=WorkerError("Error", "a\x1b]0;title\x07\nsecond line"))
    story = Launcher(ONE).at(0.0, FailureSeen(bad))
    assert story.text == said("rank 3 (local 1) on h2, pid 4711: Error: a\\x1b]0;title\\x07 ... (SIGKILL)")


def test_everything_with_vv():
    story = Launcher(ONE.replace(verbosity=2)).at(3.0, Serving(1, 4000), Gather())
    assert story.lines[0] == said("0 s: Serving(round=1, port=4000) -> [Gather()]")
    assert story.lines[1] == said("worker store of round 1 listens on port 4000")


def test_json_lines_carry_the_same_facts():
    killed = failure()
    story = Launcher(TWO.replace(log_format="json", run_id="digits", max_restarts=1)).at(0.0, Joined())
    story.until(5.0)
    story.at(6.0, view(RUNNING, members=(A, B), master_addr="h1", master_port=9))
    story.at(7.0, view(DRAINING, 1, (A, B), failures=(killed,))).at(8.0, view(RUNNING, 2, (A, B), restarts=1))
    story.at(9.0, view(CLOSED, 2, (A, B)), Finish(Outcome("succeeded", 0, rounds=2, restarts=1)))
    told = [json.loads(line) for line in story.lines]
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in story.lines)
    assert [(m["event"], m["level"]) for m in told] == [
        ("waiting", "warning"),
        ("formed", "info"),
        ("failure", "error"),
        ("restart", "warning"),
        ("formed", "info"),
        ("finished", "info"),
    ]
    assert {(m["run_id"], m["node"], m["time"]) for m in told} == {("digits", A, "2023-11-14T22:13:20.000Z")}
    assert [m["monotonic"] for m in told] == [5.0, 6.0, 7.0, 8.0, 8.0, 9.0]
    waiting, formed, failed, restart, _again, finished = (m["fields"] for m in told)
    assert (waiting["here"], waiting["missing"], waiting["store"]) == ([A], 1, "h1:29400")
    assert (formed["round"], formed["nodes"], formed["world_size"]) == (1, [A, B], 4)
    assert formed["worker_store"] == "h1:9"
    assert (failed["rank"], failed["host"], failed["pid"], failed["status"]) == (3, "h2", 4711, 137)
    assert (restart["restart"], restart["max_restarts"], restart["place"]) == (1, 1, "rank 3 on h2")
    assert finished["outcome"]["restarts"] == 1
    assert finished["story"]["restarts"] == [
        {"number": 1, "seconds": 7.0, "place": "rank 3 on h2", "headline": "SIGKILL"}
    ]


def test_json_tells_formed_and_finished_even_of_one_node():
    story = Launcher(ONE.replace(log_format="json")).at(0.0, view(RUNNING)).at(1.0, view(CLOSED), Finish(SUCCEEDED))
    assert [json.loads(line)["event"] for line in story.lines] == ["formed", "finished"]


def test_json_of_a_timeout_says_what_was_waited_for():
    story = Launcher(TWO.replace(log_format="json")).at(0.0, StoreTried("h1:29400", "timed out", 4))
    story.messages(Decision(2.0, DeadlinePassed(), (Finish(Outcome("timeout", 75)),)))
    waiting = json.loads(story.lines[-1])["fields"]["waiting"]
    assert (waiting["store"], waiting["reason"], waiting["attempt"]) == ("h1:29400", "timed out", 4)


def samples():
    """One decision for every event and every order that there is."""
    worker, place = WorkerId(1, 0), spawned(0, 0, 1)[0][1].assignment
    known = {
        "PeerRefused": ("h2:2:bb", "--nnodes", "3:3", "2:2"),
        "Refused": ("run id", "a", "b"),
        "LeaderSeen": (None,),
        "ViewSeen": (None, 0),
        "PeerSeen": (NodeInfo(B, "h2", "10.0.0.2", 1), 1),
        "PeerLost": (B, True, ""),
        "FailureSeen": (failure(),),
        "StoreTried": ("", "", 1),
        "StoreLost": ("",),
        "StoreBack": (True, ""),
        "Serving": (1, 1),
        "Spawned": (worker, 1),
        "SpawnFailed": (worker, "no such file"),
        "Exited": (worker, Exit(1, None, 9)),
        "Swept": (1, (5,)),
        "Prepared": (1,),
        "SignalReceived": (15,),
        "Join": (NodeInfo(A, "h1", "", 1),),
        "Propose": (View(1, FORMING), 0),
        "Publish": (failure(),),
        "ServeWorkers": (1,),
        "Spawn": (worker, place),
        "Signal": (worker, 15),
        "DumpStacks": (worker,),
        "Sweep": (1, 2.0),
        "Prepare": (1,),
        "Abandon": (worker,),
        "Leave": ("",),
        "Finish": (Outcome("succeeded", 0),),
    }
    for module, base in ((events, events.Event), (orders, orders.Order)):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, base) and kind is not base:
                what = kind(*known.get(kind.__name__, ()))
                yield Decision(1.0, what) if base is events.Event else Decision(1.0, Started(), (what,))


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("decision", tuple(samples()), ids=lambda d: type((d.orders or (d.event,))[0]).__name__)
def test_any_decision_may_come_first(decision, log_format):
    story = Launcher(TWO.replace(verbosity=2, log_format=log_format))
    story.messages(decision)
    story.messages.tick(100.0)
    assert story.lines
    assert all(line.endswith("\n") for line in story.lines)
    assert "Messages of h1:17:aa" in repr(story.messages)


def test_a_worker_that_could_not_be_started_is_a_detail_here_and_a_failure_elsewhere():
    story = Launcher(ONE.replace(verbosity=1)).at(0.0, Started(), spawned(4, 0, 1)[0][1])
    story.at(0.1, SpawnFailed(WorkerId(1, 0), "no such file: 'trian.py'"))
    assert story.text == said("rank 4 (local 0) could not be started: no such file: 'trian.py'")
