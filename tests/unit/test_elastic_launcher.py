"""``LaunchConfig`` and what becomes of it: the Spec, and every refusal before anything is started."""

import os
import subprocess
import sys
import threading

import pytest

from rallypoint.elastic.agent.server.translate import refusals, spec_of
from rallypoint.elastic.launcher import api
from rallypoint.elastic.launcher.api import LaunchConfig, elastic_launch, launch_agent
from rallypoint.elastic.multiprocessing import DefaultLogsSpecs, Std
from rallypoint.elastic.numa import AffinityMode, NumaOptions


def config(**changes):
    return LaunchConfig(**{"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 2, "run_id": "r"} | changes)


def spec(entrypoint="true", args=(), **changes):
    told = config(**changes)
    workers = api._worker_spec(told, entrypoint, list(args))
    return spec_of(
        workers,
        told.logs_specs,
        start_method=told.start_method,
        template=told.log_line_prefix_template,
        shutdown_timeout=told.shutdown_timeout,
        stuck_timeout=None,
    )


def job(*_args):
    return os.getpid()


def test_defaults_are_filled_in(monkeypatch):
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    told = config()
    assert told.rdzv_configs == {"timeout": 900}
    assert isinstance(told.logs_specs, DefaultLogsSpecs)
    assert told.shutdown_timeout == 30
    assert config(rdzv_timeout=5).rdzv_configs == {"timeout": 5}
    assert config(rdzv_configs={"timeout": 7}).rdzv_configs == {"timeout": 7}
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "3")
    assert config().shutdown_timeout == 3
    with pytest.raises(ValueError, match="shutdown_timeout is -1"):
        config(shutdown_timeout=-1)


def test_a_command_becomes_argv():
    made = spec("sh", ["-c", "echo ${local_rank}", 3])
    assert made.argv == ("sh", "-c", "echo ${local_rank}", "3")
    assert (made.call, made.hook, made.nproc, made.max_restarts, made.backend) == (None, False, 2, 3, "memory")
    assert spec(sys.executable, ["x.py"]).hook


def test_a_function_becomes_a_call_with_the_local_rank_put_in():
    made = spec(job, ["${local_rank}", 5])
    assert made.call.function is job
    assert made.call.args == {0: ("0", 5), 1: ("1", 5)}
    shared = spec(job, [5]).call.args
    assert shared[0] is shared[1], "pickled once"


def test_every_field_arrives(tmp_path):
    made = spec(
        role="trainer",
        max_restarts=1,
        local_addr="127.0.0.9",
        signals_to_handle="SIGTERM",
        virtual_local_rank=True,
        numa_options=NumaOptions(AffinityMode.SOCKET),
        shutdown_timeout=4,
        duplicate_stdout_filters=["a"],
        duplicate_stderr_filters=["b"],
        log_line_prefix_template="<${rank}>",
        logs_specs=DefaultLogsSpecs(str(tmp_path), Std.OUT, {1: Std.ALL}, {0, 1}),
        rdzv_endpoint="localhost:1234",
        rdzv_configs={"join_timeout": 9},
        max_nodes=3,
    )
    logs = made.logs
    assert (made.role, made.max_restarts, made.local_addr, made.virtual_local_rank) == ("trainer", 1, "127.0.0.9", True)
    assert (made.numa, made.timing.shutdown_timeout, made.timing.join_timeout) == ("socket", 4.0, 9.0)
    assert (logs.directory, logs.redirects, logs.tee, logs.shown) == (str(tmp_path), {-1: 1}, {1: 3}, (0, 1))
    assert (logs.stdout_filters, logs.stderr_filters, logs.template) == (("a",), ("b",), "<${rank}>")
    assert (made.backend, made.endpoint, made.min_nodes, made.max_nodes) == ("tcp", "localhost:1234", 1, 3)
    assert made.omp == "", "torch's API leaves OMP_NUM_THREADS alone"


@pytest.fixture
def nothing_starts(monkeypatch):
    from rallypoint.proc.processes import Processes

    def refuse(*_args, **_kwargs):
        raise AssertionError("something was started")

    monkeypatch.setattr(Processes, "spawn", refuse)


BAD = [
    (None, {}, AssertionError, "entrypoint is missing"),
    ("", {}, AssertionError, "entrypoint is missing"),
    ("true", {"nproc_per_node": 0}, AssertionError, "at least one worker"),
    ("true", {"monitor_interval": 0}, AssertionError, "monitor_interval"),
    ("true", {"max_restarts": -1}, ValueError, "max_restarts is -1"),
    ("true", {"min_nodes": 0}, ValueError, "min_nodes is 0"),
    ("true", {"min_nodes": 2}, ValueError, "max_nodes is 1"),
    ("true", {"rdzv_backend": ""}, ValueError, "backend is empty"),
    ("true", {"rdzv_backend": "zeus"}, ValueError, "known are c10d"),
    ("true", {"rdzv_backend": "static", "rdzv_configs": {"rank": 0}}, ValueError, "rdzv_endpoint is empty"),
    (
        "true",
        {"rdzv_backend": "static", "rdzv_endpoint": "h", "rdzv_configs": {"rank": 0}},
        ValueError,
        "has no port: .*h:29500",
    ),
    ("true", {"rdzv_endpoint": "h:x"}, ValueError, "port"),
    ("true", {"signals_to_handle": "SIGNOPE"}, ValueError, "SIGNOPE"),
    ("true", {"rdzv_configs": {"join_timeout": -3}}, ValueError, "join_timeout"),
    ("no-such-command-here", {}, FileNotFoundError, "in no directory of PATH"),
    ("/no/such/command", {}, FileNotFoundError, "no such command"),
    ("/etc/passwd", {}, PermissionError, "not executable"),
    (job, {"start_method": "teleport"}, ValueError, "spawn, fork, forkserver"),
    ("true", {"event_log_handler": "nobody"}, Exception, "nobody"),
]


@pytest.mark.parametrize(("entrypoint", "changes", "error", "words"), BAD)
def test_bad_input_is_refused_and_starts_nothing(nothing_starts, entrypoint, changes, error, words):
    with pytest.raises(error, match=words):
        launch_agent(config(**changes), entrypoint, [])


def test_what_cannot_be_pickled_raises_the_picklers_error(nothing_starts):
    with pytest.raises(TypeError, match=r"cannot pickle '_thread\.lock'") as caught:
        elastic_launch(config(), job)(threading.Lock())
    assert "picklable" in caught.value.__notes__[0]


def test_refusals_turn_into_value_errors():
    from rallypoint.model.errors import UsageError

    with pytest.raises(ValueError, match="x: 1 is not usable: y"), refusals():
        raise UsageError("x", 1, "y")


def test_the_job_is_named_as_torch_names_it():
    assert api._name(job, []) == "job"
    assert api._name(sys.executable, ["-u", "train.py"]) == "train.py"
    assert api._name("/bin/sh", ["x"]) == "/bin/sh"
    assert "job" in repr(elastic_launch(config(), job))


def test_importing_it_is_cheap_and_free_of_torch():
    code = (
        "import sys; import rallypoint.elastic.launcher.api; "
        "print([m for m in ('torch', 'numpy', 'multiprocessing', 'asyncio', 'importlib.metadata') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
