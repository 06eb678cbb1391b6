"""Events: torch's JSON both ways, handlers by name and entry point, and what an agent's decisions become."""

import json
import logging

import pytest

from rallypoint.elastic import events
from rallypoint.elastic.events import Event, EventSource, NodeState, RdzvEvent
from rallypoint.elastic.events.handlers import _log_handlers
from rallypoint.model import event as facts
from rallypoint.model import order as orders
from rallypoint.model.node import FORMING, RUNNING, Assignment, View
from rallypoint.model.result import Exit, Failure, Outcome, WorkerError, WorkerId
from rallypoint.model.spec import Spec
from rallypoint.observe import handlers
from rallypoint.observe.torch_events import TorchEvents


class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def kept(monkeypatch):
    kept = Kept()
    monkeypatch.setitem(handlers.log_handlers, "kept", kept)
    monkeypatch.setattr(handlers, "_loggers", {})
    yield kept
    for name in ("kept", "dynamic_rendezvous"):
        logging.getLogger(f"torchelastic-events-{name}").handlers.clear()


EVENT = Event("epoch", EventSource.WORKER, 17, {"n": 1, "x": None})
RDZV = RdzvEvent("a", "job", "hello", "host", 7, NodeState.RUNNING, rank=2)


@pytest.mark.parametrize("event", [EVENT, RDZV])
def test_json_both_ways(event):
    assert type(event).deserialize(event.serialize()) == event
    assert type(event).deserialize(event) is event
    assert str(event) == event.serialize()


@pytest.mark.torch
def test_json_is_torchs():
    theirs = pytest.importorskip("torch.distributed.elastic.events")
    assert theirs.Event.deserialize(EVENT.serialize()).serialize() == EVENT.serialize()
    assert theirs.RdzvEvent.deserialize(RDZV.serialize()).serialize() == RDZV.serialize()
    assert Event.deserialize(theirs.Event("n", theirs.EventSource.AGENT).serialize()) == Event("n", EventSource.AGENT)
    assert str(EventSource.AGENT) == str(theirs.EventSource.AGENT)


@pytest.mark.parametrize("wrong", ["{}", "[]", '{"name": 1, "source": "X"}', "x"])
def test_nonsense_is_refused(wrong):
    with pytest.raises((TypeError, KeyError, ValueError)):
        Event.deserialize(wrong)


def test_events_go_to_their_handler_alone(kept, caplog):
    events.record(EVENT, "kept")
    events.record(EVENT)
    assert kept.lines == [EVENT.serialize()]
    assert not caplog.records


def test_rendezvous_events_name_their_caller(kept, monkeypatch):
    events.construct_and_record_rdzv_event("job", "nobody listens", NodeState.INIT)
    monkeypatch.setitem(_log_handlers, "dynamic_rendezvous", kept)
    try:
        raise OSError("gone")
    except OSError:
        events.construct_and_record_rdzv_event("job", "m", NodeState.FAILED, hostname="h", rank=1)
    events.construct_and_record_rdzv_event("job", "m", NodeState.RUNNING, name="mine", hostname="h", pid=3)
    first, second = map(RdzvEvent.deserialize, kept.lines)
    assert first.name == "test_elastic_events.py:test_rendezvous_events_name_their_caller"
    assert "OSError: gone" in first.error_trace and first.rank == 1
    assert (second.name, second.pid, second.error_trace) == ("test_elastic_events.py:mine", 3, "")


def test_an_unknown_handler_is_told_with_the_known_ones():
    with pytest.raises(KeyError, match="no event handler 'x'; there are console, dynamic_rendezvous, null"):
        events.get_logging_handler("x")


def test_handlers_come_from_entry_points(tmp_path, monkeypatch, kept):
    (tmp_path / "plugin.py").write_text("import logging\ndef made(): return logging.NullHandler()\nready = made()\n")
    info = tmp_path / "plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[torchrun.event_handlers]\nmade = plugin:made\nready = plugin:ready\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(handlers, "log_handlers", dict(handlers.log_handlers))
    for name in ("made", "ready"):
        assert isinstance(handlers.get_logging_handler(name), logging.NullHandler)
    with pytest.raises(KeyError, match="there are console, dynamic_rendezvous, kept, made, null, ready"):
        handlers.get_logging_handler("x")


SPEC = Spec(("python", "train.py"), {}, run_id="job", nproc=2, role="trainer", backend="tcp", endpoint="h:1")


def decide(observer, at, event, *given):
    observer(orders.Decision(at, event, given))


