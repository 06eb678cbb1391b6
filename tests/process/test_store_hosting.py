"""How nodes find the store, what they are told when they cannot, and who hosts it."""

from __future__ import annotations

import socket

import pytest
from store_lab import (
    HERE,
    TcpLab,
    open_one,
)

from rallypoint.model.errors import StoreError
from rallypoint.net import Listener, Stream, listen
from rallypoint.store import link, wire
from rallypoint.store.pause import FIRST_PAUSE
from rallypoint.store.server import StoreServer
from rallypoint.store.tcp import serve
from rallypoint.testing.check_store import Node, Notes


def test_a_name_that_does_not_resolve_is_told_and_asked_again(monkeypatch):
    asked = []

    def ask(host, *_args, **_more):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    with TcpLab() as lab:
        lab.at = "nowhere.invalid"
        notes = Notes()
        lab.client(notes)
        assert not notes.told
        lab.until(lambda: notes.count("tried") == 3)
        _, where, reason, attempt = notes.told[2]
        assert where == f"nowhere.invalid:{lab.host.port}"
        assert reason == "the name 'nowhere.invalid' does not resolve: Name or service not known"
        assert attempt == 3
        lab.stores[0].close()
        lab.at = HERE


@pytest.mark.parametrize("at", [HERE, "::1", "localhost"])
def test_addresses_ask_no_resolver(monkeypatch, at):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **_: pytest.fail(f"the resolver was asked {a}"))
    with TcpLab() as lab:
        notes = [Notes(), Notes()]
        lab.at = at
        first = open_one(lab, notes[0])
        lab.client(notes[1], first.port)
        lab.until(lambda: all(n.count("up") for n in notes))
        address = "::1" if at == "::1" else HERE
        assert [n.told[0] for n in notes] == [("up", address, True)] * 2


def test_nobody_there_is_told_with_growing_pauses():
    with socket.socket() as free:
        free.bind((HERE, 0))
        port = free.getsockname()[1]
        with TcpLab() as lab:
            notes = Notes()
            start = lab.loop.now()
            lab.client(notes, port)
            lab.until(lambda: notes.count("tried") == 5)
            shortest = 0.75 * sum(FIRST_PAUSE * 2**n for n in range(4))
            assert lab.loop.now() - start >= shortest
            assert notes.told[0] == ("tried", f"{HERE}:{port}", "connection refused", 1)


def other_program(loop, answer):
    """Listen, and answer every connection with ``answer`` (None: close it at once; b"": say nothing)."""
    streams = []

    def accepted(sock):
        stream = Stream(loop, sock, lambda _data: None, lambda _reason: None)
        streams.append(stream)
        if answer is None:
            stream.close()
        elif answer:
            stream.send(answer)

    return Listener(loop, listen(HERE, 0), accepted), streams


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "something else listens there: it answered b'HTTP/1.1 400 Bad Request"),
        (None, "something listens there but answers no hello: "),
        (b"", "something listens there but has not answered our hello within 0.5 s"),
    ],
)
def test_something_else_at_the_port_is_told(answer, words):
    with TcpLab(ttl=0.5) as lab:
        listener, streams = other_program(lab.loop, answer)
        notes = Notes()
        lab.client(notes, listener.port)
        lab.until(lambda: notes.count("tried"))
        assert words in notes.told[0][2]
        lab.stores[0].close()
        listener.close()
        for stream in streams:
            stream.close()


def test_a_local_address_is_used_and_a_wrong_one_is_told():
    with TcpLab() as lab:
        right, wrong = Notes(), Notes()
        lab.client(right, local_addr="127.0.0.5")
        lab.client(wrong, local_addr="192.0.2.1")
        lab.until(lambda: right.told and wrong.told)
        assert right.told == [("up", "127.0.0.5", True)]
        assert wrong.told[0][2] == f"{HERE} cannot be used from 192.0.2.1: Cannot assign requested address"


def test_a_connection_that_meets_itself_is_no_store(monkeypatch):
    monkeypatch.setattr(socket.socket, "getpeername", socket.socket.getsockname)
    with TcpLab() as lab:
        notes = Notes()
        lab.client(notes)
        lab.until(lambda: notes.told)
        assert notes.told[0][:1] + notes.told[0][2:] == ("tried", "connection refused", 1)


