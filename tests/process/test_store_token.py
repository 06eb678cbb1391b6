"""The run token: who does not know it gets nothing, in either direction, and nothing that was heard helps."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import time
from pathlib import Path

import pytest

from job import Job, listening
from lab import Launch, script, wait_until
from rallypoint.driver.loop import Loop
from rallypoint.model.value import Secret
from rallypoint.store import wire
from rallypoint.store.client import Member, TcpStore
from rallypoint.store.messages import PROTOCOL, Hello
from rallypoint.store.tcp import serve
from rallypoint.store.token import NODE, STORE, nonce, proof

TOKEN = "not to be seen anywhere"
HELLO = Hello(PROTOCOL, "0.1.0", "run", "n1", 9.0, "session", nonce=nonce())


class Peer:
    """A store with a token, and a socket to it that speaks the protocol by hand."""

    def __init__(self, token=TOKEN):
        self.warned = []
        self.loop = Loop()
        self.store = serve(self.loop, "127.0.0.1", 0, self.warned.append, token)
        self.connect()

    def connect(self):
        self.sock = socket.create_connection(("127.0.0.1", self.store.port))
        self.sock.setblocking(False)
        self.sock.sendall(wire.PREFACE)
        self.heard = b""

    def say(self, op, **fields):
        body = json.dumps({"op": op, **fields}).encode()
        self.sock.sendall(struct.pack(">I", len(body)) + body)

    def hello(self, **changes):
        self.say("hello", **(HELLO.as_dict() | changes))

    def answer(self):
        """The next message, or "closed"."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            self.loop.turn(0.02)
            try:
                piece = self.sock.recv(65536)
                self.heard += piece
            except BlockingIOError:
                piece = b"-"
            text = self.heard.removeprefix(wire.PREFACE)
            if len(text) >= 4 and len(text) >= 4 + (size := struct.unpack(">I", text[:4])[0]):
                self.heard = text[4 + size :]
                return json.loads(text[4 : 4 + size])
            if not piece:
                return "closed"
        raise AssertionError("no answer")

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.sock.close()
        self.store.close()
        self.loop.close()


def test_both_prove_it_before_anything_else_is_said():
    with Peer() as peer:
        peer.hello()
        challenge = peer.answer()
        assert challenge["op"] == "challenge"
        assert challenge["proof"] == proof(TOKEN, STORE, HELLO, challenge["nonce"])
        assert peer.store.server.sessions == 0
        peer.say("proof", proof=proof(TOKEN, NODE, HELLO, challenge["nonce"]))
        assert peer.answer()["op"] == "welcome"


@pytest.mark.parametrize("wrong", ["another token", "reflected", "empty", "of another hello"])
def test_what_is_no_proof(wrong):
    with Peer() as peer:
        peer.hello()
        theirs = peer.answer()
        said = {
            "another token": proof("guess", NODE, HELLO, theirs["nonce"]),
            "reflected": theirs["proof"],
            "empty": "",
            "of another hello": proof(TOKEN, NODE, HELLO.replace(nonce=nonce()), theirs["nonce"]),
        }[wrong]
        peer.say("proof", proof=said)
        assert peer.answer() == {"op": "refused", "field": "the run token", "mine": "another", "theirs": "given"}
        assert peer.answer() == "closed"
        assert len(peer.warned) == 1 and TOKEN not in peer.warned[0]


def test_a_recorded_proof_is_worth_nothing_the_next_time():
    with Peer() as peer:
        peer.hello()
        recorded = proof(TOKEN, NODE, HELLO, peer.answer()["nonce"])
        peer.say("proof", proof=recorded)
        assert peer.answer()["op"] == "welcome"
        peer.sock.close()
        peer.connect()
        peer.hello()
        assert peer.answer()["op"] == "challenge"
        peer.say("proof", proof=recorded)
        assert peer.answer()["op"] == "refused"


@pytest.mark.parametrize(
    "first", [("read", {"id": 1, "prefix": ""}), ("proof", {"proof": "x"}), ("hello", HELLO.as_dict())]
)
def test_out_of_turn(first):
    """Before the proof nothing is answered, and nobody greets twice."""
    op, fields = first
    with Peer() as peer:
        if op != "proof":
            peer.hello()
            assert peer.answer()["op"] == "challenge"
        peer.say(op, **fields)
        assert peer.answer() == "closed"


class Watcher:
    def __init__(self):
        self.told = []

    def store_up(self, address, fresh):
        self.told.append("up")

    def store_tried(self, where, reason, attempt):
        pass

    def store_lost(self, reason, silent):
        self.told.append("lost")

    def store_refused(self, field, mine, theirs):
        self.told.append((field, mine, theirs))


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        ("a", "a", "up"),
        ("", "", "up"),
        ("a", "b", ("the run token", "given", "another")),
        ("", "b", ("the run token", "none", "given")),
        ("a", "", ("the run token", "given", "none")),
    ],
)
def test_node_and_store(ours, theirs, told):
    with Peer(theirs) as peer:
        watcher = Watcher()
        member = Member("run", "n1", 9.0, 3.0, None, Secret(ours))
        store = TcpStore(peer.loop, watcher, "127.0.0.1", peer.store.port, member)
        assert peer.loop.run_until(lambda: watcher.told, 10)
        assert watcher.told == [told]
        store.close()


def test_a_run_with_a_token_and_those_who_do_not_know_it(tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    with Job(tmp_path, nnodes="2", token_file=token) as job:
        first = job.start("A")
        wait_until(lambda: job.endpoint in listening(first.pid), 10, "A hosts the store")
        for name, value in (("B", "guess"), ("C", "")):
            other = Job(tmp_path, nnodes="2", endpoint=job.endpoint)
            with other:
                it = other.start(name, env={"RALLYPOINT_TOKEN": value})
                assert it.end(10) == 77
                assert "the run token is" in it.text
        job.nodes["A"].until("was refused: the run token is")
        job.start("D")
        job.until(2)
        for launch in job.all:
            for pid in launch.alive():
                assert TOKEN not in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
                assert TOKEN.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
            assert TOKEN not in launch.text
        job.finish("AD")
        assert job.ended("AD", 3) == [0, 0]


def test_workers_are_not_told_the_token(tmp_path):
    with Launch(
        script(tmp_path, "say('token', os.environ.get('RALLYPOINT_TOKEN'))"), env={"RALLYPOINT_TOKEN": TOKEN}
    ) as it:
        assert it.end() == 0
    assert it.out == ["token None"]


@pytest.mark.parametrize(
    ("mode", "content", "words"),
    [(0o644, "x", "others may read it: chmod 600"), (0o600, " \n", "it is empty"), (None, "", "it cannot be read")],
)
def test_a_file_that_is_no_secret(tmp_path, mode, content, words):
    path = tmp_path / "token"
    if mode is not None:
        path.write_text(content)
        os.chmod(path, mode)
    options = ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:1", f"--rdzv-conf=token_file={path}"]
    with Launch(*options, script(tmp_path, "")) as it:
        assert it.end() == 2
    assert re.search(rf"--rdzv-conf token_file: .*{words}", it.text)
