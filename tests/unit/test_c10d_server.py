"""The worker store on real sockets and the real loop, with clients that speak bytes."""

import os
import socket
import struct

import pytest

from rallypoint.c10d.codec import GREETING
from rallypoint.c10d.server import CHUNK, WorkerStore
from rallypoint.driver.loop import Loop
from rallypoint.net import Listener, listen


def s(data):
    return struct.pack("<Q", len(data)) + data


def ping(nonce):
    return b"\x0d" + nonce


class House:
    """A loop, a store and its listener; ``client`` connects to it."""

    def __init__(self, loop):
        self.loop = loop
        self.warnings = []
        self.store = WorkerStore(loop, self.warnings.append)
        self.listener = Listener(loop, listen("127.0.0.1", 0), self.store.adopt)
        self.socks = []

    def client(self, greeted=True):
        sock = socket.create_connection(("127.0.0.1", self.listener.port))
        self.socks.append(sock)
        before = self.store.clients
        self.until(lambda: self.store.clients > before)
        sock.setblocking(False)
        if greeted:
            assert self.ask(sock, GREETING + ping(b"helo"), 4) == b"helo"
        return sock

    def until(self, done):
        assert self.loop.run_until(done, 20), self.store

    def ask(self, sock, request, size):
        """Send all of ``request`` while reading ``size`` bytes of reply."""
        heard = bytearray()
        rest = memoryview(request)

        def turn():
            nonlocal rest
            try:
                while rest:
                    rest = rest[sock.send(rest) :]
            except BlockingIOError:
                pass
            try:
                heard.extend(sock.recv(1 << 20))
            except BlockingIOError:
                pass
            self.loop.soon(lambda: None)  # our own end of the socket is not on the loop
            return not rest and len(heard) >= size

        self.until(turn)
        return bytes(heard)

    def close(self):
        self.listener.close()
        self.store.close()
        for sock in self.socks:
            sock.close()


@pytest.fixture
def house():
    with Loop() as loop:
        house = House(loop)
        yield house
        house.close()


def test_clients_share_what_they_set(house):
    a, b = house.client(), house.client()
    assert house.ask(a, b"\x01" + s(b"k") + s(b"v") + ping(b"done"), 4) == b"done"
    assert house.ask(b, b"\x03" + s(b"k"), 9) == s(b"v")
    assert house.store.clients == 2


def test_a_set_wakes_a_client_that_waits(house):
    a, b = house.client(), house.client()
    assert house.ask(a, b"\x06" + struct.pack("<Q", 1) + s(b"k") + ping(b"wait"), 4) == b"wait"
    house.ask(b, b"\x01" + s(b"k") + s(b"v"), 0)
    assert house.ask(a, b"", 1) == b"\0"


def test_garbage_is_dropped_and_said_once(house):
    good = house.client()
    for noise in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(64) + b"\xff", GREETING + b"\xff" * 30):
        bad = house.client(greeted=False)
        bad.send(noise)
        house.until(lambda: house.store.clients == 1)
    assert len(house.warnings) == 1
    assert "127.0.0.1" in house.warnings[0] and "greeting" in house.warnings[0]
    assert house.ask(good, ping(b"here"), 4) == b"here"


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_dies_leaves_no_trace(house, reset):
    good, bad, waiting = house.client(), house.client(), house.client()
    house.ask(bad, b"\x01" + s(b"half") + struct.pack("<Q", 1000) + b"x" * 10, 0)
    assert house.ask(waiting, b"\x06" + struct.pack("<Q", 1) + s(b"k") + ping(b"wait"), 4) == b"wait"
    if reset:  # a reset instead of an orderly end
        bad.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    bad.close()
    waiting.close()
    house.until(lambda: house.store.clients == 1)
    assert repr(house.store) == "<WorkerStore 1 clients, <Content 0 keys, 0 queues, 0 keys awaited>>"
    assert house.ask(good, b"\x01" + s(b"k") + s(b"v") + ping(b"here"), 4) == b"here"
    assert house.warnings == []


def test_reset_drops_clients_and_content(house):
    a = house.client()
    house.ask(a, b"\x01" + s(b"k") + s(b"v") + ping(b"done"), 4)
    house.store.reset()
    assert house.store.clients == 0
    assert a.recv(1) == b""
    assert house.ask(house.client(), b"\x07", 8) == bytes(8)


def test_a_long_value_goes_both_ways(house):
    a = house.client()
    value = os.urandom(10_000_000)
    assert house.ask(a, b"\x01" + s(b"k") + s(value) + b"\x03" + s(b"k"), len(value) + 8) == s(value)
    assert house.ask(a, ping(b"here"), 4) == b"here"


def test_many_small_replies_at_once(house):
    a = house.client()
    nonces = [struct.pack("<I", i) for i in range(20_000)]
    assert house.ask(a, b"".join(map(ping, nonces)), 80_000) == b"".join(nonces)


def test_a_client_that_does_not_read_is_not_read_either(house):
    a, b = house.client(), house.client()
    house.ask(b, b"\x01" + s(b"k") + s(b"v" * 1_000_000) + ping(b"done"), 4)
    get = b"\x03" + s(b"k")
    client = next(c for c in house.store._clients if c.peer.endswith(f":{a.getsockname()[1]}"))
    count = 100
    house.ask(a, get, 0)
    house.ask(a, get * (count - 1), 0)
    house.until(lambda: client._writing)
    # What waits for it are references to one value, for one chunk of requests at most.
    assert len(client._session.out) <= 2 * CHUNK // len(get)
    assert house.ask(b, ping(b"here"), 4) == b"here"
    assert len(house.ask(a, b"", count * 1_000_008)) == count * 1_000_008
    assert not client._writing


def test_a_client_that_leaves_without_reading_is_dropped(house):
    a, b = house.client(), house.client()
    house.ask(b, b"\x01" + s(b"k") + s(b"v" * 10_000_000) + ping(b"done"), 4)
    client = next(c for c in house.store._clients if c.peer.endswith(f":{a.getsockname()[1]}"))
    a.send(b"\x03" + s(b"k"))
    house.until(lambda: client._writing)
    a.close()
    house.until(lambda: house.store.clients == 1)


def test_one_that_is_woken_may_be_gone(house):
    a, b = house.client(), house.client()
    assert house.ask(a, b"\x06" + struct.pack("<Q", 1) + s(b"k") + ping(b"wait"), 4) == b"wait"
    a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Both happen before the loop turns again: the order in which it finds them is open.
    b.send(b"\x01" + s(b"k") + s(b"v") + ping(b"done"))
    a.close()
    assert house.ask(b, b"", 4) == b"done"
    house.until(lambda: house.store.clients == 1)


def test_half_open_connections_cost_little(house):
    """2,000 of them; the whole test holds both ends, so what is measured is an upper bound."""
    good = house.client()

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    before = resident()
    for _ in range(40):
        wanted = house.store.clients + 50
        for _ in range(50):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", house.listener.port))
            house.socks.append(sock)
        house.until(lambda wanted=wanted: house.store.clients == wanted)
    assert resident() - before < 2000 * 2000
    assert house.ask(good, ping(b"here"), 4) == b"here"


def test_close_closes_everything(house):
    a = house.client()
    house.store.close()
    house.store.close()
    assert a.recv(1) == b""
    assert repr(house.store) == "<WorkerStore 0 clients, <Content 0 keys, 0 queues, 0 keys awaited>>"
