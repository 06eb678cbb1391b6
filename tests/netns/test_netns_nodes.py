"""Nodes on several hosts: how they find each other, what they announce, and what a dead or cut-off host does."""

from __future__ import annotations

import os
import signal
import time

import pytest
from hosts import Hosts, available

from job import HB, Job, within
from lab import carriers, wait_until

WHY_NOT = available()
pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

MEET = """\
from rallypoint.worker.store import Store
def stop(*_):
    tell("stopped")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
host, port = master.rsplit(" ", 1)
store = Store(host, int(port), "", 20)
store.add("arrived", 1)
while store.add("arrived", 0) < world:
    time.sleep(0.01)
tell("start", host=os.uname().nodename)
while True:
    signal.pause()
"""


def on(hosts: Hosts, job: Job, name: str, *options: str):
    """Start node A on host 1, B on host 2, ..."""
    return job.start(name, *options, command=hosts.command("ABCD".index(name) + 1))


@pytest.mark.parametrize("backend", ["c10d", "static"])
def test_28_by_address_without_any_name_server(tmp_path, backend):
    with Hosts(3) as hosts, Job(tmp_path, nnodes="3", program=MEET, endpoint="10.77.0.1:29400", backend=backend) as job:
        begin = time.monotonic()
        for name in "ABC":
            on(hosts, job, name)
        started = job.until(3)
        within(started[2]["at"] - begin, 1, "start of three hosts")
        assert {(e["node"], e["host"]) for e in started} == {("A", "host1"), ("B", "host2"), ("C", "host3")}
        assert started[0]["master"].startswith("10.77.0.")
        assert [hosts.name_queries(number) for number in (1, 2, 3)] == [0, 0, 0]
        job.finish("ABC")
        assert job.ended("ABC", 2) == [0, 0, 0]


@pytest.mark.parametrize("endpoint", ["host1:29400", "host1.test:29400", "[fd77::1]:29400"])
@pytest.mark.parametrize("backend", ["c10d", "static"])
def test_29_by_name_and_by_ipv6_address(tmp_path, endpoint, backend):
    with (
        Hosts(2, trap=True) as hosts,
        Job(tmp_path, "--max-restarts=1", nnodes="2", program=MEET, endpoint=endpoint, backend=backend) as job,
    ):
        for name in "BA":
            on(hosts, job, name)
        assert len({e["master"] for e in job.until(2)}) == 1
        job.poke("B")
        assert len({e["master"] for e in job.until(4)[2:]}) == 1
        job.finish("AB")
        assert job.ended("AB", 2) == [0, 0]


def test_firewall_is_suspected(tmp_path):
    with Hosts(2) as hosts, Job(tmp_path, nnodes="2", endpoint="10.77.0.1:29400", join_timeout=4) as job:
        hosts.firewall(1, 29400)
        on(hosts, job, "A")
        assert on(hosts, job, "B").end(10) == 75
        assert "likely cause: no answer from 10.77.0.1:29400: a firewall is in between" in job.nodes["B"].text


@pytest.mark.slow
def test_power_loss_of_a_host(tmp_path):
    with (
        Hosts(3) as hosts,
        Job(tmp_path, nnodes="2:3", program=MEET, endpoint="10.77.0.1:29400", last_call_timeout=1) as job,
    ):
        for name in "ABC":
            on(hosts, job, name)
        job.until(3, world=3)
        begin = time.monotonic()
        hosts.cut(3)
        for pid in carriers(job.nodes["C"].mark):
            os.kill(pid, signal.SIGKILL)
        two = job.until(2, limit=HB + 2, world=2)
        within(two[1]["at"] - begin, HB + 2, "the others go on")
        assert {e["node"]: e["rank"] for e in two} == {"A": 0, "B": 1}


@pytest.mark.slow
@pytest.mark.parametrize("ways", [(), ("dumb",), ("deaf",)], ids=["both ways", "it is not heard", "it does not hear"])
def test_host_cut_off_stops_its_workers_and_comes_back(tmp_path, ways):
    with (
        Hosts(3) as hosts,
        Job(tmp_path, nnodes="2:3", program=MEET, endpoint="10.77.0.1:29400", last_call_timeout=1) as job,
    ):
        for name in "ABC":
            on(hosts, job, name)
        job.until(3, world=3)
        begin = time.monotonic()
        hosts.cut(3, *ways)
        two = job.until(2, limit=HB + 2, world=2)
        within(two[1]["at"] - begin, HB + 2, "the others go on")
        stopped = job.until(1, limit=HB + 2, event="stopped", node="C")[0]
        within(stopped["at"] - begin, HB + 1, "the cut-off host stops its worker")
        hosts.heal(3, *ways)
        again = wait_until(lambda: len(job.events(world=3)) == 6 and job.events(world=3)[3:], 10, "all three again")
        assert sorted(e["rank"] for e in again) == [0, 1, 2]
        starts = job.events()
        assert len({(e["master"], e["rank"]) for e in starts}) == len(starts) == 8


@pytest.mark.parametrize(("backend", "silently"), [("c10d", True), ("static", False)])
def test_04_host_of_the_store_replaced(tmp_path, backend, silently):
    options = {"program": MEET, "endpoint": "10.77.0.1:29400", "backend": backend}
    with Hosts(3) as hosts, Job(tmp_path, "--max-restarts=3", nnodes="3", **options) as job:
        for name in "CBA":
            on(hosts, job, name)
        job.until(3)
        job.poke("B")
        before = {e["node"]: e["rank"] for e in job.until(3, count=1)}
        if silently:
            hosts.cut(1)
        begin = time.monotonic()
        for pid in carriers(job.nodes["A"].mark):
            os.kill(pid, signal.SIGKILL)
        for name in "BC":
            job.nodes[name].until("lost the store.*trying to reach it again")
        within(time.monotonic() - begin, HB + 1, "noticed")
        if silently:
            hosts.heal(1)
        begin = time.monotonic()
        on(hosts, job, "A")
        again = job.until(9, limit=10)[6:]
        within(again[2]["at"] - begin, 10, "all again")
        assert {e["node"]: e["rank"] for e in again} == before, "places outlive the store"
        assert [e["count"] for e in again] == [1, 1, 1], "the budget outlives the store"


def test_preflight_names_the_way_that_is_closed(tmp_path):
    conf = {"endpoint": "10.77.0.1:29400", "last_call_timeout": 0.5}
    with Hosts(2) as hosts, Job(tmp_path, "--preflight", nnodes="1:2", **conf) as job:
        hosts.firewall(1, "30000-65535")
        job.start("A", command=hosts.command(1))
        job.until(1)
        job.start("B", command=hosts.command(2))
        assert job.nodes["B"].end() == 77
        job.nodes["B"].until(r"reachability: node host1:.* at 10.77.0.1:\d+ cannot be reached from here: no answer")
        job.nodes["A"].until("is kept out: pre-flight check: reachability: ")
        assert "firewall" in job.nodes["B"].text
        job.finish("A")
        assert job.nodes["A"].end() == 0
