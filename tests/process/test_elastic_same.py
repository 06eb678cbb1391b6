"""The same small programs through torch's API and ours: outcome, return values, environment and files are compared."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab import FACTOR, free_port

pytestmark = [pytest.mark.torch, pytest.mark.slow]

MAIN = """
import json, os, signal, sys, time

def told(*args):
    return {{name: value for name, value in os.environ.items() if name in NAMES}} | {{"args": args}}

def raises():
    if os.environ["RANK"] == "1":
        raise KeyError("own words")
    time.sleep(60)

def killed():
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)

def again():
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        raise ValueError("the first time")
    return int(os.environ["RANK"])

def speaks():
    print("out", os.environ["RANK"])
    print("err", os.environ["RANK"], file=sys.stderr)

NAMES = {names!r}

if __name__ == "__main__":
    which, folder, programs, nodes, port = sys.argv[1:]
    if which == "torch":
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.elastic.rendezvous.api import RendezvousTimeoutError
        from torch.distributed.elastic import metrics
    else:
        from rallypoint.elastic.launcher.api import LaunchConfig, elastic_launch
        from rallypoint.elastic.multiprocessing import DefaultLogsSpecs, Std
        from rallypoint.elastic.multiprocessing.errors import ChildFailedError
        from rallypoint.elastic.rendezvous import RendezvousTimeoutError
        from rallypoint.elastic import metrics
    class Collector(metrics.MetricHandler):
        def emit(self, data):
            if data.name.endswith(".healthy"):
                return  # torch says so only if a look at its workers fell into their life
            agents = data.name.startswith("SimpleElasticAgent.run.")
            if data.group_name == "torchelastic" and (agents or data.name.startswith("workers.")):
                seen[data.name] = "some" if data.name.endswith(".ms") else data.value
    seen = {{}}
    metrics.configure(Collector())
    os.environ.pop("OMP_NUM_THREADS", None)
    told_by = json.dumps(sorted(NAMES))
    shown = "import json, os; print(json.dumps({{n: v for n, v in os.environ.items() if n in %s}}, sort_keys=True))"
    for program in programs.split(","):
        entrypoint, args, config = {{
            "function": (told, ["x", "${{local_rank}}", 3], {{}}),
            "raises": (raises, [], {{}}),
            "killed": (killed, [], {{}}),
            "again": (again, [], {{"max_restarts": 1}}),
            "speaks": (speaks, [], {{}}),
            "command": (sys.executable, ["-c", shown % told_by], {{}}),
            "exits": ("sh", ["-c", "exit 5"], {{}}),
            "alone": (told, [], {{"rdzv_configs": {{"join_timeout": 2}}, "min_nodes": 2, "max_nodes": 2}}),
        }}[program]
        fixed = {{"min_nodes": int(nodes), "max_nodes": int(nodes), "nproc_per_node": 2, "run_id": program,
                  "role": "r", "max_restarts": 0, "rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:" + port,
                  "logs_specs": DefaultLogsSpecs(os.path.join(folder, program), Std.ALL)}}
        try:
            result = {{"returned": elastic_launch(LaunchConfig(**fixed | config), entrypoint)(*args)}}
        except ChildFailedError as error:
            _, first = error.get_first_failure()
            message = first.error_file_data["message"]
            said = message["message"] if isinstance(message, dict) else message
            result = {{"failed": [first.local_rank, first.exitcode, said]}}
        except RendezvousTimeoutError:
            result = {{"failed": "RendezvousTimeoutError"}}
        result["metrics"] = dict(seen)
        seen.clear()
        print("RESULT", program, json.dumps(result, sort_keys=True), flush=True)
"""

_NAMES = """
RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE ROLE_NAME ROLE_RANK ROLE_WORLD_SIZE
TORCHELASTIC_RESTART_COUNT TORCHELASTIC_MAX_RESTARTS TORCHELASTIC_RUN_ID TORCHELASTIC_USE_AGENT_STORE
TORCH_NCCL_ASYNC_ERROR_HANDLING TORCHELASTIC_SIGNALS_TO_HANDLE OMP_NUM_THREADS
"""
NAMES = _NAMES.split()

ONE = ("function", "command", "speaks", "again", "exits", "raises", "killed", "alone")


def node(folder, which, programs, nodes, port, number):
    """Run the programs one after the other on one node; return program -> (result, files)."""
    own = folder / f"{which}{number}"
    command = [sys.executable, str(folder / "main.py"), which, str(own), ",".join(programs), str(nodes), str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100 * FACTOR, check=False)
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith("RESULT"):
            _, program, result = line.split(" ", 2)
            found[program] = json.loads(result), files(own / program)
    assert len(found) == len(programs), f"{which}: {done.stdout}{done.stderr}"
    return found


def files(folder):
    """What lies there: path without the random part -> content (of error files, the message)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size and "filtered" not in path.name:
            text = path.read_text()
            if path.name == "error.json":
                text = json.loads(text)["message"]["message"]
            found["/".join(path.relative_to(folder).parts[1:])] = text
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("same")
    (made / "main.py").write_text(MAIN.format(names=NAMES))
    return made


@pytest.fixture(scope="module")
def alone(folder):
    """(which, program) -> (result, files), on one node."""
    with ThreadPoolExecutor(2) as pool:
        runs = {w: pool.submit(node, folder, w, ONE, 1, free_port(), 0) for w in ("torch", "ours")}
        return {(w, program): answer for w, run in runs.items() for program, answer in run.result().items()}


@pytest.mark.parametrize("program", ["function", "command", "speaks", "alone"])
def test_result_and_files_are_the_same(alone, program):
    theirs, ours = alone["torch", program], alone["ours", program]
    assert ours == theirs, "metrics included"


def test_restarts_are_the_same(alone):
    assert alone["ours", "again"][0]["returned"] == alone["torch", "again"][0]["returned"] == {"0": 0, "1": 1}


def test_metrics_are_the_same(alone):
    for program in ("again", "exits"):
        ours, theirs = alone["ours", program][0]["metrics"], alone["torch", program][0]["metrics"]
        assert ours == theirs
    assert alone["ours", "again"][0]["metrics"]["workers.r.run_success_with_retries"] == 1


def test_failures_are_the_same(alone):
    ours, theirs = ({p: alone[w, p] for p in ("exits", "raises", "killed")} for w in ("ours", "torch"))
    assert ours["raises"][0]["failed"] == theirs["raises"][0]["failed"]
    assert ours["raises"][1]["attempt_0/1/error.json"] == theirs["raises"][1]["attempt_0/1/error.json"]
    # Of workers that end alike, either may be the first; torch makes up a message for one that was killed.
    assert ours["exits"][0]["failed"][1] == theirs["exits"][0]["failed"][1] == 5
    assert ours["killed"][0]["failed"][:2] == theirs["killed"][0]["failed"][:2] == [1, -9]


def test_two_nodes_are_the_same(folder):
    found = {}
    with ThreadPoolExecutor(4) as pool:
        for which in ("torch", "ours"):
            port = free_port()
            runs = [pool.submit(node, folder, which, ["function"], 2, port, number) for number in (1, 2)]
            found[which] = {r: env for run in runs for r, env in run.result()["function"][0]["returned"].items()}
    assert sorted(found["ours"]) == ["0", "1", "2", "3"]
    assert found["ours"] == found["torch"]
