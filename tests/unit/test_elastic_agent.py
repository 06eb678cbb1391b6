"""The words of the agent: specs, workers, states, outcomes."""

import json
import signal

import pytest

from rallypoint.elastic.agent.server import RunResult, Worker, WorkerGroup, WorkerSpec, WorkerState
from rallypoint.elastic.agent.server.health_check_server import create_healthcheck_server
from rallypoint.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from rallypoint.elastic.agent.server.outcome import error_of, failures_of
from rallypoint.elastic.agent.server.watch import GroupWatch
from rallypoint.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from rallypoint.elastic.rendezvous import RendezvousConnectionError, RendezvousError, RendezvousTimeoutError
from rallypoint.model import event as events
from rallypoint.model import node
from rallypoint.model import order as orders
from rallypoint.model.node import Assignment, View
from rallypoint.model.result import Failure, Outcome, WorkerError, WorkerId


def job():
    return 1


def test_a_spec_names_its_entrypoint():
    assert WorkerSpec("r", 1, None, entrypoint=job).get_entrypoint_name() == "job"
    assert WorkerSpec("r", 1, None, entrypoint="/bin/true").get_entrypoint_name() == "true"
    with pytest.warns(DeprecationWarning, match="say entrypoint"):
        assert WorkerSpec("r", 1, None, fn=job).entrypoint is job


@pytest.mark.parametrize("wrong", [{"local_world_size": 0}, {"monitor_interval": 0}, {"entrypoint": None}])
def test_an_impossible_spec_is_refused(wrong):
    with pytest.raises(AssertionError, match=r"\w"):
        WorkerSpec(**{"role": "r", "local_world_size": 1, "rdzv_handler": None, "entrypoint": job} | wrong)


def test_states_and_workers_print_as_torchs():
    assert (str(WorkerState.HEALTHY), WorkerState("FAILED")) == ("WorkerState.HEALTHY", WorkerState.FAILED)
    assert [s for s in WorkerState if WorkerState.is_running(s)] == [WorkerState.HEALTHY, WorkerState.UNHEALTHY]
    assert str(Worker(1)) == "local_rank=1,global_rank=-1,role_rank=-1,world_size=-1,role_world_size=-1"
    assert RunResult(WorkerState.FAILED).is_failed()


def test_the_group_follows_the_run():
    group = WorkerGroup(WorkerSpec("r", 1, None, entrypoint=job))
    watch = GroupWatch(group)
    told = Assignment(3, 0, 4, 1, 1, 2, "r", 3, 4, "host", 99, 0)
    first = WorkerId(1, 0)
    watch(orders.Decision(0.0, events.Gathered(), (orders.Spawn(first, told),)))
    assert (group.state, group.group_rank, group.group_world_size) == (WorkerState.INIT, 1, 2)
    watch(orders.Decision(0.0, events.Spawned(first, 77)))
    assert (group.state, group.workers[0].id, group.workers[0].global_rank) == (WorkerState.HEALTHY, 77, 3)
    watch(orders.Decision(0.0, events.ViewSeen(View(1, node.DRAINING), 2)))
    assert group.state is WorkerState.UNHEALTHY
    watch(orders.Decision(0.0, events.Swept(1)))
    assert group.state is WorkerState.STOPPED
    assert (group.master_addr, group.master_port) == ("host", 99)


def failure(**changes):
    base = {"kind": "worker", "round": 1, "node": "n", "host": "h", "words": "exit code 3", "status": 3, "rank": 5}
    return Failure(**base | {"local_rank": 1, "pid": 12} | changes)


def test_failures_are_told_by_rank_the_cause_first(tmp_path):
    file = tmp_path / "error.json"
    said = {"message": {"message": "ValueError: x", "extraInfo": {"py_callstack": "trace", "timestamp": "123"}}}
    file.write_text(json.dumps(said))
    away = WorkerError("KeyError", "'k'", "far trace", 55.5)
    made = failures_of(
        Outcome(
            status="failed",
            exit_code=3,
            failures=(
                failure(rank=2, error=WorkerError("ValueError", "x"), error_file=str(file)),
                failure(rank=0, signal=signal.SIGKILL, words="SIGKILL", status=137),
                failure(rank=4, error=away, error_file="/on/another/node.json"),
                failure(),
            ),
        )
    )
    assert list(made) == [2, 0, 4, 5]
    assert (made[2].error_file_data, made[2].exitcode, made[2].timestamp) == (said, 3, 123)
    assert (made[0].exitcode, made[0].signal_name()) == (-9, "SIGKILL")
    assert made[4].message["extraInfo"]["py_callstack"] == "far trace"
    assert (made[4].timestamp, made[4].error_file_data["message"]["message"]) == (55, "KeyError: 'k'")
    assert (made[5].local_rank, made[5].pid, made[5].message) == (1, 12, "exit code 3")


@pytest.mark.parametrize(
    ("status", "kind"),
    [("timeout", RendezvousTimeoutError), ("refused", RendezvousConnectionError), ("error", RendezvousError)],
)
def test_other_ends_are_rendezvous_errors(status, kind):
    error = error_of(Outcome(status=status, exit_code=70, reason="that is why"))
    assert type(error) is kind
    assert str(error) == "that is why"


def test_a_signal_is_a_signal_exception():
    error = error_of(Outcome(status="stopped", exit_code=130, signal=2))
    assert isinstance(error, SignalException)
    assert error.sigval is signal.SIGINT


def test_an_agent_shows_its_group_before_it_runs():
    agent = LocalElasticAgent(WorkerSpec("r", 2, None, entrypoint=job), DefaultLogsSpecs("/dev/null"))
    assert agent.get_worker_group().state is WorkerState.INIT
    assert [w.local_rank for w in agent.get_worker_group().workers] == [0, 1]
    assert "not over" in repr(agent)


def test_a_health_check_server_is_a_hook():
    server = create_healthcheck_server(lambda: 5, 1, 60)
    server.start()
    server.stop()
    assert server.alive_callback() == 5
    assert "port 1" in repr(server)
