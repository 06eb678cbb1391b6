"""What else may knock at the ports: other jobs, other programs, storms of connections. Numbers as in FAULTS."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time

import pytest

from job import Job, listening, memory, within
from lab import Launch, free_port, wait_until

STORM = 2000
GROWTH = 20 << 20
SERVE = [sys.executable, "-m", "rallypoint", "store"]


def test_31_second_job_at_the_same_endpoint_is_refused(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with Job(one, "--rdzv-id=one", nnodes="2") as job:
        job.start_all("AB")
        job.until(2)
        with Job(other, "--rdzv-id=other", nnodes="2", endpoint=job.endpoint) as second:
            begin = time.monotonic()
            second.start_all("AB")
            assert second.ended("AB", 2) == [77, 77]
            within(time.monotonic() - begin, 2, "refused")
            assert "run id is 'other' here, 'one' there" in second.nodes["A"].text
        job.finish("AB")
        assert job.ended("AB", 2) == [0, 0]
        assert len(job.events()) == 2


def test_store_of_its_own_keeps_runs_apart(tmp_path):
    endpoint = f"127.0.0.1:{free_port()}"
    with Launch("--listen", endpoint, command=SERVE) as server:
        server.until(f"serving at {endpoint}")
        assert listening(server.pid) == {endpoint}
        jobs = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            options = (f"--rdzv-id={name}", "--max-restarts=1")
            jobs.append(Job(tmp_path / name, *options, nnodes="2", endpoint=endpoint, is_host="false"))
        with jobs[0] as one, jobs[1] as two:
            for job in jobs:
                job.start_all("AB")
            for job in jobs:
                assert {e["world"] for e in job.until(2)} == {2}
            one.poke("A")
            one.until(4)
            one.finish("AB")
            assert one.ended("AB", 2) == [0, 0]
            two.nodes["B"].signal(signal.SIGKILL)
            two.start("B")
            assert {e["count"] for e in two.until(4)} == {0}
            two.finish("AB")
            assert two.ended("AB", 2) == [0, 0]
        server.signal(signal.SIGTERM)
        assert server.end(2) == 0


@pytest.fixture
def few_files():
    """Launchers may open as few files as is usual; afterwards the test itself raises the limit for its storm."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3 * STORM:
        pytest.skip(f"only {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (3 * STORM, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def knock(address: tuple[str, int]) -> list[socket.socket]:
    """Send noise, ask for a web page, and leave many connections standing; return these."""
    for noise in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(1 << 16), b"\0" + os.urandom(4096)):
        with socket.create_connection(address, 5) as guest:
            try:
                guest.sendall(noise)
                guest.recv(100)
            except OSError:
                pass  # thrown out in the middle of it: as it should be
    return [socket.create_connection(address, 5) for _ in range(STORM)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["c10d", "static"])
def test_32_strangers_at_the_ports_of_a_running_job(tmp_path, backend, few_files):
    with Job(tmp_path, "--max-restarts=1", nnodes="2", backend=backend) as job:
        job.start_all("AB")
        master, port = job.until(2)[0]["master"].split()
        host = job.nodes[job.host()]
        ports = {pid: listening(pid) for pid in (node.pid for node in job.nodes.values())}
        assert all(address.startswith("127.0.0.1:") for found in ports.values() for address in found)
        few_files()
        before = {pid: memory(pid) for pid in ports}
        held = knock((master, int(port)))
        if f"{master}:{port}" != job.endpoint:
            held += knock(("127.0.0.1", int(job.endpoint.rpartition(":")[2])))
        grown = max(memory(pid) - was for pid, was in before.items())
        print(f"memory grew by {grown >> 10} KiB")
        assert grown < GROWTH
        assert len(job.events()) == 2, "the job has not noticed"
        failed = job.poke("B")
        within(job.until(4)[3]["at"] - failed, 3, "restart in the middle of the storm")
        for sock in held:
            sock.close()
        wait_until(lambda: len(os.listdir(f"/proc/{host.pid}/fd")) < 60, 5, "room again")
        job.finish("AB")
        assert job.ended("AB", 2) == [0, 0]
        said = [line for node in job.nodes.values() for line in node.lines if "dropped" in line]
        assert 1 <= len(said) <= 6, "told, but not for each of them"
