"""Somebody else's rendezvous handler under ``elastic_launch``: same core, same driver, their way to meet."""

import json
import sys
from pathlib import Path

import pytest

import foreign
from lab import Launch, wait_until
from rallypoint.elastic.launcher.api import LaunchConfig, elastic_launch
from rallypoint.elastic.multiprocessing.errors import ChildFailedError
from rallypoint.elastic.rendezvous import RendezvousGracefulExitError, RendezvousStateError, RendezvousTimeoutError

TESTS = Path(__file__).parent.parent

NODE = """
import json, os, sys, time
sys.path.insert(0, {tests!r})
import foreign
from rallypoint.elastic.launcher.api import LaunchConfig, elastic_launch
from rallypoint.elastic.multiprocessing.errors import ChildFailedError

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE",
         "MASTER_ADDR", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID")

def told(folder):
    return {{name: os.environ[name] for name in NAMES}}

def fails_once(folder):
    mark = os.path.join(folder, "first.%d" % os.getppid())  # on each node
    if not os.path.exists(mark):
        open(mark, "w").close()
        while sum(name.startswith("first.") for name in os.listdir(folder)) < 2:
            time.sleep(0.01)
        if os.environ["RANK"] == "0":
            raise ValueError("the first time")
        time.sleep(60)
    return told(folder)

def always(folder):
    if os.environ["RANK"] == "1":
        raise ValueError("always")
    time.sleep(0.2)

if __name__ == "__main__":
    folder, nproc, role, what, restarts = sys.argv[1:]
    foreign.register(folder)
    config = LaunchConfig(2, 2, int(nproc), run_id="f", role=role, rdzv_backend="folder",
                          max_restarts=int(restarts), monitor_interval=0.05)
    try:
        print("RESULT", json.dumps(elastic_launch(config, globals()[what])(folder)))
    except ChildFailedError as error:
        print("FAILED", sorted(error.failures))
"""


@pytest.fixture
def node(tmp_path):
    script = tmp_path / "node.py"
    script.write_text(NODE.format(tests=str(TESTS)))
    folder = tmp_path / "meet"
    folder.mkdir()
    started = []

    def start(nproc, role, what, restarts=0):
        command = [sys.executable, str(script), str(folder), str(nproc), role, what, str(restarts)]
        started.append(Launch(command=command))
        return started[-1]

    yield start
    for launch in started:
        launch.__exit__()


def results(*launches):
    found = {}
    for launch in launches:
        assert launch.end() == 0, launch.text
        line = next(line for line in launch.lines if line.startswith("RESULT"))
        found |= {int(rank): value for rank, value in json.loads(line.removeprefix("RESULT")).items()}
    return found


def test_slots_and_roles_are_exchanged_over_the_handlers_store(node):
    told = results(node(1, "reader", "told"), node(2, "trainer", "told"))
    assert sorted(told) == [0, 1, 2]
    for rank, env in told.items():
        assert (env["RANK"], env["WORLD_SIZE"], env["GROUP_WORLD_SIZE"]) == (str(rank), "3", "2")
        assert (env["TORCHELASTIC_USE_AGENT_STORE"], env["TORCHELASTIC_RUN_ID"]) == ("False", "f")
    assert sorted(env["ROLE_WORLD_SIZE"] for env in told.values()) == ["1", "2", "2"]
    assert sorted(env["ROLE_RANK"] for env in told.values()) == ["0", "0", "1"]


def test_a_failure_on_one_node_restarts_both(node):
    pair = node(1, "r", "fails_once", 1), node(1, "r", "fails_once", 1)
    told = results(*pair)
    # Each node counts its own failures, as torch's agents do: the other one saw a change of members.
    assert sorted(env["TORCHELASTIC_RESTART_COUNT"] for env in told.values()) == ["0", "1"]


def test_the_last_failure_is_raised(node):
    """By the node where it happened. The other one waits at the barrier: handlers carry no failures."""
    pair = [node(1, "r", "always") for _ in range(2)]
    wait_until(lambda: any("FAILED [1]" in launch.text for launch in pair), 20, "the failure's being raised")


def test_a_handler_is_shut_down_at_the_end(tmp_path):
    foreign.register(tmp_path)
    config = LaunchConfig(1, 1, 1, run_id="f", rdzv_backend="folder")
    assert elastic_launch(config, "true")() == {0: None}
    assert list(tmp_path.glob("shut.*"))


def test_a_failure_without_restarts_is_raised(tmp_path):
    foreign.register(tmp_path)
    config = LaunchConfig(1, 1, 1, run_id="f", rdzv_backend="folder", max_restarts=0)
    with pytest.raises(ChildFailedError):
        elastic_launch(config, "false")()
    # The folder remembers the round of before, so this node comes second in a round of one.
    with pytest.raises(RendezvousStateError, match="rank 1 of 1"):
        elastic_launch(config, "true")()


def test_a_graceful_exit_returns_nothing(tmp_path):
    foreign.register(tmp_path, RendezvousGracefulExitError("not needed"))
    assert elastic_launch(LaunchConfig(1, 1, 1, rdzv_backend="folder"), "true")() == {}


@pytest.mark.parametrize("error", [RendezvousTimeoutError("too late"), OSError("cable")])
def test_what_the_handler_raises_is_raised(tmp_path, error):
    foreign.register(tmp_path, error)
    with pytest.raises(type(error), match=str(error)):
        elastic_launch(LaunchConfig(1, 1, 1, rdzv_backend="folder"), "true")()
