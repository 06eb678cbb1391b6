"""``rallypoint.launch`` and ``elastic_launch`` with real workers: results, exceptions, signals, threads, notebooks."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

import rallypoint
from lab import FACTOR, Launch, free_port
from rallypoint.api import _said
from rallypoint.elastic.agent.server import WorkerSpec, WorkerState
from rallypoint.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from rallypoint.elastic.launcher.api import LaunchConfig, elastic_launch
from rallypoint.elastic.multiprocessing import DefaultLogsSpecs, Std
from rallypoint.elastic.multiprocessing.errors import ChildFailedError
from rallypoint.elastic.rendezvous import RendezvousParameters
from rallypoint.elastic.rendezvous.registry import get_rendezvous_handler


def ranks(*args, **kwargs):
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), args, kwargs


class OwnError(Exception):
    def __init__(self, number, text):
        super().__init__(number, text)
        self.number = number


def fails(rank="1"):
    if os.environ["RANK"] == rank:
        raise OwnError(7, "own words")
    signal.pause()


def killed():
    if os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def counts():
    count = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if count < 2:
        raise ValueError(count)
    return count


def variable(name):
    return os.environ.get(name)


def speak():
    print("hello from", os.environ["RANK"])


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_results_come_back_by_rank(method):
    assert rallypoint.launch(ranks, args=(1, "b"), kwargs={"c": 2}, nproc=2, start_method=method) == [
        (0, 2, (1, "b"), {"c": 2}),
        (1, 2, (1, "b"), {"c": 2}),
    ]


def test_lambdas_and_closures_work():
    pytest.importorskip("cloudpickle")
    number = 5
    assert rallypoint.launch(lambda x: x + number, args=(1,), nproc=2) == [6, 6]


def test_a_workers_exception_is_raised_with_its_traceback_as_the_cause():
    with pytest.raises(OwnError) as caught:
        rallypoint.launch(fails, nproc=2)
    assert (caught.value.number, caught.value.args) == (7, (7, "own words"))
    assert "in fails" in str(caught.value.__cause__)


def test_a_killed_worker_is_told_in_words():
    with pytest.raises(rallypoint.WorkerFailedError, match=r"rank 0 .*SIGKILL") as caught:
        rallypoint.launch(killed, nproc=2)
    assert caught.value.failures[0].signal == signal.SIGKILL


def test_restarts_are_tried():
    assert rallypoint.launch(counts, max_restarts=2) == [2]


def test_the_environment_is_added_to_and_ours_is_left_alone(tmp_path, monkeypatch):
    before = dict(os.environ)
    assert rallypoint.launch(variable, args=("SPECIAL",), env={"SPECIAL": "x"}) == ["x"]
    assert dict(os.environ) == before
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert rallypoint.launch(variable, args=("OMP_NUM_THREADS",), nproc=2) == [None, None]


def test_output_goes_to_files(tmp_path):
    rallypoint.launch(speak, nproc=2, log_dir=str(tmp_path), tee=False)
    said = sorted(path.read_text() for path in tmp_path.glob("*/attempt_0/*/stdout.log"))
    assert said == ["hello from 0\n", "hello from 1\n"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nproc": 0}, "--nproc-per-node"),
        ({"nnodes": 2}, "endpoint"),
        ({"nnodes": (3, 2), "endpoint": "h:1"}, "--nnodes"),
        ({"max_restarts": -1}, "--max-restarts"),
        ({"join_timeout": 0}, "join_timeout"),
        ({"start_method": "beam"}, "start_method"),
        ({"args": (threading.Lock(),)}, "picklable"),
    ],
)
def test_what_cannot_be_started_is_refused(changes, words):
    from rallypoint.model.errors import UsageError

    with pytest.raises(UsageError, match=words):
        rallypoint.launch(ranks, **changes)


def test_too_few_nodes_are_a_launch_error():
    with pytest.raises(rallypoint.LaunchError, match="not enough nodes"):
        rallypoint.launch(ranks, nnodes=2, endpoint=f"127.0.0.1:{free_port()}", join_timeout=0.3)


def in_thread(call):
    box = []
    thread = threading.Thread(target=lambda: box.append(call()))
    thread.start()
    thread.join(30 * FACTOR)
    return box[0]


def test_it_works_in_threads_and_says_once_that_signals_are_not_handled(capfd):
    _said.clear()
    assert [in_thread(lambda: rallypoint.launch(ranks)[0][0]) for _ in range(2)] == [0, 0]
    assert capfd.readouterr().err.count("not in the main thread") == 1


def test_two_nodes_meet():
    port = free_port()
    box = {}

    def node(number):
        box[number] = rallypoint.launch(ranks, nproc=1, nnodes=2, endpoint=f"127.0.0.1:{port}", run_id="two")

    threads = [threading.Thread(target=node, args=(n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30 * FACTOR)
    assert sorted(value[0][:2] for value in box.values()) == [(0, 2), (1, 2)]


def run(code, *, stdin=None):
    done = subprocess.run([sys.executable, *code], capture_output=True, text=True, timeout=60 * FACTOR, input=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_works_from_a_command_line_and_from_standard_input():
    pytest.importorskip("cloudpickle")
    code = "import rallypoint\ndef f(): return 3\nprint(rallypoint.launch(f, nproc=2))"
    assert run(["-c", code]) == "[3, 3]"
    assert run(["-"], stdin=code) == "[3, 3]"


def test_it_works_in_a_running_event_loop():
    pytest.importorskip("cloudpickle")
    code = (
        "import asyncio, rallypoint, signal\n"
        "async def cell():\n"
        "    found = rallypoint.launch(lambda: 4, nproc=2)\n"
        "    await asyncio.sleep(0.01)\n"
        "    return found, signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "print(asyncio.run(cell()))"
    )
    assert run(["-c", code]).startswith("([4, 4], ")


def test_the_module_of_the_same_name_is_callable_too():
    code = "import rallypoint, rallypoint.launch\nimport os\nprint(rallypoint.launch(os.getpid, nproc=2) != [])"
    assert run(["-c", code]) == "True"


@pytest.mark.parametrize(
    ("how", "number", "caught"),
    [
        ("rallypoint.launch(signal.pause, nproc=2)", signal.SIGINT, "KeyboardInterrupt()"),
        ("rallypoint.launch(signal.pause, nproc=2)", signal.SIGTERM, "StoppedError(...) 15"),
        ("elastic_launch(LaunchConfig(1, 1, 2), signal.pause)()", signal.SIGTERM, "SignalException 15"),
    ],
)
def test_a_signal_stops_all_and_is_raised(tmp_path, how, number, caught):
    script = tmp_path / "main.py"
    script.write_text(
        "import os, signal, rallypoint\n"
        "from rallypoint.elastic.launcher.api import LaunchConfig, elastic_launch\n"
        "from rallypoint.elastic.multiprocessing import SignalException\n"
        "def pause():\n"
        "    print('up', flush=True)\n"
        "    signal.pause()\n"
        "if __name__ == '__main__':\n"
        f"    try: {how.replace('signal.pause', 'pause')}\n"
        "    except KeyboardInterrupt: print('KeyboardInterrupt()')\n"
        "    except rallypoint.StoppedError as e: print('StoppedError(...)', e.signal)\n"
        "    except SignalException as e: print('SignalException', int(e.sigval))\n"
    )
    with Launch(command=[sys.executable, str(script)]) as launch:
        launch.until("up", count=2)
        launch.signal(number)
        assert launch.end() == 0, launch.text
        assert caught in launch.lines
        assert not launch.workers()


def test_elastic_launch_returns_by_global_rank(tmp_path):
    config = LaunchConfig(1, 1, 2, logs_specs=DefaultLogsSpecs(str(tmp_path), redirects=Std.ALL))
    assert elastic_launch(config, ranks)("${local_rank}", 1) == {
        0: (0, 2, ("0", 1), {}),
        1: (1, 2, ("1", 1), {}),
    }
    assert elastic_launch(config, "sh")("-c", "echo $RANK of $WORLD_SIZE") == {0: None, 1: None}
    said = sorted(path.read_text() for path in tmp_path.glob("*/attempt_0/*/stdout.log"))
    assert said == ["", "", "0 of 2\n", "1 of 2\n"]


def test_failures_are_raised_by_rank():
    with pytest.raises(ChildFailedError) as caught:
        elastic_launch(LaunchConfig(1, 1, 2, max_restarts=0), fails)()
    failure = caught.value.failures[1]
    assert (failure.local_rank, failure.exitcode) == (1, 1)
    assert failure.error_file_data["message"]["message"] == "OwnError: (7, 'own words')"
    with pytest.raises(ChildFailedError) as caught:
        elastic_launch(LaunchConfig(1, 1, 1, max_restarts=0), "sh")("-c", "exit 9")
    assert caught.value.failures[0].exitcode == 9
    with pytest.raises(ChildFailedError) as caught:
        elastic_launch(LaunchConfig(1, 1, 2, max_restarts=0), killed)()
    assert caught.value.get_first_failure()[1].exitcode == -9


def test_an_agent_runs_and_keeps_its_group_up_to_date():
    handler = get_rendezvous_handler(RendezvousParameters("c10d", "", "agent", 1, 1))
    spec = WorkerSpec("r", 2, handler, entrypoint=ranks)
    agent = LocalElasticAgent(spec, DefaultLogsSpecs("/dev/null"))
    result = agent.run()
    group = agent.get_worker_group()
    assert (result.state, group.state, sorted(result.return_values)) == (WorkerState.SUCCEEDED,) * 2 + ([0, 1],)
    assert [w.global_rank for w in group.workers] == [0, 1]
    assert all(w.id > 0 for w in group.workers)
    assert (group.group_rank, group.group_world_size) == (0, 1)


def test_the_events_are_recorded(tmp_path):
    code = (
        "from rallypoint.elastic.launcher.api import LaunchConfig, elastic_launch\n"
        "elastic_launch(LaunchConfig(1, 1, 1, event_log_handler='console'), 'true')()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    lines = [json.loads(line[line.index("{") :]) for line in done.stderr.splitlines() if '"source"' in line]
    assert {line["metadata"]["state"] for line in lines} >= {"START", "SUCCEEDED"}


def test_output_goes_to_files_and_console(tmp_path, capfd):
    rallypoint.launch(speak, log_dir=str(tmp_path))
    assert "hello from 0" in capfd.readouterr().out
    assert [path.read_text() for path in tmp_path.glob("*/attempt_0/0/stdout.log")] == ["hello from 0\n"]
