"""What follows from a failed round, rule by rule."""

import pytest
from corekit import WorkerError, failure, spec, view

from rallypoint.core import budget, policy
from rallypoint.model.node import History
from rallypoint.model.spec import ExitRule, Membership, RestartPolicy


def judge(*failures, restarts=0, lost=False, lasted=100.0, ages=(), history=None, aside=(), budget_=3, **config):
    seen = view(restarts=restarts, history=history or History(), aside=aside)
    sorted_ = policy.sorted_by_cause(failures)
    return budget.judge(spec(max_restarts=budget_, **config), seen, sorted_, lost, lasted, list(ages))


def rules(text):
    return RestartPolicy(rules=tuple(ExitRule(*part.split("=")) for part in text.split(",")))


def test_the_plain_budget():
    assert judge(failure(), budget_=0) == budget.Judgement(final=True)
    assert (judge(failure(), restarts=2).final, judge(failure(), restarts=2).cost) == (False, 1)
    assert judge(failure(), restarts=3).final


def test_what_follows_from_a_lost_node_costs_nothing():
    told = judge(failure(consequence=True), lost=True, budget_=0, aside=("x",), history=History(streak=2, delay=4.0))
    assert (told.final, told.cost, told.aside) == (False, 0, ("x",))
    assert (told.history.streak, told.history.delay) == (2, 0.0)
    assert judge(lost=True, budget_=0).cost == 0


def test_a_worker_that_cannot_be_started_ends_it():
    assert judge(failure(kind="spawn", status=127)).final
    assert judge(failure(kind="spawn", status=127), restart=rules("127=restart")).final


@pytest.mark.parametrize(
    ("rule", "how", "fits"),
    [
        ("3=fail", {}, True),
        ("4=fail", {}, False),
        ("SIGKILL=fail", {"signal": 9, "status": 137}, True),
        ("137=fail", {"signal": 9, "status": 137}, False),
        ("ValueError=fail", {"error": WorkerError("ValueError", "x")}, True),
        ("OutOfMemoryError=fail", {"error": WorkerError("torch.OutOfMemoryError", "x")}, True),
        ("torch.OutOfMemoryError=fail", {"error": WorkerError("torch.OutOfMemoryError", "x")}, True),
        ("MemoryError=fail", {"error": WorkerError("torch.OutOfMemoryError", "x")}, False),
        ("3=restart,ValueError=fail", {"error": WorkerError("ValueError", "x")}, False),
    ],
)
def test_the_first_rule_that_fits_the_cause(rule, how, fits):
    told = judge(failure(**how), failure(name="b", order=1, status=99), restart=rules(rule))
    assert told.final == fits
    assert (f"--on-exit {rule}" == told.why) == fits


def test_a_node_may_be_replaced_at_no_cost():
    told = judge(failure(name="b", status=17), budget_=0, aside=("x",), restart=rules("17=replace-node"))
    assert (told.final, told.cost, told.aside) == (False, 0, ("x", "b"))
    assert told.why == "--on-exit 17=replace-node"


def test_a_node_that_is_the_cause_too_often_is_put_aside():
    config = {"membership": Membership(max_node_failures=2), "budget_": 9}
    first = judge(failure(name="b"), failure(name="c", order=1), **config)
    assert (first.aside, first.history.blame) == ((), ("b",))
    again = judge(failure(name="b"), history=first.history, **config)
    assert (again.aside, again.cost) == (("b",), 1)
    assert "2 failures" in again.why
    assert judge(failure(name="c"), history=first.history, **config).aside == ()


def test_a_window_forgets():
    config = {"budget_": 2, "restart": RestartPolicy(window=60.0), "restarts": 50}
    assert not judge(failure(), ages=[100.0, 61.0, 59.0], **config).final
    told = judge(failure(), ages=[100.0, 59.0, 1.0], **config)
    assert told.final and "2 restarts within 60 s" in told.why


def test_the_same_failure_at_the_same_point_three_times_is_the_end():
    history, ends = History(), []
    for point in (5, 5, 6, 6, 6):
        told = judge(failure(progress=point), history=history, budget_=99)
        history = told.history
        ends.append(told.final)
    assert ends == [False, False, False, False, True]
    assert "the same failure 3 times" in told.why


def test_of_workers_that_do_not_tell_nothing_is_known():
    history = History()
    for _ in range(9):
        told = judge(failure(progress=-1), history=history, budget_=99)
        assert not told.final
        history = told.history


def test_delays_grow_and_a_healthy_round_ends_them():
    restart, history, delays = RestartPolicy(delay=1.0, max_delay=6.0), History(), []
    for lasted in (0.5, 0.5, 9.0, 0.5, 0.5, 13.0, 0.5):
        history = judge(failure(), lasted=lasted, history=history, budget_=99, restart=restart).history
        delays.append(history.delay)
    assert delays == [1.0, 2.0, 4.0, 6.0, 6.0, 1.0, 2.0]
    assert judge(failure(), lasted=0.1).history.delay == 0.0
