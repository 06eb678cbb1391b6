"""Failures on several nodes: everybody stops, regroups or ends, and names the same culprit. Numbers as in FAULTS."""

from __future__ import annotations

import signal

import pytest

from job import Job, outcome, within

BACKENDS = pytest.mark.parametrize("backend", ["c10d", "static"])
SAME_STORE = """\
from rallypoint.worker.store import Store
host, port = master.split()
with Store(host, int(port), "", 30) as store:
    found = store.add("arrived", 1)
    store.set("left by round %d of rank %d" % (count, rank), b"")
    if found == world:
        store.set("all", b"%d" % count)
    of_round = int(store.get("all"))
    tell("met", sum=store.add("arrived", 0), of_round=of_round)
tell("start")
while True:
    signal.pause()
"""
RAISING = {
    "main": "def work():\n    raise ValueError('bad batch')\nif rank == 2:\n    work()\nsignal.pause()\n",
    "import": "if rank == 2:\n    import broken\nsignal.pause()\n",
}


@BACKENDS
@pytest.mark.parametrize("budget", [1, 0])
def test_08_failure_reaches_sleeping_peers(tmp_path, backend, budget):
    with Job(tmp_path, f"--max-restarts={budget}", "--nproc-per-node=2", nnodes="2", backend=backend) as job:
        job.start_all("AB")
        job.until(4)
        failed = job.poke("B", local=1)
        if budget:
            again = job.until(8, limit=2)
            within(again[7]["at"] - failed, 2, "all four restarted")
            assert {e["count"] for e in again[4:]} == {1}
        else:
            assert job.ended("AB", limit=2) == [1, 1]
            assert not job.nodes["A"].alive()


def test_09_budget_is_the_jobs_wherever_workers_fail(tmp_path):
    with Job(tmp_path, "--max-restarts=3", nnodes="3") as job:
        job.start_all("ABC", env={"CODE": "5"})
        for count, name in enumerate("ABCA"):
            now = job.until(3, count=count)
            assert {e["node"] for e in now} == set("ABC")
            job.poke(name)
        assert job.ended("ABC", limit=2) == [5, 5, 5]
        assert [e["count"] for e in job.events()] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


@BACKENDS
def test_13_places_are_kept_over_restarts(tmp_path, backend):
    with Job(tmp_path, "--max-restarts=10", nnodes="3", backend=backend) as job:
        job.start_all("CBA")
        places = {e["node"]: e["rank"] for e in job.until(3)}
        assert backend == "c10d" or places == {"A": 0, "B": 1, "C": 2}
        for count in range(10):
            job.poke("ABC"[count % 3])
            now = {e["node"]: e["rank"] for e in job.until(3, count=count + 1)}
            assert now == places
        middle = next(n for n in "ABC" if n != job.host())
        job.nodes[middle].signal(signal.SIGKILL)
        job.start(middle)
        again = job.until(6, count=10)[3:]
        assert {e["node"]: e["rank"] for e in again} == places


@BACKENDS
@pytest.mark.parametrize("how", [42, -signal.SIGKILL])
def test_22_one_culprit_and_its_status_on_every_node(tmp_path, backend, how):
    with Job(tmp_path, "--log-format=json", nnodes="3", backend=backend) as job:
        nodes = job.start_all("ABC", env={"CODE": str(how)})
        culprit = next(e for e in job.until(3) if e["node"] == "B")
        job.poke("B", signal.SIGUSR1 if how > 0 else -how)
        status = how if how > 0 else 128 - how
        assert job.ended("ABC", limit=2) == [status] * 3
        causes = [outcome(node)["cause"] for node in nodes]
        assert causes[0] == causes[1] == causes[2]
        assert (causes[0]["rank"], causes[0]["pid"]) == (culprit["rank"], culprit["pid"])


def test_22_all_ranks_fail_at_once(tmp_path):
    program = "tell('start')\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)\nsys.exit(42)\n"
    with Job(tmp_path, nnodes="2", program=program) as job:
        go = tmp_path / "go"
        for name in "AB":
            job.start(name, after=[str(go)])
        job.until(2)
        go.touch()
        assert job.ended("AB", limit=2) == [42, 42]


@pytest.mark.parametrize("where", RAISING)
def test_23_every_node_shows_the_traceback(tmp_path, where):
    (tmp_path / "broken.py").write_text("raise ValueError('bad batch')\n")
    with Job(tmp_path, nnodes="3", program=RAISING[where]) as job:
        nodes = job.start_all("AB")
        nodes.append(job.start("C", "--log-format=json"))
        assert job.ended("ABC", limit=2) == [1, 1, 1]
        cause = outcome(nodes[2])["cause"]
        assert (cause["rank"], cause["type"], cause["message"]) == (2, "ValueError", "bad batch")
        assert ("in work" if where == "main" else "broken.py") in cause["traceback"]
        for node in nodes[:2]:
            last = "\n".join(node.lines[-30:])
            assert cause["traceback"].strip() in last and "rank 2" in last and cause["host"] in last
            assert "rallypoint/" not in last, "no stack of the launcher's"


@BACKENDS
def test_33_worker_store_is_fresh_and_the_same_for_all(tmp_path, backend):
    with Job(
        tmp_path, "--max-restarts=5", "--nproc-per-node=2", nnodes="2", backend=backend, program=SAME_STORE
    ) as job:
        job.start_all("AB")
        for count, name in enumerate("BBABB"):
            job.until(4, count=count)
            job.poke(name, local=count % 2)
        job.until(4, count=5)
        job.finish("AB")
        assert job.ended("AB", limit=2) == [0, 0]
        for count in range(6):
            met = job.events("met", count=count)
            assert [(e["sum"], e["of_round"]) for e in met] == [(4, count)] * 4, "nothing of an earlier round"
            assert len({e["master"] for e in met}) == 1


@BACKENDS
@pytest.mark.parametrize("last", ["A", "B"])
def test_nobody_leaves_before_the_last_worker(tmp_path, backend, last):
    with Job(tmp_path, nnodes="2", backend=backend) as job:
        job.start_all("AB")
        job.until(2)
        first = "AB".replace(last, "")
        job.finish(first)
        with pytest.raises(AssertionError):
            job.nodes[first].end(1.5)
        job.finish(last)
        assert job.ended("AB", limit=1) == [0, 0]
