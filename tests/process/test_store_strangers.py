"""Who may not in: other runs, other versions, other programs, and crowds that say nothing."""

from __future__ import annotations

import socket

import pytest
from store_lab import (
    HERE,
    SERVER,
    TcpLab,
    cpu_seconds,
    hung_up,
    open_one,
    process,
    resident,
)

from rallypoint.net import listen
from rallypoint.store import client, door, wire
from rallypoint.store.tcp import Host
from rallypoint.testing.check_store import Node, Notes


def test_two_jobs_at_one_endpoint_the_second_is_refused_by_name():
    with TcpLab() as lab:
        mine, other = Notes(), Notes()
        first = open_one(lab, mine, run="first")
        lab.until(lambda: mine.count("up"))
        second = lab.client(other, first.port, run="second")
        replies = []
        second.read("", replies.append)
        lab.until(lambda: replies)
        assert other.told == [("refused", "run id", "second", "first")]
        assert replies[0].error == "refused: run id is 'second' here, 'first' there"
        second.swap("k", 0, 1, replies.append)
        lab.until(lambda: len(replies) == 2)
        assert len(lab.warnings) == 1
        assert "run id is 'second' there, 'first' here" in lab.warnings[0]
        second.close()
        first.read("", replies.append)
        lab.until(lambda: len(replies) == 3)
        assert replies[2].ok, "the first job goes on"


def test_a_standalone_store_keeps_runs_apart():
    with TcpLab(only_run=None) as lab:
        replies = []
        stores = [lab.client(Notes(), run=f"run{i}") for i in range(3)]
        for number, store in enumerate(stores):
            store.swap("view", 0, number, replies.append)
            store.read("", replies.append)
        lab.until(lambda: len(replies) == 6)
        assert sorted(r.entries[0].value for r in replies if r.entries) == [0, 1, 2]


@pytest.mark.parametrize(("name", "value", "field"), [("version", "0.0", "version"), ("protocol", 99, "protocol")])
def test_another_version_or_protocol_is_refused(name, value, field):
    with TcpLab() as lab:
        Node(lab).up()
        notes = Notes()
        late = lab.client(notes)
        late._hello = late._hello.replace(**{name: value})
        late._link._hello = late._hello
        lab.until(lambda: notes.count("refused"))
        assert field in notes.told[0][1]
        assert notes.told[0][2] == str(value)


STRANGERS = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303"),
    "noise": bytes(range(1, 256)),
    "preface and noise": wire.PREFACE + bytes(range(256)),
    "huge": wire.PREFACE + b"\xff\xff\xff\xff",
    "no hello": wire.PREFACE + wire.encode(wire.messages.Read(1, "")),
    "pickle": wire.PREFACE + b"\0\0\0\x06\x80\x04N.\x00\x00",
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_strangers_are_dropped_and_told_once(kind):
    with TcpLab() as lab:
        node = Node(lab).up()
        assert node.lease("k", 5, 1).ok
        socks = lab.sockets(3)
        for sock in socks:
            sock.sendall(STRANGERS[kind])
            sock.setblocking(False)
        for sock in socks:
            lab.until(lambda sock=sock: hung_up(sock))
            sock.close()
        assert len(lab.warnings) == 1
        assert lab.host.server.sessions == 1
        assert [e.value for e in node.read("k")] == [1]
        assert node.notes.count("lost") == 0


def test_half_open_connections_cost_little_and_go(monkeypatch):
    monkeypatch.setattr(door, "stranger_limit", lambda: 500)
    with TcpLab() as lab:
        lab.host.close()
        lab.host = Host(lab.loop, listen(HERE, 0), "run", lab.warnings.append)
        lab.host.door._silent._limit = 2.0
        node = Node(lab).up()
        before = resident()
        socks = []
        for _ in range(20):  # in parts, for the listener's queue
            socks += lab.sockets(100)
            lab.loop.turn(0)
        assert node.lease("k", 5, 1).ok
        lab.until(lambda: sum(hung_up(s) for s in socks) >= 1500)
        assert lab.host.door.silent <= 500
        assert resident() - before < 10 << 20
        late = Node(lab).up()
        assert [e.value for e in late.read("k")] == [1]
        lab.until(lambda: lab.host.door.silent == 0)
        assert node.notes.count("lost") == 0
        assert not lab.warnings, "who says nothing is nothing to speak of"
        for sock in socks:
            sock.close()


def test_half_a_hello_is_not_waited_for_for_ever():
    with TcpLab() as lab:
        lab.host.server._strangers._limit = 0.2
        sock = lab.sockets(1)[0]
        sock.sendall(wire.PREFACE + b"\0\0")
        sock.setblocking(False)
        lab.until(lambda: hung_up(sock))
        assert lab.host.server.sessions == 0
        sock.close()


FULL_HOUSE = (
    """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
"""
    + SERVER
)


def test_a_host_out_of_descriptors_neither_spins_nor_forgets_its_nodes():
    with TcpLab() as lab, process(lab.loop, FULL_HOUSE, 0) as server:
        lab.until(lambda: server.lines, 30)
        port = int(server.lines[0])
        notes = Notes()
        store = lab.client(notes, port, run="r")
        lab.until(lambda: notes.count("up"))
        full = []
        while not any("no connection can be accepted" in line for line in server.lines):
            assert len(full) < 300
            full += [socket.create_connection((HERE, port))]
            hello = wire.messages.Hello(1, client.__version__, "r", "x", 60, f"session {len(full)}")
            full[-1].sendall(wire.PREFACE + wire.encode(hello))
            lab.loop.turn(0.01)
        replies = []
        used = cpu_seconds(server.child.pid)
        assert not lab.run_until(lambda: False, 1.0)
        assert cpu_seconds(server.child.pid) - used < 0.3
        store.read("", replies.append)
        lab.until(lambda: replies)
        for sock in full:
            sock.close()
        late = Notes()
        lab.client(late, port, run="r")
        lab.until(lambda: late.count("up"), 20)
        assert notes.count("lost") == 0


def test_another_protocol_shares_the_port():
    with TcpLab() as lab:
        lab.host.close()
        got = []
        lab.host = Host(lab.loop, listen(HERE, 0), "run", lab.warnings.append, {0: got.append})
        sock = lab.sockets(1)[0]
        sock.sendall(b"\0\x3c\x85")
        lab.until(lambda: got)
        assert got[0].recv(10) == b"\0\x3c\x85", "nothing was read of it"
        got[0].close()
        sock.close()
        Node(lab).up()
