import pytest
from corekit import Exit, WorkerError, WorkerId, ended, failure, info, place

from rallypoint.core import policy
from rallypoint.core.worker import Worker


def gone(how, stopped=False):
    it = Worker(WorkerId(2, 1), place(1, 2))
    it.spawned(11)
    if stopped:
        it.stop(15)
    it.exited(how)
    return it


def judge(how, stopped=False):
    return policy.worker_failure(gone(how, stopped), info(), 0)


def raised(type_, message=""):
    return Exit(11, 1, error=WorkerError(type_, message))


@pytest.mark.parametrize(
    ("how", "stopped", "expected"),
    [
        (ended(0), False, None),
        (ended(0), True, None),
        (ended(3), False, "cause"),
        (ended(signal=9), False, "cause"),
        (ended(signal=15), True, None),  # dies of our signal
        (ended(3), True, None),
        (raised("ValueError", "bad"), False, "cause"),
        (raised("ValueError", "bad"), True, "cause"),  # its own exception, although we stopped it
        (raised("SignalException", "got 15"), True, "consequence"),
        (raised("torch.distributed.elastic.multiprocessing.api.SignalException"), True, "consequence"),
        (raised("KeyboardInterrupt"), True, "consequence"),
        (raised("KeyboardInterrupt"), False, "cause"),
        (raised("RuntimeError", "[gloo] Connection closed by peer [10.0.0.2]:4711"), False, "consequence"),
        (raised("torch.distributed.DistNetworkError", "failed"), False, "consequence"),
        (
            ended(signal=6, last_lines=("NCCL: remote process exited or there was a network error",)),
            False,
            "consequence",
        ),
        (
            ended(signal=11, last_lines=("Connection reset by peer",)),
            False,
            "cause",
        ),  # a crash is nobody's fault but its own
        (ended(1, last_lines=("Connection reset by peer", *["later"] * 8)), False, "cause"),
    ],
)
def test_whose_fault(how, stopped, expected):
    told = judge(how, stopped)
    assert (told and ("consequence" if told.consequence else "cause")) == expected


def test_a_failure_carries_the_evidence():
    error = WorkerError("ValueError", "bad", "Traceback ...")
    told = judge(Exit(11, 3, error=error, last_lines=("x",), error_file="/tmp/e.json"))
    assert (told.round, told.node, told.host, told.rank, told.local_rank, told.pid) == (2, "a", "host-a", 1, 1, 11)
    assert (told.words, told.status, told.error, told.last_lines, told.error_file) == (
        "exit code 3",
        3,
        error,
        ("x",),
        "/tmp/e.json",
    )
    assert judge(ended(signal=11)).status == 139


def test_causes_before_consequences_in_the_stores_order():
    first, second = failure(order=0, consequence=True), failure(order=1)
    third, fourth = failure(order=2), failure(order=3, consequence=True)
    assert policy.sorted_by_cause([fourth, third, second, first]) == (second, third, first, fourth)
    assert policy.sorted_by_cause([fourth, first])[0] == first


def test_what_a_restart_costs():
    cause, consequence = failure(), failure(consequence=True)
    assert policy.costs_restart([cause], node_lost=False)
    assert policy.costs_restart([cause], node_lost=True)
    assert policy.costs_restart([consequence], node_lost=False)
    assert not policy.costs_restart([consequence], node_lost=True)
    assert not policy.costs_restart([], node_lost=True)