def test_who_binds_the_endpoint_hosts_and_after_its_death_another_takes_over():
    with TcpLab() as lab:
        notes = [Notes(), Notes(), Notes()]
        first = open_one(lab, notes[0])
        port = first.port
        others = [open_one(lab, n, port) for n in notes[1:]]
        lab.until(lambda: all(n.count("up") for n in notes))
        assert [s.hosting for s in (first, *others)] == [True, False, False]
        assert (first.address, first.where) == (HERE, f"{HERE}:{port}")
        seen, replies = [], []
        others[0].watch("", 0, seen.append)
        first.swap("view", 0, "old", replies.append)
        others[1].lease("nodes/2", 5, 1, replies.append)
        lab.until(lambda: len(seen) == 2)
        first.close()
        lab.until(lambda: all(n.count("up") == 2 for n in notes[1:]))
        assert sorted(s.hosting for s in others) == [False, True]
        assert all(n.told[-1][2] for n in notes[1:]), "a new store is fresh"
        lab.until(lambda: len(seen) == 4)
        assert {(e.key, e.value) for e in seen[2:]} == {("view", None), ("nodes/2", None)}
        others[1].swap("view", 0, "new", replies.append)
        lab.until(lambda: len(seen) == 5)
        assert (seen[4].key, seen[4].value) == ("view", "new")


def test_a_host_that_must_and_cannot_says_what_helps():
    with TcpLab() as lab:
        with pytest.raises(
            StoreError, match=r"port \d+ is in use by another program or job.*give the endpoint another"
        ):
            open_one(lab, Notes(), lab.host.port, is_host=True)
        lab.at = "192.0.2.1"
        with pytest.raises(StoreError, match=r"192.0.2.1 is no address of this machine: start this node on"):
            open_one(lab, Notes(), 29400, is_host=True)
        with pytest.raises(StoreError, match="cannot listen there"):
            serve(lab.loop, "192.0.2.1", 29400, print)
        lab.at = HERE


def test_who_must_not_host_does_not():
    with socket.socket() as free:
        free.bind((HERE, 0))
        port = free.getsockname()[1]
    with TcpLab() as lab:
        notes = Notes()
        store = open_one(lab, notes, port, is_host=False)
        lab.until(lambda: notes.count("tried") == 2)
        assert not store.hosting
        lab.host.close()
        lab.host = lab.new_host(port)
        lab.until(lambda: notes.count("up"))


@pytest.mark.parametrize(("elastic", "bound"), [(True, "0.0.0.0"), (False, "127.0.1.1")])
def test_a_name_that_means_loopback_here_is_bound_everywhere_if_others_come(monkeypatch, elastic, bound):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: found)
    with TcpLab() as lab:
        lab.at = "myself"
        notes = [Notes(), Notes()]
        store = open_one(lab, notes[0], elastic=elastic)
        lab.until(lambda: notes[0].told)
        assert store.address == bound
        assert notes[0].told == [("up", "myself" if elastic else "127.0.1.1", True)]
        open_one(lab, notes[1], store.port)
        lab.until(lambda: notes[1].told)
        assert notes[1].told == [("up", "myself", True)], "peers elsewhere reach this machine by its name"
        lab.at = HERE


def test_lingering_ends_with_the_last_node_or_the_time():
    with TcpLab() as lab:
        notes = [Notes(), Notes()]
        first = open_one(lab, notes[0])
        second = open_one(lab, notes[1], first.port)
        lab.until(lambda: all(n.told for n in notes))
        done = []
        first.linger(0.2, lambda: done.append("time"))
        lab.until(lambda: done)
        first.linger(60, lambda: done.append("empty"))
        assert not lab.run_until(lambda: len(done) > 1, 0.2)
        second.linger(60, lambda: done.append("client"))
        lab.until(lambda: len(done) == 2)
        second.close()
        lab.until(lambda: len(done) == 3)
        assert done == ["time", "client", "empty"]
        first.linger(60, lambda: done.append("never"))
        first.close()
        assert not lab.run_until(lambda: len(done) > 3, 0.1)


def test_a_change_is_encoded_once_for_all(monkeypatch):
    with TcpLab(ttl=60, interval=20) as lab:
        nodes = [Node(lab).up() for _ in range(30)]
        seen = [node.watch("view") for node in nodes]
        encoded = []
        real = wire.encode
        monkeypatch.setattr(wire, "encode", lambda m: (encoded.append(type(m).__name__), real(m))[1])
        assert nodes[0].swap("view", 0, "x" * 50_000).ok
        lab.until(lambda: all(seen))
        assert sorted(encoded) == ["Answer", "Changed", "Swap"]


def test_reprs_tell_the_state():
    with TcpLab() as lab:
        node = Node(lab)
        assert "out of reach" in repr(node.store)
        assert repr(node.store._link) == "<Link connecting>"
        node.up()
        assert repr(node.store._link) == "<Link up>"
        port = lab.host.port
        assert repr(lab.host) == (f"<Host <Door {HERE}:{port}, 0 silent>, <StoreServer 1 sessions, 0 strangers>>")
        (connection,) = lab.host.server._known
        assert "Session of 'n0'" in repr(connection)
        assert isinstance(lab.host.server, StoreServer)
        assert link.PATIENCE > 0
