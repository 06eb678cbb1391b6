"""The store over TCP: the contract, and what happens when nodes, stores and connections die."""

from __future__ import annotations

import signal
import socket
import time

import pytest
from store_lab import (
    HERE,
    NODE,
    SERVER,
    MixedLab,
    TcpLab,
    process,
)

from rallypoint.net import Listener, Stream, listen
from rallypoint.store import client, wire
from rallypoint.testing import check_store
from rallypoint.testing.check_store import Node, Notes


@pytest.mark.parametrize("law", check_store.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("lab", [TcpLab, MixedLab, lambda: TcpLab("::1")], ids=["tcp", "mixed", "ipv6"])
def test_contract(lab, law):
    with lab() as opened:
        law(opened)


def test_a_killed_node_is_lost_at_once():
    with TcpLab() as lab, process(lab.loop, NODE, lab.host.port, "b", 60, 20) as node:
        watcher = Node(lab).up()
        seen = watcher.watch("nodes/")
        lab.until(lambda: seen and node.told("leased"), 30)
        start = lab.loop.now()
        node.signal(signal.SIGKILL)
        lab.until(lambda: len(seen) == 2)
        assert lab.loop.now() - start < 5  # of a ttl of 60
        assert (seen[1].key, seen[1].value, seen[1].left) == ("nodes/b", None, False)
        assert seen[1].reason in ("it closed the connection", "connection reset by peer")


def test_a_stopped_node_is_lost_after_its_ttl_and_joins_anew():
    ttl = 1.5
    with TcpLab() as lab, process(lab.loop, NODE, lab.host.port, "b", ttl, 0.5) as node:
        watcher = Node(lab).up()
        seen = watcher.watch("nodes/")
        lab.until(lambda: seen and node.told("leased"), 30)
        start = lab.loop.now()
        node.signal(signal.SIGSTOP)
        lab.until(lambda: len(seen) == 2)
        assert ttl - 0.6 <= lab.loop.now() - start < ttl + 5
        assert not seen[1].left
        assert seen[1].reason.startswith("unheard of for")
        node.signal(signal.SIGCONT)
        lab.until(lambda: len(seen) == 3)
        assert seen[2].value == "b"
        assert node.told("lost")
        assert [up[2] for up in node.told("up")] == [True, True]


def test_a_node_stopped_for_less_than_its_ttl_loses_nothing():
    with TcpLab() as lab, process(lab.loop, NODE, lab.host.port, "b", 6, 2) as node:
        watcher = Node(lab).up()
        seen = watcher.watch("nodes/")
        lab.until(lambda: seen and node.told("leased"), 30)
        node.signal(signal.SIGSTOP)
        assert not lab.run_until(lambda: len(seen) > 1, 2.5)
        node.signal(signal.SIGCONT)
        assert not lab.run_until(lambda: len(seen) > 1 or node.told("lost"), 1)


def test_a_store_killed_and_started_again_is_found_again():
    with TcpLab() as lab, process(lab.loop, SERVER, 0) as first:
        lab.until(lambda: first.lines, 30)
        port = int(first.lines[0])
        notes = Notes()
        store = lab.client(notes, port)
        seen, replies = [], []
        store.watch("", 0, seen.append)
        store.swap("plain", 0, 1, replies.append)
        store.lease("leased", 5, 1, replies.append)
        lab.until(lambda: len(seen) == 2)
        first.signal(signal.SIGKILL)
        lab.until(lambda: notes.count("lost") and notes.count("tried"))
        store.read("", replies.append)
        store.swap("new", 0, 1, replies.append)
        with process(lab.loop, SERVER, port) as second:
            lab.until(lambda: notes.count("up") == 2, 30)
            lab.until(lambda: len(seen) == 5)
            assert int(second.lines[0]) == port
        assert [note[2] for note in notes.told if note[0] == "up"] == [True, True]
        gone = sorted((e.key, e.value, e.left) for e in seen[2:4])
        assert gone == [("leased", None, False), ("plain", None, False)]
        assert seen[4].key == "new"
        assert [r.ok for r in replies] == [True, True, True, True]
        assert replies[2].entries == ()


def test_a_store_that_was_stopped_does_not_take_its_nodes_for_dead():
    with TcpLab() as lab, process(lab.loop, SERVER, 0) as server:
        lab.until(lambda: server.lines, 30)
        with process(lab.loop, NODE, server.lines[0], "b", 1.5, 10) as node:
            # No other signs of life than half a ttl apart, so at waking the deadline has passed.
            lab.until(lambda: node.told("leased"), 30)
            notes = Notes()
            watcher = lab.client(notes, int(server.lines[0]))
            seen = []
            watcher.watch("nodes/", 0, seen.append)
            lab.until(lambda: seen)
            node.signal(signal.SIGSTOP)
            server.signal(signal.SIGSTOP)
            assert not lab.run_until(lambda: notes.count("lost"), 3.2)
            server.signal(signal.SIGCONT)
            node.signal(signal.SIGCONT)
            assert not lab.run_until(lambda: len(seen) > 1, 1.0)


def test_a_node_that_slept_longer_than_its_ttl_does_not_blame_the_store():
    with TcpLab(ttl=1.0, interval=0.3) as lab, process(lab.loop, SERVER, 0) as server:
        lab.until(lambda: server.lines, 30)
        notes, replies = Notes(), []
        store = lab.client(notes, int(server.lines[0]))
        store.lease("k", 30, 1, replies.append)  # for so long the store keeps the session
        lab.until(lambda: replies)
        time.sleep(2)  # not to wait for something: the whole process is to be late
        assert not lab.run_until(lambda: notes.count("lost"), 0.6)


def test_a_write_in_flight_when_the_connection_goes_answers_an_error_and_a_read_is_asked_again():
    with TcpLab() as lab:
        node = Node(lab).up()
        replies = []
        node.store.swap("k", 0, 1, lambda r: replies.append(("swap", r)))
        node.store.read("k", lambda r: replies.append(("read", r)))
        for connection in tuple(lab.host.server._known):
            connection.end("cut by the test")
        node.store.lease("k2", 5, 1, lambda r: replies.append(("lease", r)))
        lab.until(lambda: len(replies) == 3)
        kinds = dict(replies)
        assert not kinds["swap"].ok and "the connection was lost before the answer came" in kinds["swap"].error
        assert kinds["lease"].error
        assert kinds["read"].ok
        assert node.notes.count("up") == 2


def test_a_value_too_large_is_an_error_and_not_the_end_of_the_connection(monkeypatch):
    monkeypatch.setattr(wire, "SESSION_LIMIT", 1000)
    with TcpLab() as lab:
        node = Node(lab).up()
        reply = node.swap("k", 0, "x" * 1000)
        assert not reply.ok
        assert "the value is too large: 10" in reply.error and "at most 1000" in reply.error
        assert node.swap("k", 0, "x" * 500).ok
        assert node.notes.count("lost") == 0


def test_no_descriptor_for_a_connection_is_told(monkeypatch):
    with TcpLab() as lab:

        def no_more(*_args, **_more):
            raise OSError(24, "Too many open files")

        notes = Notes()
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", no_more)
            lab.client(notes)
        lab.until(lambda: notes.count("up"))
        assert notes.told[0][2] == f"{HERE} cannot be used from here: Too many open files"


class Relay:
    """Passes bytes between a client and the host until it is frozen: then it swallows them."""

    def __init__(self, loop, port):
        self.loop, self.target, self.frozen, self.streams = loop, port, False, []
        self.listener = Listener(loop, listen(HERE, 0), self._accepted)

    def _accepted(self, sock):
        other = socket.create_connection((HERE, self.target))
        other.setblocking(False)
        pair = []
        for mine, index in ((sock, 1), (other, 0)):
            pair.append(Stream(self.loop, mine, self._passer(pair, index), lambda _reason: None))
        self.streams += pair

    def _passer(self, pair, index):
        frozen_at_birth = self.frozen
        return lambda data: pair[index].send(data) if frozen_at_birth or not self.frozen else None

    def close(self):
        self.listener.close()
        for stream in self.streams:
            stream.close()


def test_a_connection_that_died_without_a_word_is_noticed_and_the_lease_survives_on_the_next():
    with TcpLab(ttl=1.0, interval=0.3) as lab:
        relay = Relay(lab.loop, lab.host.port)
        notes, replies = Notes(), []
        store = lab.client(notes, relay.listener.port)
        store.lease("k", 30, 1, replies.append)  # longer than the session's own ttl: the store keeps the session
        lab.until(lambda: replies)
        watcher = Node(lab).up()
        seen = watcher.watch("k")
        start = lab.loop.now()
        relay.frozen = True
        lab.until(lambda: notes.count("lost"))
        assert 0.6 < lab.loop.now() - start < 5
        assert "nothing heard from the store for 1." in notes.told[1][1]
        lab.until(lambda: notes.count("up") == 2)
        assert notes.told[-1][2] is False, "the lease of before is still there"
        store.lease("k", 30, 2, replies.append)
        lab.until(lambda: len(seen) == 2)
        assert [e.value for e in seen] == [1, 2], "nobody saw it go"
        relay.close()


def test_who_does_not_read_is_dropped_when_too_much_waits_for_it():
    with TcpLab(ttl=60, interval=20) as lab:
        lab.host.server.buffer_limit = 1 << 20
        slow = lab.sockets(1)[0]
        slow.sendall(wire.PREFACE + wire.encode(wire.messages.Hello(1, client.__version__, "run", "slow", 60, "s")))
        slow.sendall(wire.encode(wire.messages.Watch(1, "")))
        lab.until(lambda: lab.host.server.sessions == 1)
        writer = Node(lab).up()
        others = writer.watch("view")
        revision, count = 0, 0
        while lab.host.server.sessions == 2 and count < 300:
            revision = writer.swap("view", revision, "x" * 200_000).revision
            count += 1
        assert lab.host.server.sessions == 1
        lab.until(lambda: len(others) == count)
        assert any("node 'slow'" in w and "does not read" in w for w in lab.warnings)
        slow.close()
