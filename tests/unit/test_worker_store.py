"""The workers' store client, against torch's own server and against servers that misbehave."""

import socket
import threading
import time

import pytest

from rallypoint.worker.store import Store, connect

CONTACT = "no worker store at"


@pytest.fixture
def environ():
    """The environment of a worker whose launcher is torch's TCPStore server."""
    distributed = pytest.importorskip("torch.distributed")
    server = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port), "TORCHELASTIC_RUN_ID": "r", "server": server}


@pytest.fixture
def pair(environ):
    with connect(10, environ) as one, connect(10, environ) as two:
        yield one, two


@pytest.mark.torch
def test_values_reach_the_other_client(pair):
    one, two = pair
    one.set("k", b"\x00\xff" * 2_000_000)
    assert two.get("k") == b"\x00\xff" * 2_000_000
    one.set("k", b"")
    assert two.get("k", 5) == b""
    assert one.add("n", 5) == 5 and two.add("n", -7) == -2
    assert two.delete("k") is True and one.delete("k") is False


@pytest.mark.torch
def test_get_waits_for_the_value(pair):
    one, two = pair
    timer = threading.Timer(0.05, one.set, ("late", b"v"))
    timer.start()
    assert two.get("late") == b"v"
    timer.join()


@pytest.mark.torch
def test_a_wait_that_times_out_says_what_is_missing_and_the_client_goes_on(pair):
    one, two = pair
    one.set("there", b"1")
    begin = time.monotonic()
    with pytest.raises(
        TimeoutError, match=r"nobody set 'there', 'never' in the worker store at 127.0.0.1:\d+ within 0.1"
    ):
        two.wait(["there", "never"], 0.1)
    assert 0.1 <= time.monotonic() - begin < 5
    assert two.get("there") == b"1"
    two.wait(["there"])


@pytest.mark.torch
def test_keys_of_restarts_and_of_torch_stay_apart(environ):
    with connect(10, environ) as first, connect(10, environ | {"TORCHELASTIC_RESTART_COUNT": "1"}) as second:
        first.set("k", b"1")
        environ["server"].set("k", b"torch")
        with pytest.raises(TimeoutError):
            second.get("k", 0.05)
        assert first.get("k") == b"1"


@pytest.mark.torch
def test_barrier_again_and_again(environ):
    log = []

    def work(number):
        with connect(10, environ) as store:
            for step in range(5):
                log.append(step)
                store.barrier("b", 3)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log == sorted(log) and len(log) == 15
    with connect(10, environ) as store, pytest.raises(TimeoutError, match="barrier/b/5"):
        store.barrier("b", 3, 0.05)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def answering(listener, *answers):
    """Answer each message on the first connection with the next of ``answers``, then hang up."""

    def serve():
        peer, _ = listener.accept()
        with peer:
            for answer in answers:
                peer.recv(4096)
                peer.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


PONG = b"LLAR"


def test_nobody_listens():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # taken, but nobody listens
        port = sock.getsockname()[1]
        with pytest.raises(ConnectionError, match=rf"{CONTACT} 127.0.0.1:{port} within 0.2 s: .*refused"):
            connect(0.2, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})


def test_a_listener_that_comes_late_is_found():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))

        def late():
            sock.listen()
            answering(sock, PONG)

        timer = threading.Timer(0.15, late)
        timer.start()
        Store("127.0.0.1", sock.getsockname()[1], timeout=10).close()
        timer.join()


def test_something_else_listens(listener):
    thread = answering(listener, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ConnectionError, match="is no worker store"):
        Store("127.0.0.1", listener.getsockname()[1], timeout=5)
    thread.join()


def test_a_silent_listener(listener):
    with pytest.raises(ConnectionError, match=r"no answer within 0\.1 s"):
        Store("127.0.0.1", listener.getsockname()[1], timeout=0.1)


def test_server_hangs_up(listener):
    thread = answering(listener, PONG, b"\x01\x00")
    store = Store("127.0.0.1", listener.getsockname()[1], timeout=5)
    with pytest.raises(ConnectionError, match="lost the worker store at"):
        store.add("n", 1)
    assert "closed" in repr(store)
    with pytest.raises(ConnectionError, match="is closed"):
        store.add("n", 1)
    thread.join()


def test_answer_that_crosses_the_cancelling_counts(listener):
    """The key comes at the moment the client gives up: both answers arrive, and the wait has succeeded."""
    gate = threading.Event()

    def serve():
        peer, _ = listener.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(PONG)
            peer.recv(4096)  # WAIT: say nothing until the cancelling is here
            assert peer.recv(1) == b"\x0c"
            peer.sendall(b"\x00\x01")
            gate.wait(10)

    thread = threading.Thread(target=serve)
    thread.start()
    with Store("127.0.0.1", listener.getsockname()[1], timeout=5) as store:
        store.wait(["k"], 0.05)
        gate.set()
    thread.join()


def test_impossible_size(listener):
    thread = answering(listener, PONG, b"\x00", b"\xff" * 8)
    with Store("127.0.0.1", listener.getsockname()[1], timeout=5) as store:
        with pytest.raises(ConnectionError, match="announced a value of"):
            store.get("k")
        assert "closed" in repr(store)
    thread.join()


def test_outside_a_launcher():
    with pytest.raises(KeyError, match="MASTER_ADDR is not set"):
        connect(1, {})