def spawn(rank, round=1):
    assignment = Assignment(rank, rank, 2, 2, 0, 1, "trainer", rank, 2, "h", 1, 0)
    return orders.Spawn(WorkerId(round, rank), assignment)


def told(kept):
    """(source, state, rank) of each event."""
    content = [json.loads(line) for line in kept.lines]
    return [(c["source"], c["metadata"]["state"], c["metadata"]["global_rank"]) for c in content]


def start(observer, round=1, at=5.0):
    view = View(round=round, phase=FORMING)
    decide(observer, at - 4, facts.ViewSeen(view, 1))
    decide(observer, at, facts.ViewSeen(view.replace(phase=RUNNING), 2), spawn(0, round), spawn(1, round))
    for rank in (0, 1):
        decide(observer, at, facts.Spawned(WorkerId(round, rank), 100 * round + rank))


def test_a_run_that_succeeds(kept):
    observer = TorchEvents(SPEC, "kept", wall=lambda: 1.5)
    start(observer)
    for rank in (0, 1):
        decide(observer, 9.0, facts.Exited(WorkerId(1, rank), Exit(100 + rank, 0)))
    decide(observer, 9.5, facts.Swept(1), orders.Finish(Outcome("succeeded", 0)))
    assert told(kept) == [
        ("AGENT", "RENDEZVOUS", None), ("WORKER", "START", 0), ("WORKER", "START", 1),
        ("WORKER", "SUCCEEDED", 0), ("WORKER", "SUCCEEDED", 1), ("AGENT", "SUCCEEDED", None),
    ]  # fmt: skip
    first, second, *_, last = (Event.deserialize(line) for line in kept.lines)
    assert first.metadata["duration_ms"] == 4000 and first.timestamp == 1500
    assert second.name == "torchelastic.worker.status.START"
    assert (second.metadata["worker_id"], second.metadata["rdzv_backend"]) == ("100", "c10d")
    details = json.loads(second.metadata["metadata"])
    assert details["local_rank"] == [0] and details["entry_point"] == "python" and details["group_world_size"] == 1
    assert last.metadata["total_run_time"] == 8


def test_a_run_that_fails_after_a_restart(kept):
    observer = TorchEvents(SPEC, "kept")
    start(observer)
    start(observer, round=2, at=20.0)
    error = WorkerError("ValueError", "bad", "trace", 12.0)
    decide(observer, 21.0, facts.Exited(WorkerId(2, 1), Exit(201, 1, error=error)))
    decide(observer, 21.0, facts.Exited(WorkerId(2, 0), Exit(200, None, 15)))
    culprit = Failure("worker", 2, "n", "h", "exit code 1", 1, rank=1, local_rank=1, pid=201)
    outcome = Outcome("failed", 1, "rank 1 failed", failures=(culprit,))
    decide(observer, 22.0, facts.Swept(2), orders.Finish(outcome))
    assert told(kept)[-3:] == [("WORKER", "TERMINATED", 0), ("WORKER", "FAILED", 1), ("AGENT", "FAILED", None)]
    failed = json.loads(kept.lines[-2])["metadata"]
    assert json.loads(failed["raw_error"])["message"]["message"] == "ValueError: bad"
    assert json.loads(failed["metadata"])["exit_code"] == [1]
    assert json.loads(kept.lines[-1])["metadata"]["raw_error"] == "rank 1 failed"


@pytest.mark.torch
def test_metadata_has_torchs_keys(kept):
    """torch's agent, asked for the same event."""
    api = pytest.importorskip("torch.distributed.elastic.agent.server.api")
    server = pytest.importorskip("torch.distributed.elastic.agent.server.local_elastic_agent")
    from unittest.mock import MagicMock

    worker_spec = api.WorkerSpec("trainer", 2, MagicMock(), entrypoint="python", args=())
    agent = server.LocalElasticAgent(worker_spec, MagicMock())
    agent._worker_group.spec.rdzv_handler.get_run_id.return_value = "job"
    agent._worker_group.spec.rdzv_handler.get_backend.return_value = "c10d"
    worker = api.Worker(0, 0, 0, 2, 2)
    theirs = agent._construct_event("START", api.EventSource.WORKER, worker)
    start(TorchEvents(SPEC, "kept"))
    ours = Event.deserialize(kept.lines[1])
    assert ours.name == theirs.name and list(ours.metadata) == list(theirs.metadata)
    assert set(json.loads(ours.metadata["metadata"])) == set(json.loads(theirs.metadata["metadata"]))
