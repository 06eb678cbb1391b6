"""How nodes meet: who is waited for, who is refused, what is said, how long it takes. Numbers as in FAULTS."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time

import pytest

from job import HOLD, Job, listening, within
from lab import FACTOR, free_port, wait_until

BACKENDS = pytest.mark.parametrize("backend", ["c10d", "static"])


@pytest.mark.parametrize("first", ["A", "B"])
def test_static_nodes_come_in_any_order(tmp_path, first):
    with Job(tmp_path, nnodes="2", backend="static") as job:
        job.start(first, "-v")
        if first == "A":
            job.nodes["A"].until("joined the store")
        else:
            job.nodes["B"].until("connection refused")
        job.start("AB".replace(first, ""))
        both = job.until(2)
        assert {e["node"]: e["rank"] for e in both} == {"A": 0, "B": 1}
        # The workers' store is at the very address that the user gave, on the port of the nodes' own.
        assert {e["master"] for e in both} == {job.endpoint.replace(":", " ")}
        assert listening(job.nodes["A"].pid) == {job.endpoint}


def test_static_address_and_port_as_torchrun_spells_them(tmp_path):
    port = free_port()
    with Job(tmp_path, nnodes="2", backend="static", endpoint="127.0.0.1:1") as job:
        job._options = ["--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
        job.start_all("AB")
        assert {e["master"] for e in job.until(2)} == {f"127.0.0.1 {port}"}
        job.finish("AB")
        assert job.ended("AB", 2) == [0, 0]


def test_15_no_last_call_once_all_are_there(tmp_path):
    with Job(tmp_path, nnodes="3:4") as job:
        job.start_all("ABC")
        begin = time.monotonic()
        job.start("D")
        within(job.until(4, world=4)[3]["at"] - begin, 1, "start after the fourth")


def test_15_last_call_for_the_fourth(tmp_path):
    with Job(tmp_path, nnodes="3:4", last_call_timeout=2) as job:
        job.start_all("AB")
        begin = time.monotonic()
        job.start("C", "-v").until("joined the store")
        joined = time.monotonic()
        first = job.until(3, world=3)[0]["at"]
        assert first - joined > 1.5 - FACTOR * 0.3
        within(first - begin, 2.5, "start after the third")


def test_more_nodes_than_max_stand_by_and_step_in(tmp_path):
    with Job(tmp_path, nnodes="1:2", last_call_timeout=1) as job:
        job.start_all("ABC")
        first = {e["node"] for e in job.until(2, world=2)}
        (spare,) = {*"ABC"} - first
        job.nodes[spare].until("standing by")
        lost = next(n for n in first if n != job.host())
        job.nodes[lost].signal(signal.SIGKILL)
        stepped_in = wait_until(lambda: job.events(node=spare, world=2), 5, "the spare's turn")[0]
        assert stepped_in["rank"] == next(e["rank"] for e in job.events() if e["node"] == lost)
        job.start("D").until("standing by")
        rest = "ABCD".replace(lost, "")
        job.finish(rest.replace("D", ""))
        assert job.ended(rest, 1) == [0, 0, 0]


@BACKENDS
def test_21_interrupted_while_waiting(tmp_path, backend):
    with Job(tmp_path, nnodes="3", backend=backend) as job:
        job.start("B", "-v").until("connection refused|joined the store")
        if backend == "static":
            interrupted(job, "B")
            job.start("B", "-v")
        job.start("A", "-v").until("joined the store")
        job.nodes["B"].until("joined the store")
        for name in "BA":
            interrupted(job, name)


def interrupted(job: Job, name: str) -> None:
    node = job.nodes[name]
    begin = time.monotonic()
    before = len(node.lines)
    node.signal(signal.SIGINT)
    assert node.end(5) == 130
    within(time.monotonic() - begin, 1, "end after Ctrl-C")
    assert 1 <= len(node.lines) - before <= 3, node.text


@pytest.mark.parametrize("endpoint", ["localhost:{}", "[::1]:{}", "[0:0:0:0:0:0:0:1]:{}"])
@BACKENDS
def test_29_endpoint_in_many_spellings(tmp_path, endpoint, backend):
    if "[" in endpoint and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with Job(tmp_path, nnodes="2", backend=backend, endpoint=endpoint.format(free_port())) as job:
        job.start_all("AB")
        both = job.until(2)
        assert len({e["master"] for e in both}) == 1 and sorted(e["rank"] for e in both) == [0, 1]
        job.finish("AB")
        assert job.ended("AB", 2) == [0, 0]


def test_30_three_of_four(tmp_path):
    with Job(tmp_path, nnodes="4") as job:
        begin = time.monotonic()
        for node in job.start_all("ABC"):
            line = node.until("waiting for nodes", limit=10)[0]
            assert re.search(r"3 of 4 nodes here \(.*, .*, .*\), 1 missing; store at 127.0.0.1", line)
        within(time.monotonic() - begin, 10, "all three say so")


@pytest.mark.parametrize(
    ("options", "field", "theirs", "ours"),
    [
        (["--rdzv-id=other"], "run id", "other", "none"),
        (["--nnodes=3"], "--nnodes", "3:3", "2:2"),
        (["--max-restarts=5"], "--max-restarts", "5", "0"),
    ],
)
@BACKENDS
def test_30_refused_with_the_differing_field_on_both_sides(tmp_path, backend, options, field, theirs, ours):
    with Job(tmp_path, "-v", nnodes="2", backend=backend) as job:
        job.start("A").until("joined the store")
        begin = time.monotonic()
        stranger = job.start("B", *options)
        assert stranger.end(5) == 77
        within(time.monotonic() - begin, 2, "refused")
        assert f"refused by the run at {job.endpoint}: {field} is '{theirs}' here, '{ours}' there" in stranger.text
        job.nodes["A"].until(f"was refused: {field} is '{theirs}' .*, '{ours}' ")
        job.start("B")
        job.until(2)


def test_static_place_taken_twice(tmp_path):
    with Job(tmp_path, "-v", nnodes="3", backend="static") as job:
        job.start_all("AB")
        for name in "AB":
            job.nodes[name].until("joined the store")
        second = job.start("C", "--node-rank=1")
        assert second.end(5) == 77
        assert "--node-rank is '1' here" in second.text and "taken by node" in second.text


@pytest.mark.parametrize("options", [["--rdzv-backend=static"], ["--rdzv-conf=is_host=true"]])
def test_port_in_use_is_said(tmp_path, options):
    with Job(tmp_path, nnodes="2") as job, socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        node = job.start("A", f"--rdzv-endpoint=127.0.0.1:{port}", *options)
        assert node.end(5) not in (0, 1)
        assert f"port {port} is in use by another program" in node.text and len(node.lines) <= 3


class Other:
    """Something that listens at ``port`` and is no store: it gives ``answer`` and hangs up, or (None) says nothing."""

    def __init__(self, answer: bytes | None) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._held: list[socket.socket] = []
        self._answer = answer
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            while True:
                guest, _ = self._server.accept()
                self._held.append(guest)
                if self._answer is not None:
                    guest.recv(1)
                    guest.sendall(self._answer)
                    guest.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        for sock in (self._server, *self._held):
            sock.close()


HTTP = b"HTTP/1.0 501 Unsupported method\r\nServer: SimpleHTTP\r\n\r\n"
REASONS = {
    "nobody": (None, ["connection refused", "nobody hosts the store"]),
    "name": (None, ["'no-such-host.invalid' does not resolve", "check its spelling"]),
    "http": (Other, ["something else listens", "choose another port"]),
    "silent": (Other, ["something listens there", "choose another port"]),
}


@pytest.mark.parametrize(
    ("case", "backend"), [("nobody", "c10d"), ("name", "static"), ("http", "static"), ("silent", "c10d")]
)
def test_time_out_says_what_was_tried_and_why_it_failed(tmp_path, case, backend):
    kind, words = REASONS[case]
    other = kind(HTTP if case == "http" else None) if kind else None
    port = other.port if other else free_port()
    host = "no-such-host.invalid" if case == "name" else "127.0.0.1"
    with Job(tmp_path, nnodes="2", backend=backend, endpoint=f"{host}:{port}", join_timeout=3, is_host="false") as job:
        begin = time.monotonic()
        node = job.start("B")
        assert node.end(10) == 75
        within(time.monotonic() - begin, 4, "gave up")
        for word in ("gave up after 3", "likely cause", f"{host}:{port}", *words):
            assert word in node.text, node.text
    if other:
        other.close()


@BACKENDS
def test_time_out_says_who_is_here_and_who_is_missing(tmp_path, backend):
    with Job(tmp_path, nnodes="3", backend=backend, join_timeout=3) as job:
        nodes = job.start_all("AB")
        assert job.ended("AB", 2) == [75, 75]
        for node in nodes:
            # The one whose time is over first leaves; the other may have learned that, and says so.
            two = r"2 of 3 nodes here \(.*, .*\), (1|node rank 2) missing"
            left = r"1 of 3 nodes here \(.*\), .* missing \(.* had come and left\)"
            assert re.search(f"gave up after 3.*: ({two}|{left})", node.text), node.text
            assert "the missing nodes never came" in node.text


def test_host_that_ends_first_waits_for_a_slow_node(tmp_path):
    slow = "if node == 'B':\n    signal.signal(signal.SIGTERM, lambda *_: (time.sleep(2), sys.exit(0)))\n" + HOLD
    with Job(tmp_path, nnodes="2", backend="static", program=slow) as job:
        job.start_all("AB", env={"CODE": "9"})
        job.until(2)
        job.poke("A")
        wait_until(lambda: job.nodes["B"].process.poll() is not None, 10)
        assert [job.nodes[n].end() for n in "AB"] == [9, 9]
        assert "lost the store" not in job.nodes["B"].text
