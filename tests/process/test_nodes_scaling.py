"""Joining and leaving as planned: gathered joiners, safe points, notice, preemption, spares (FAULTS 5, 14)."""

from __future__ import annotations

import json
import signal
import time

from job import Job, outcome, within
from lab import wait_until

STEPS = """\
from rallypoint.worker import safe_point
path = os.environ["JOURNAL"] + f".step{rank}"
step = int(open(path).read()) if os.path.exists(path) else 0
done = step
noticed = []
signal.signal(signal.SIGWINCH, lambda *_: noticed.append(time.monotonic()))
signal.signal(signal.SIGTERM, lambda *_: (tell("stop", step=done, saved=step, noticed=len(noticed)), os._exit(0)))
tell("start", step=step)
while True:
    time.sleep(0.01)
    done += 1
    if done % SAVE == 0 or noticed:
        open(path + ".new", "w").write(str(done))
        os.replace(path + ".new", path)
        step = done
        if safe_point(step) or noticed:
            tell("asked", step=step)
            while True:
                signal.pause()
"""


def test_14_two_joiners_one_restart_and_no_step_is_lost(tmp_path):
    options = ["--join-interval=20", "--notice-signal=WINCH", "--notice-grace=20"]
    with Job(tmp_path, *options, nnodes="2:4", program=STEPS.replace("SAVE", "1000000"), last_call_timeout=0.5) as job:
        job.start_all("AB")
        job.until(2, world=2)
        job.start("C")
        job.nodes["A"].until("node .* is here|round 1", limit=10)
        job.start("D")
        four = job.until(4, world=4)
        assert len(job.events()) == 6, "one restart for both"
        stopped = job.events("stop")
        assert [(e["step"] == e["saved"], e["noticed"]) for e in stopped] == [(True, 1)] * 2
        assert {e["count"] for e in four} == {0}, "a change of members costs nothing"
        assert all(e["step"] > 0 for e in four if e["rank"] < 2)


def test_when_ready_waits_for_the_snapshot_of_every_worker(tmp_path):
    options = ["--admit=when-ready", "--join-interval=0", "--nproc-per-node=2"]
    with Job(tmp_path, *options, nnodes="1:2", program=STEPS.replace("SAVE", "100"), last_call_timeout=0.5) as job:
        job.start("A")
        job.until(2)
        job.start("B")
        job.nodes["A"].until("round 1 is to end: node .* joins; the workers are waited for")
        job.until(4, world=4)
        stopped = job.events("stop")
        assert sorted(e["step"] - e["saved"] for e in stopped) == [0, 0], "nobody went on after its snapshot"
        assert [e["saved"] % 100 for e in stopped] == [0, 0]
        assert job.events("asked", world=2), "one waits for the other, and the stop may interrupt the last one's word"


def test_at_restart_newcomers_wait_for_the_next_one(tmp_path):
    with Job(tmp_path, "--admit=at-restart", "--max-restarts=1", nnodes="1:2", last_call_timeout=0.5) as job:
        job.start("A")
        job.until(1)
        job.start("B").until("standing by")
        job.poke("A")
        both = job.until(2, world=2)
        assert [e["count"] for e in both] == [1, 1]
        job.finish("AB")
        assert job.ended("AB", 3) == [0, 0]


def test_a_notice_of_preemption(tmp_path):
    options = ["--leave-signals=USR2", "--notice-signal=WINCH", "--notice-grace=20"]
    with Job(tmp_path, *options, nnodes="1:2", program=STEPS.replace("SAVE", "1000000"), last_call_timeout=0.5) as job:
        job.start_all("AB")
        job.until(2, world=2)
        begin = time.monotonic()
        job.nodes["B"].signal(signal.SIGUSR2)
        alone = job.until(1, world=1)
        within(time.monotonic() - begin, 5, "the other goes on")
        assert job.nodes["B"].end() == 128 + signal.SIGUSR2
        assert [(e["step"] == e["saved"], e["noticed"]) for e in job.events("stop")] == [(True, 1)] * 2
        assert alone[0]["node"] == "A" and alone[0]["count"] == 0
        assert any("this node leaves the run" in line for line in job.nodes["B"].lines)


def test_without_notice_a_leave_is_a_stop(tmp_path):
    with Job(tmp_path, "--leave-signals=USR2", nnodes="1:2", last_call_timeout=0.5) as job:
        job.start_all("AB")
        job.until(2, world=2)
        job.nodes["B"].signal(signal.SIGUSR2)
        job.until(1, world=1)
        assert job.nodes["B"].end() == 128 + signal.SIGUSR2


def test_a_spare_is_kept_and_steps_in(tmp_path):
    with Job(tmp_path, "--spares=1", nnodes="1:4", last_call_timeout=4, regroup_grace=30) as job:
        job.start_all("ABC")
        two = job.until(2, world=2)
        spare = next(name for name in "ABC" if name not in {e["node"] for e in two})
        job.nodes[spare].until("standing by")
        lost = next(e["node"] for e in two if job.host() != e["node"])
        begin = time.monotonic()
        job.nodes[lost].signal(signal.SIGKILL)
        again = wait_until(lambda: len(job.events()) >= 4 and job.events()[2:], 10, "the spare in place")
        within(time.monotonic() - begin, 4, "the spare steps in")
        assert {e["node"]: e["rank"] for e in again}[spare] == next(e["rank"] for e in two if e["node"] == lost)


def test_a_replacement_is_waited_for(tmp_path):
    with Job(tmp_path, nnodes="1:2", last_call_timeout=0.5, regroup_grace=60) as job:
        job.start_all("AB")
        two = job.until(2, world=2)
        host = job.host()
        lost = "B" if host == "A" else "A"
        job.nodes[lost].signal(signal.SIGKILL)
        job.nodes[host].until("round 1 ends")
        job.start("C")
        again = job.until(4, world=2)[2:]
        assert sorted(e["node"] for e in again) == sorted([host, "C"])
        assert {e["node"]: e["rank"] for e in again}[host] == {e["node"]: e["rank"] for e in two}[host]


def test_topology_orders_the_first_round(tmp_path):
    with Job(tmp_path, nnodes="3") as job:
        for name, key in zip("ABC", ("rack10", "rack9", "rack10"), strict=True):
            job.start(name, f"--topology={key}")
        ranks = {e["node"]: e["rank"] for e in job.until(3)}
        assert ranks["B"] == 0
        job.finish("ABC")
        assert job.ended("ABC", 3) == [0, 0, 0]


def test_a_node_is_put_aside_after_its_failures(tmp_path):
    options = ["--max-node-failures=2", "--max-restarts=9", "--log-format=json"]
    with Job(tmp_path, *options, nnodes="1:2", last_call_timeout=0.5) as job:
        job.start_all("AB")
        job.until(2, world=2)
        bad = "A" if job.host() == "B" else "B"
        good = "B" if bad == "A" else "A"
        for count in (1, 2):
            job.poke(bad)
            job.until(1, count=count, node=bad if count == 1 else good)
        assert job.nodes[bad].end() == 1
        alone = job.until(1, world=1)
        assert (alone[0]["node"], alone[0]["count"]) == (good, 2)
        told = [json.loads(line) for line in job.nodes[good].lines if '"put_aside"' in line]
        assert "the cause of 2 failures (--max-node-failures 2)" in told[0]["message"]
        job.finish(good)
        assert job.nodes[good].end() == 0
        assert outcome(job.nodes[bad])["status"] == "failed"
