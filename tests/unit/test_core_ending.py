from corekit import e, failure, node, view

from rallypoint.core import ending
from rallypoint.model.result import Outcome


def test_success():
    over = view(2, node.CLOSED, reason="all workers succeeded", restarts=1)
    assert ending.outcome_of_view(over) == Outcome("succeeded", 0, "all workers succeeded", rounds=2, restarts=1)


def test_the_culprits_status_is_everybodys():
    told = (failure(status=139), failure(status=1))
    over = view(1, node.CLOSED, failures=told, reason="why")
    assert ending.outcome_of_view(over) == Outcome("failed", 139, "why", told, rounds=1)


def test_a_failure_never_ends_with_0():
    assert ending.outcome_of_view(view(1, node.CLOSED, failures=(failure(status=0),))).exit_code == 70


def test_the_other_ends():
    running = view(1, failures=(failure(),))
    assert ending.stopped(15, running) == Outcome("stopped", 143, "stopped by SIGTERM", signal=15, rounds=1)
    assert ending.timed_out(600.0, running).exit_code == 75
    assert ending.timed_out(600.0, running).failures == ()
    assert ending.store_gone(view()).exit_code == 0
    refused = ending.refused(e.Refused("--nnodes", "1", "2"))
    assert (refused.status, refused.exit_code) == ("refused", 77)
    assert refused.reason == "refused: --nnodes is '1' here, '2' in the run"
