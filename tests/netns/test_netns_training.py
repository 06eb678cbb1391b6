"""Real torch training (gloo) on hosts of their own, through faults: it goes on, and every sum is right."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest
from hosts import Hosts, available

from etcd_lab import Cluster
from job import HB, Job, within
from lab import carriers, wait_until

pytest.importorskip("torch")
WHY_NOT = available()
pytestmark = [
    pytest.mark.netns,
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]

TRAIN = """\
import datetime
import torch, torch.distributed as dist
os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=120))
first = True
while True:
    finish = rank == 0 and os.path.exists(os.environ["JOURNAL"] + ".finish")
    part = torch.tensor([2.0 ** rank, float(finish)])
    dist.all_reduce(part)
    if part[0] != 2 ** world - 1:
        tell("wrong", sum=part[0].item())
    if first:
        tell("start", host=os.uname().nodename)
        first = False
    if part[1]:
        break
    time.sleep(0.02)
dist.destroy_process_group()
"""
ENDPOINT = "10.77.0.1:29400"
ENDPOINTS = ",".join(f"10.77.0.{n}:29400" for n in (1, 2, 3))
FAULT = 3.0
"""Seconds that a member of etcd is away, and then has to come back in."""
OPTIONS = {"program": TRAIN, "last_call_timeout": 1}


class Training(Job):
    """Node A on host 1, B on host 2, ..., each with one worker that all-reduces without end."""

    def __init__(self, hosts: Hosts, folder, *options: str, nnodes: str, endpoint: str = ENDPOINT, **conf):
        super().__init__(folder, *options, nnodes=nnodes, endpoint=endpoint, **(OPTIONS | conf))
        self._hosts = hosts

    def on(self, names: str, *options: str) -> None:
        for name in names:
            self.start(name, *options, command=self._hosts.command("ABCD".index(name) + 1))

    def kill(self, name: str) -> None:
        """Everything of a node at once; its kernel lives, and closes its connections."""
        for pid in carriers(self.nodes[name].mark):
            os.kill(pid, signal.SIGKILL)

    def trains(self, names: str, limit: float = 60.0, since: int = 0) -> list[dict]:
        """Wait until exactly these nodes all-reduce together in a round later than event ``since``; return it."""

        def together() -> list[dict]:
            last = self.events()[since:][-len(names) :]
            same = len({(e["master"], e["world"]) for e in last}) == 1
            return last if same and sorted(e["node"] for e in last) == sorted(names) else []

        return wait_until(lambda: together() if len(self.events()) > since else [], limit, f"{names} train")

    def end(self, names: str) -> None:
        """Let the training finish; every node succeeds, and no sum was ever wrong."""
        open(str(self._journal) + ".finish", "w").close()
        assert self.ended(names, 10) == [0] * len(names), self.told()
        assert self.events("wrong") == []


def reaches_store(node) -> bool:
    """Whether a launcher has said as often that the store is back as that it was lost."""
    return node.text.count("lost the store") == node.text.count("the store is back")


@contextlib.contextmanager
def etcd_training(folder, nnodes, **conf):
    """Three hosts, a member of etcd on each."""
    pytest.importorskip("h11")
    with (
        Hosts(3) as hosts,
        Cluster(folder, size=3, hosts=hosts) as etcd,
        Training(hosts, folder, nnodes=nnodes, backend="etcd", endpoint=etcd.endpoints, **conf) as job,
    ):
        yield hosts, etcd, job


def test_a_peer_is_killed(tmp_path):
    with Hosts(3) as hosts, Training(hosts, tmp_path, nnodes="2:3") as job:
        job.on("ABC")
        before = job.trains("ABC")
        job.kill("B")
        after = job.trains("AC", since=3)
        assert [e["count"] for e in after] == [0, 0], "a lost node costs nothing"
        order = sorted(before, key=lambda e: e["rank"])
        kept = [e["node"] for e in order if e["node"] != "B"]
        assert [e["node"] for e in sorted(after, key=lambda e: e["rank"])] == kept
        job.end("AC")


def test_a_partition_and_its_end(tmp_path):
    with Hosts(3) as hosts, Training(hosts, tmp_path, nnodes="2:3") as job:
        job.on("ABC")
        job.trains("ABC")
        hosts.cut(3)
        job.trains("AB", since=3)
        hosts.heal(3)
        job.trains("ABC", since=5)
        job.end("ABC")


def test_a_launcher_is_stopped_and_goes_on(tmp_path):
    with Hosts(3) as hosts, Training(hosts, tmp_path, nnodes="2:3") as job:
        job.on("ABC")
        job.trains("ABC")
        job.nodes["B"].signal(signal.SIGSTOP)
        job.trains("AC", since=3)
        job.nodes["B"].signal(signal.SIGCONT)
        job.trains("ABC", since=5)
        job.end("ABC")


def test_scale_up_and_down(tmp_path):
    with Hosts(3) as hosts, Training(hosts, tmp_path, nnodes="1:3") as job:
        job.on("A")
        job.trains("A")
        job.on("BC")
        job.trains("ABC", since=1)
        begin = time.monotonic()
        seen = len(job.events())
        job.nodes["C"].signal(signal.SIGTERM)
        assert job.nodes["C"].end() == 143
        within(time.monotonic() - begin, HB + 5, "the node leaves")
        job.trains("AB", since=seen)
        job.end("AB")


def test_a_spare_takes_over(tmp_path):
    with Hosts(3) as hosts, Training(hosts, tmp_path, nnodes="2") as job:
        job.on("AB")
        job.trains("AB")
        job.on("C")
        job.nodes["C"].until("standing by")
        job.kill("B")
        after = job.trains("AC", since=2)
        assert {e["node"]: e["rank"] for e in after}["C"] == job.events(node="B")[0]["rank"]
        job.end("AC")


def test_the_host_of_the_store_is_killed(tmp_path):
    """At its one endpoint nobody else can listen: the others wait until it is back."""
    with Hosts(3) as hosts, Training(hosts, tmp_path, nnodes="2:3") as job:
        job.on("ABC")
        job.trains("ABC")
        job.kill("A")
        for name in "BC":
            job.nodes[name].until("lost the store")
        job.on("A")
        job.trains("ABC", since=3)
        job.end("ABC")


def test_the_host_of_the_store_is_killed_and_the_next_endpoint_takes_over(tmp_path):
    with Hosts(4) as hosts, Training(hosts, tmp_path, nnodes="2:4", endpoint=ENDPOINTS) as job:
        job.on("ABCD")
        job.trains("ABCD")
        job.kill("A")
        job.trains("BCD", since=4)
        seen = len(job.events())
        job.on("A")
        job.trains("ABCD", since=seen)
        job.end("ABCD")


def test_the_host_of_the_store_is_cut_off(tmp_path):
    """Nobody learns of it but by silence; it stops its own worker, though MIN would be there."""
    with Hosts(3) as hosts, Training(hosts, tmp_path, nnodes="1:3", endpoint=ENDPOINTS) as job:
        job.on("ABC")
        job.trains("ABC")
        hosts.cut(1)
        job.trains("BC", since=3)
        job.nodes["A"].until("lost the store")
        worker = job.events(node="A")[0]["pid"]
        wait_until(lambda: worker not in carriers(job.nodes["A"].mark), 30, "the end of the worker that is cut off")
        assert sorted(e["node"] for e in job.events()[3:]) == ["B", "C"], "and no other was started there"
        hosts.heal(1)
        job.trains("ABC", since=5)
        job.end("ABC")


def test_a_node_is_preempted(tmp_path):
    """Its workers hear of it and get their time; the others go on without it."""
    options = ["--leave-signals=USR1", "--notice-signal=WINCH", "--notice-grace=2"]
    program = "import os\nsignal.signal(signal.SIGWINCH, lambda *_: tell('noticed'))\n" + TRAIN
    with Hosts(3) as hosts, Training(hosts, tmp_path, *options, nnodes="2:3", program=program) as job:
        job.on("ABC")
        job.trains("ABC")
        job.nodes["C"].signal(signal.SIGUSR1)
        job.trains("AB", since=3)
        assert {e["node"] for e in job.events("noticed")} >= {"C"}
        job.nodes["C"].end()
        job.end("AB")


def test_a_machine_dies_with_its_member_of_etcd(tmp_path):
    with etcd_training(tmp_path, "2:3") as (_hosts, etcd, job):
        job.on("ABC")
        job.trains("ABC")
        etcd.members[0].kill()
        job.kill("A")
        job.trains("BC", since=3)
        etcd.members[0].start("existing")
        seen = len(job.events())
        job.on("A")
        job.trains("ABC", since=seen)
        job.end("ABC")


def test_members_of_etcd_die_and_the_training_goes_on(tmp_path):
    with etcd_training(tmp_path, "3", keep_alive_max_attempt=10) as (_hosts, etcd, job):
        job.on("ABC")
        before = job.trains("ABC")
        for member in etcd.members:
            member.kill()
            time.sleep(FAULT)
            member.start("existing")
            time.sleep(FAULT)
            wait_until(lambda: all(reaches_store(node) for node in job.nodes.values()), 10, "all are back at the store")
        assert len(job.events()) == len(before) == 3, job.told()
        job.end("ABC")


def test_a_partition_of_etcd_and_its_end(tmp_path):
    with etcd_training(tmp_path, "2:3") as (hosts, _etcd, job):
        job.on("ABC")
        job.trains("ABC")
        hosts.cut(1)
        job.trains("BC", since=3)
        hosts.heal(1)
        job.trains("ABC", since=5)
        job.end("ABC")
