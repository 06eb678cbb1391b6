"""Nodes that are lost, leave, come, and sleep, while the workers of the others run on. Numbers as in FAULTS."""

from __future__ import annotations

import os
import signal
import time

import pytest

from job import HB, Job, within
from lab import carriers, wait_until

BOTH_PARTS = pytest.mark.parametrize("part", ["host", "guest"])
TOLD_TO_STOP = """\
def stop(*_):
    tell("stopped")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
tell("start")
while True:
    signal.pause()
"""


def by_time(event: dict) -> float:
    return event["at"]


def one(job: Job, names: str, part: str) -> tuple[str, str]:
    """The node that hosts the store (or one that does not), and the other ones."""
    host = job.host()
    name = host if part == "host" else next(n for n in names if n != host)
    return name, names.replace(name, "")


def kill_wholly(job: Job, name: str) -> None:
    """The launcher of a node and its workers end at once, as if somebody had shut its machine down."""
    for pid in carriers(job.nodes[name].mark):
        os.kill(pid, signal.SIGKILL)


def test_01_host_killed_others_take_over(tmp_path):
    with Job(tmp_path, nnodes="3:4", last_call_timeout=1) as job:
        job.start_all("ABCD")
        job.until(4, world=4)
        host, rest = one(job, "ABCD", "host")
        begin = time.monotonic()
        job.nodes[host].signal(signal.SIGKILL)
        back = job.until(3, limit=HB + 5, world=3)
        within(back[2]["at"] - begin, HB + 5, "three again")
        assert sorted(e["rank"] for e in back) == [0, 1, 2]
        assert len({e["master"] for e in back}) == 1
        job.finish(rest)
        assert job.ended(rest, 2) == [0, 0, 0]


@BOTH_PARTS
def test_02_node_lost_while_its_peer_sleeps(tmp_path, part):
    with Job(tmp_path, nnodes="1:2", last_call_timeout=1) as job:
        job.start_all("AB")
        job.until(2, world=2)
        lost, stays = one(job, "AB", part)
        begin = time.monotonic()
        job.nodes[lost].signal(signal.SIGKILL)
        again = job.until(1, limit=HB + 3, world=1)
        within(again[0]["at"] - begin, HB + 3, "one again")
        assert again[0]["node"] == stays and again[0]["count"] == 0
        wait_until(lambda: not carriers(job.nodes[lost].mark), 2, "the end of the lost node's worker")


def test_03_node_joins_a_running_job(tmp_path):
    with Job(tmp_path, nnodes="1:2", last_call_timeout=0.5) as job:
        job.start("A")
        job.until(1, world=1)
        begin = time.monotonic()
        job.start("B")
        both = job.until(2, limit=5, world=2)
        within(both[1]["at"] - begin, 5, "two")
        assert {e["node"]: e["rank"] for e in both} == {"A": 0, "B": 1}


@pytest.mark.parametrize("backend", ["c10d", "static"])
@BOTH_PARTS
def test_04_node_replaced_in_a_job_of_fixed_size(tmp_path, backend, part):
    with Job(tmp_path, "--max-restarts=3", nnodes="2", backend=backend) as job:
        job.start_all("AB")
        before = {e["node"]: e["rank"] for e in job.until(2)}
        lost, stays = one(job, "AB", part)
        kill_wholly(job, lost)
        wait_until(lambda: len(job.nodes[stays].workers()) == 0, HB + 2, "the end of the other's worker")
        begin = time.monotonic()
        job.start(lost)
        after = job.until(4, limit=10)[2:]
        within(after[-1]["at"] - begin, 10, "both again")
        assert {e["node"]: e["rank"] for e in after} == before
        assert {e["count"] for e in after} == {0}, "losing a node costs no restart"


@BOTH_PARTS
def test_05_node_told_to_leave(tmp_path, part):
    with Job(tmp_path, nnodes="2:3", last_call_timeout=0.5) as job:
        job.start_all("ABC")
        job.until(3, world=3)
        leaver, rest = one(job, "ABC", part)
        begin = time.monotonic()
        job.nodes[leaver].signal(signal.SIGTERM)
        assert job.nodes[leaver].end(5) == 143
        two = job.until(2, limit=5, world=2)
        within(two[1]["at"] - begin, 5, "two go on")
        job.start("D")
        wait_until(lambda: job.events(world=3, node="D"), 5, "a round with the new node")
        job.until(6, world=3)
        job.finish(rest + "D")
        assert job.ended(rest + "D", 2) == [0, 0, 0]


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_06_joiner_lost_before_the_round(tmp_path, number):
    with Job(tmp_path, "-v", nnodes="2:4", last_call_timeout=1.5) as job:
        job.start("A").until("joined the store")
        job.start("C").until("joined the store")
        begin = time.monotonic()
        job.nodes["C"].signal(number)
        job.start("B")
        both = job.until(2, limit=HB + 2, world=2)
        within(both[1]["at"] - begin, HB + 2, "a round of the other two")
        assert {e["node"] for e in both} == {"A", "B"}


@pytest.mark.slow
def test_06_joiner_stopped_and_too_few_are_left(tmp_path):
    with Job(tmp_path, "-v", nnodes="3") as job:
        job.start("A").until("joined the store")
        job.start("C").until("joined the store")
        job.nodes["C"].signal(signal.SIGSTOP)
        job.start("B")
        missing = job.nodes["C"].until("joined the store")[0].split()[2]
        said = job.nodes["A"].until("regrouping", limit=HB + 2)[0]
        assert missing in said and "unheard of for 3" in said
        job.nodes["A"].until("waiting for nodes.*2 of 3 nodes here.*1 missing", limit=6)


@pytest.mark.slow
@BOTH_PARTS
def test_07_launcher_stopped_for_a_while(tmp_path, part):
    with Job(tmp_path, nnodes="2:3", last_call_timeout=0.5, program=TOLD_TO_STOP) as job:
        job.start_all("ABC")
        job.until(3, world=3)
        sleeper, rest = one(job, "ABC", part)
        node = job.nodes[sleeper]
        node.signal(signal.SIGSTOP)
        time.sleep(HB / 2)
        node.signal(signal.SIGCONT)
        time.sleep(HB / 2)
        node.signal(signal.SIGSTOP)
        begin = time.monotonic()
        # The others lose the sleeper after HB; or, if it is their store that sleeps, they fence themselves HB later.
        job.until(2, limit=HB + 1, event="stopped")
        assert {e["node"] for e in job.events("stopped")} == set(rest), "the short sleep went unnoticed"
        time.sleep(max(0.0, begin + 3 * HB - time.monotonic()))
        node.signal(signal.SIGCONT)
        wait_until(lambda: len(job.events(world=3)) == 6, 10, "a round of all three")
        own = [e["event"] for e in sorted(job.events(node=sleeper) + job.events("stopped", node=sleeper), key=by_time)]
        assert own in (["start", "stopped", "start"], ["start", "stopped", "start", "stopped", "start"])
        starts = job.events()
        assert len({(e["master"], e["world"], e["rank"]) for e in starts}) == len(starts), "each rank once in a round"
        # Three, two without the sleeper, three; if the store slept, who comes back first may begin without the third.
        assert len(starts) == 8 if part == "guest" else len(starts) in (6, 8)
