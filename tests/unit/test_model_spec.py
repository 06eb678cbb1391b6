import pytest
from corekit import Spec, Timing

from rallypoint.model import errors, exits

GOOD = {"argv": ("train",), "environ": {}}
TCP = {"backend": "tcp", "endpoint": "h:1"}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"nproc": 8, "max_restarts": 3},
        {**TCP, "min_nodes": 2, "max_nodes": 4},
        {**TCP, "backend": "static", "min_nodes": 2, "max_nodes": 2, "node_rank": 1},
        {"timing": Timing(last_call_timeout=0.0, shutdown_timeout=0.0)},
        {"timing": Timing(success_timeout=5.0)},
    ],
)
def test_what_works(more):
    spec = Spec(**(GOOD | more))
    assert spec.validate() is spec


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"nproc": 0}, "--nproc-per-node"),
        ({**TCP, "min_nodes": 0}, "--nnodes"),
        ({**TCP, "min_nodes": 3, "max_nodes": 2}, "--nnodes"),
        ({"max_restarts": -1}, "--max-restarts"),
        ({"run_id": ""}, "--rdzv-id"),
        ({"argv": ()}, "training_script"),
        ({"backend": "static", "min_nodes": 1, "max_nodes": 2, "node_rank": 0}, "--nnodes"),
        ({"backend": "static", "min_nodes": 2, "max_nodes": 2, "node_rank": -1}, "--node-rank"),
        ({"backend": "static", "min_nodes": 2, "max_nodes": 2, "node_rank": 2}, "--node-rank"),
        ({"backend": "memory", "min_nodes": 1, "max_nodes": 2}, "--nnodes"),
        ({"timing": Timing(join_timeout=0.0)}, "join_timeout"),
        ({"timing": Timing(success_timeout=0.0)}, "success_timeout"),
        ({"timing": Timing(shutdown_timeout=-1.0)}, "shutdown_timeout"),
        ({"timing": Timing(last_call_timeout=-1.0)}, "last_call_timeout"),
        ({"timing": Timing(keep_alive_max_attempt=0)}, "keep_alive_max_attempt"),
    ],
)
def test_what_cannot_work_is_named(more, where):
    with pytest.raises(errors.UsageError) as told:
        Spec(**(GOOD | more)).validate()
    assert told.value.where == where and told.value.exit_code == exits.USAGE
    assert str(told.value).startswith(f"{where}: ") and "is not usable: " in str(told.value)


def test_a_lease_is_as_long_as_all_keep_alives():
    assert Timing().lease == 15.0


def test_errors_say_whose_fault_it_is_and_carry_the_facts():
    refused = errors.RefusedError("h:1", "--nnodes", "1", "2")
    assert str(refused) == "refused by the run at h:1: --nnodes is '1' here, '2' there"
    assert (refused.exit_code, refused.mine, refused.theirs) == (77, "1", "2")
    store = errors.StoreError("h:1", "connection refused")
    assert str(store) == "store at h:1: connection refused" and store.exit_code == 75
    illegal = errors.IllegalTransitionError("worker 0", "GONE", "spawned")
    assert str(illegal) == "worker 0 in state GONE: 'spawned' is not possible here" and illegal.exit_code == 70
    assert issubclass(errors.ProtocolError, errors.RallypointError)
