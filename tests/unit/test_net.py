"""Sockets on the reactor, with real ones."""

import os
import resource
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallypoint.driver.loop import Loop
from rallypoint.model.errors import UsageError
from rallypoint.net import Listener, Stream, join_endpoint, listen, split_endpoint


@pytest.fixture
def loop():
    with Loop() as it:
        yield it


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", ("host", 7)),
        ("host:1", ("host", 1)),
        (" host:1 ", ("host", 1)),
        ("host:", ("host", 7)),
        ("host:0", ("host", 0)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("[::1]", ("::1", 7)),
        ("[::1]:5", ("::1", 5)),
        ("::1", ("::1", 7)),
        ("fe80::1%eth0", ("fe80::1%eth0", 7)),
    ],
)
def test_split_endpoint(text, expected):
    assert split_endpoint(text, 7) == expected


@pytest.mark.parametrize(
    "text", ["", "  ", ":1", "h:65536", "h:-1", "h:x", "h:1.5", "h:\u0661", "[::1", "[::1]5", "[]:5"]
)
def test_split_endpoint_refuses(text):
    with pytest.raises(UsageError) as told:
        split_endpoint(text, 7, where="--store")
    assert told.value.where == "--store"


@given(st.sampled_from(["host", "10.0.0.1", "::1", "fe80::1"]), st.integers(0, 65535))
def test_join_is_read_back_by_split(host, port):
    assert split_endpoint(join_endpoint(host, port), 7) == (host, port)


class End:
    """A stream and what it was told."""

    def __init__(self, loop, sock, **more):
        self.data = b""
        self.closed = []
        self.stream = Stream(loop, sock, self.received, self.closed.append, **more)

    def received(self, data):
        self.data += data


@pytest.fixture
def pair(loop):
    socks = socket.socketpair()
    for sock in socks:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ends = [End(loop, sock) for sock in socks]
    yield ends
    for end in ends:
        end.stream.close()
    assert all(sock.fileno() < 0 for sock in socks)


def test_a_listener_hands_over_what_connects(loop):
    accepted = []
    listener = Listener(loop, listen("127.0.0.1", 0), accepted.append)
    clients = [socket.create_connection((listener.host, listener.port)) for _ in range(3)]
    assert loop.run_until(lambda: len(accepted) == 3, 5.0)
    assert all(not sock.getblocking() for sock in accepted)
    assert all(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for sock in accepted)
    assert f"127.0.0.1:{listener.port}" in repr(listener)
    listener.close()
    listener.close()
    assert repr(listener) == "<Listener closed>"
    with pytest.raises(OSError):
        socket.create_connection((listener.host, listener.port), timeout=1.0)
    for sock in (*clients, *accepted):
        sock.close()


def test_listening_twice_at_one_port_is_refused_and_leaves_nothing_open():
    sock = listen("127.0.0.1", 0)
    before = len(os.listdir("/proc/self/fd"))
    with sock, pytest.raises(OSError):
        listen("127.0.0.1", sock.getsockname()[1])
    assert len(os.listdir("/proc/self/fd")) <= before


def test_without_descriptors_a_listener_rests_instead_of_spinning(loop):
    accepted = []
    listener = Listener(loop, listen("127.0.0.1", 0), accepted.append)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.create_connection((listener.host, listener.port))
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    turns = 0
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(highest, client.fileno() + 1), hard))
        filler = []
        try:
            while True:
                filler.append(os.dup(0))
        except OSError:
            pass
        end = loop.now() + 0.2
        while loop.now() < end:
            loop.turn(end - loop.now())
            turns += 1
    finally:
        for fd in filler:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert turns < 10 and not accepted
    assert loop.run_until(lambda: accepted, 5.0), "it tries again by itself"
    listener.close()
    client.close()
    accepted[0].close()


def test_small_and_large_messages_arrive_whole_and_in_order(loop, pair):
    a, b = pair
    content = os.urandom(3_000_000)
    for start in range(0, len(content), 70_001):
        a.stream.send(content[start : start + 70_001])
    b.stream.send(b"and back")
    assert "bytes to send" in repr(a.stream)
    assert loop.run_until(lambda: len(b.data) == len(content) and a.data, 20.0)
    assert b.data == content and a.data == b"and back"
    assert "0 bytes to send" in repr(a.stream)
    assert a.closed == b.closed == []


def test_the_peer_hangs_up(loop, pair):
    a, b = pair
    a.stream.send(b"bye")
    a.stream.close()
    assert loop.run_until(lambda: b.closed, 5.0)
    assert (b.data, b.closed) == (b"bye", ["it closed the connection"])
    assert not b.stream.open and a.closed == [], "whoever closes is not told"
    b.stream.send(b"nobody hears")
    loop.turn(0.0)
    assert b.closed == ["it closed the connection"]
    assert repr(b.stream) == "<Stream closed>"


def test_sending_to_one_that_is_gone_is_told_once_and_later(loop):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    end = End(loop, ours)
    theirs.close()
    end.stream.send(b"x")
    end.stream.send(b"y")
    assert end.closed == [], "never from within send"
    assert loop.run_until(lambda: end.closed, 5.0)
    loop.turn(0.0)
    assert len(end.closed) == 1


def test_a_peer_that_does_not_read_is_given_up_at_the_limit(loop):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    end = End(loop, ours, limit=100_000)
    end.stream.send(bytes(90_000))
    loop.turn(0.0)
    assert end.closed == []
    end.stream.send(bytes(1_000_000))
    assert end.closed == []
    assert loop.run_until(lambda: end.closed, 5.0)
    assert "does not read" in end.closed[0]
    theirs.close()


def test_close_with_flush_sends_the_rest_first(loop, pair):
    a, b = pair
    content = os.urandom(500_000)
    a.stream.send(content)
    a.stream.close(flush=True)
    a.stream.send(b"too late")
    assert loop.run_until(lambda: b.closed, 10.0)
    assert b.data == content and not a.stream.open and a.closed == []


def test_close_with_flush_does_not_wait_for_ever(loop, pair, monkeypatch):
    monkeypatch.setattr("rallypoint.net.FLUSH_LIMIT", 0.01)
    a, b = pair
    loop.remove_reader(b.stream._fd)
    a.stream.send(bytes(1_000_000))
    a.stream.close(flush=True)
    assert a.stream.open
    assert loop.run_until(lambda: not a.stream.open, 5.0)


def test_close_with_nothing_to_flush_is_at_once(loop, pair):
    a, _ = pair
    a.stream.close(flush=True)
    a.stream.close()
    assert not a.stream.open


def test_a_stream_may_be_closed_from_its_own_callback(loop, pair):
    a, b = pair
    b.stream._received = lambda _data: b.stream.close()
    a.stream.send(b"x")
    assert loop.run_until(lambda: a.closed, 5.0)
    assert b.closed == []
