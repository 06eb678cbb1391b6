"""What is said of a planned stop, a delay, and a node put aside: each once."""

from test_observe_messages import A, B, Launcher, said, view

from rallypoint.model.event import SignalReceived
from rallypoint.model.node import FORMING, RUNNING, History
from rallypoint.model.spec import Membership, RestartPolicy, Spec

SPEC = Spec(("t",), {}, min_nodes=1, max_nodes=2, nproc=2, backend="tcp", endpoint="h1:29400")


def launcher(**config):
    it = Launcher(SPEC.replace(**config))
    it.at(0.0, view(RUNNING, members=(A,)))
    it.lines.clear()
    return it


def test_a_planned_stop_is_said_once():
    it = launcher(membership=Membership(notice_signal=10, notice_grace=7.0))
    for at in (1.0, 2.0):
        it.at(at, view(RUNNING, members=(A,), pending="node x joins"))
    assert it.text == said("round 1 is to end: node x joins; the workers have 7 s to prepare")


def test_a_planned_stop_may_wait_for_safe_points():
    it = launcher(membership=Membership(admit="when-ready"))
    it.at(1.0, view(RUNNING, members=(A,), pending="node x joins"))
    assert it.text.endswith("the workers are waited for until they have passed a safe point\n")


def test_a_delay_and_a_node_put_aside():
    it = launcher(restart=RestartPolicy(delay=4.0))
    more = {"members": (A, B), "reason": "rank 1: exit code 3; why", "aside": (B,), "history": History(delay=4.0)}
    it.at(1.0, view(FORMING, **more)).at(1.5, view(FORMING, **more))
    lines = it.text.splitlines()
    assert lines[-2:] == [
        f"rallyrun: node {B} is put aside: rank 1: exit code 3; why",
        "rallyrun: the next start is in 4 s (--restart-delay)",
    ]


def test_a_notice_of_preemption():
    it = launcher(membership=Membership(leave_signals=(12,)))
    it.at(1.0, SignalReceived(12))
    assert it.text == said("SIGUSR2: this node leaves the run")
