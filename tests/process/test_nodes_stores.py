"""The same run on stores that no launcher hosts: etcd and a shared folder (FAULTS 1, 7, 8, 9)."""

import importlib.util
import signal
import time

import pytest

from etcd_lab import Cluster
from job import HB, Job, outcome, within
from lab import Launch, script, wait_until


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(params=["etcd", "file"])
def place(request, tmp_path):
    """Backend and endpoint, and a run id that no other test has."""
    if request.param == "file":
        return {"backend": "file", "endpoint": str(tmp_path / "store"), "run": f"--rdzv-id={tmp_path.name}"}
    if importlib.util.find_spec("h11") is None:
        pytest.skip("needs h11")
    cluster = request.getfixturevalue("etcd")
    return {"backend": "etcd", "endpoint": cluster.endpoints, "run": f"--rdzv-id={tmp_path.name}"}


def job_at(place, folder, *options, **more):
    where = {key: place[key] for key in ("backend", "endpoint")}
    return Job(folder, place["run"], *options, last_call_timeout=0.5, **where, **more)


def test_any_node_may_die_also_the_one_that_leads(tmp_path, place):
    with job_at(place, tmp_path, nnodes="1:3") as job:
        job.start_all("ABC")
        three = job.until(3, world=3)
        first = next(e["node"] for e in three if e["rank"] == 0)
        begin = time.monotonic()
        job.nodes[first].signal(signal.SIGKILL)
        two = job.until(2, world=2, limit=20)
        within(time.monotonic() - begin, 2 if place["backend"] == "file" else 3 * HB, "the survivors go on")
        assert first not in {e["node"] for e in two} and [e["count"] for e in two] == [0, 0]
        job.start(first)
        job.until(3 + 2 + 3, limit=20)
        job.finish("ABC")
        assert job.ended("ABC", 3) == [0, 0, 0]


def test_a_failure_reaches_all_and_costs_one_restart(tmp_path, place):
    with job_at(place, tmp_path, "--max-restarts=1", "--log-format=json", nnodes="2") as job:
        job.start_all("AB")
        job.until(2)
        job.poke("B")
        again = job.until(4)[2:]
        assert [e["count"] for e in again] == [1, 1]
        job.poke("A")
        assert job.ended("AB", 2) == [1, 1]
        one, other = (outcome(job.nodes[name])["cause"] for name in "AB")
        assert one == other and one, "both name the same culprit"


def test_a_launcher_that_was_stopped_comes_back_as_a_newcomer(tmp_path, place):
    with job_at(place, tmp_path, nnodes="1:2") as job:
        job.start_all("AB")
        job.until(2)
        job.nodes["B"].signal(signal.SIGSTOP)
        job.until(1, world=1, limit=20)
        job.nodes["B"].signal(signal.SIGCONT)
        job.until(2 + 1 + 2, limit=20)
        stale = next(e["pid"] for e in job.events(node="B"))
        assert not alive(stale), "its old worker was stopped first"
        job.finish("AB")
        assert job.ended("AB", 3) == [0, 0]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_next_run_of_the_same_name_begins_anew(tmp_path, place):
    path = script(tmp_path, "say(f'start {count}')")
    where = [f"--rdzv-backend={place['backend']}", f"--rdzv-endpoint={place['endpoint']}", place["run"]]
    for _ in range(2):
        options = [*where, "--nnodes=2", "--rdzv-conf=last_call_timeout=0.2", path]
        with Launch(*options) as one, Launch(*options) as two:
            assert [one.end(), two.end()] == [0, 0], one.text + two.text


def test_etcd_is_written_to_three_times_a_round_at_most(tmp_path, etcd):
    pytest.importorskip("h11")
    nodes, rounds = "ABCD", 3
    with Job(tmp_path, "--rdzv-id=few", "--max-restarts=9", nnodes="4", backend="etcd", endpoint=etcd.endpoints) as job:
        before = etcd.revision()
        job.start_all(nodes)
        for number in range(rounds):
            job.until(len(nodes) * (number + 1))
            if number + 1 < rounds:
                job.poke("B")
        written = etcd.revision() - before
        assert written <= 3 * len(nodes) * rounds, f"{written} writes"
        print(f"{written} writes for {rounds} rounds of {len(nodes)} nodes")
        job.finish(nodes)
        assert job.ended(nodes, 3) == [0] * 4


def test_etcd_v2_is_etcd_with_a_word(tmp_path, etcd):
    pytest.importorskip("h11")
    path = script(tmp_path, "say('here')")
    with Launch("--rdzv-backend=etcd-v2", f"--rdzv-endpoint={etcd.endpoints}", "--rdzv-id=v2", path) as launch:
        assert launch.end() == 0
    assert "v3 API" in launch.text and "here" in launch.out


def test_without_the_extra_one_line_says_which(tmp_path):
    (tmp_path / "h11.py").write_text("raise ModuleNotFoundError('No module named h11', name='h11')\n")
    path = script(tmp_path, "say('here')")
    options = ["--rdzv-backend=etcd", "--rdzv-endpoint=127.0.0.1:1", path]
    with Launch(*options, env={"PYTHONPATH": str(tmp_path)}) as launch:
        assert launch.end() == 2
    assert "pip install 'rallypoint[etcd]'" in launch.text and "Traceback" not in launch.text


def test_an_etcd_that_is_not_there_is_said_and_named_at_the_end(tmp_path):
    pytest.importorskip("h11")
    path = script(tmp_path, "say('here')")
    conf = "--rdzv-conf=join_timeout=1"
    with Launch("--nnodes=2", "--rdzv-backend=etcd", "--rdzv-endpoint=127.0.0.1:1", conf, path) as launch:
        assert launch.end() != 0
    assert "127.0.0.1:1" in launch.text and "connection refused" in launch.text
    wait_until(lambda: not launch.alive(), 5, "nothing is left")
