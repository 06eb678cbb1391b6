"""The health check: real sockets, the real loop."""

import json
import socket

import pytest

from rallypoint.driver.health import CLIENTS, Health, open_health
from rallypoint.driver.loop import Loop
from rallypoint.driver.services import HEALTH_PORT
from rallypoint.model.event import Exited, Spawned, Started, ViewSeen
from rallypoint.model.node import RUNNING, View
from rallypoint.model.order import Decision
from rallypoint.model.result import Exit, WorkerId
from rallypoint.model.spec import Spec
from rallypoint.net import listen

LIMIT = 20.0


@pytest.fixture
def loop():
    with Loop() as loop:
        yield loop


@pytest.fixture
def health(loop):
    health = Health(loop, listen("127.0.0.1", 0), "job")
    yield health
    health.close()


def ask(loop, health, request):
    """Send ``request`` and return all that comes back until the end of the connection."""
    with socket.create_connection(("127.0.0.1", health.port)) as client:
        client.setblocking(False)
        client.sendall(request)
        got = []

        def read():
            got.append(client.recv(65536))
            if not got[-1]:
                loop.remove_reader(client.fileno())

        loop.add_reader(client.fileno(), read)
        assert loop.run_until(lambda: got and not got[-1], LIMIT)
        return b"".join(got)


def status(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize("path", ["/healthz", "/health", "/", "/healthz?verbose=1"])
def test_it_says_that_it_lives_before_any_rendezvous(loop, health, path):
    code, body = status(ask(loop, health, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()))
    assert code == 200
    assert json.loads(body) == {"status": "alive", "run_id": "job", "round": 0, "phase": "joining", "workers": 0}


def test_it_tells_of_round_and_workers(loop, health):
    worker = WorkerId(3, 0)
    for event in (
        Started(),
        ViewSeen(View(round=3, phase=RUNNING, restarts=2), 7),
        Spawned(worker, 1),
        Spawned(worker, 2),
    ):
        health(Decision(0.0, event))
    health(Decision(0.0, Exited(worker, Exit(1, 0))))
    _, body = status(ask(loop, health, b"GET /healthz HTTP/1.0\n\n"))
    facts = json.loads(body)
    assert (facts["round"], facts["phase"], facts["restarts"], facts["workers"]) == (3, "running", 2, 1)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GET /metricz HTTP/1.1\r\n\r\n", 404),
        (b"POST /healthz HTTP/1.1\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01" + b"x" * 9000, 400),
        (b"GET / FTP/1\r\n\r\n", 400),
    ],
)
def test_other_requests(loop, health, request_, code):
    assert status(ask(loop, health, request_))[0] == code


def test_head_has_no_body(loop, health):
    answer = ask(loop, health, b"HEAD /healthz HTTP/1.1\r\n\r\n")
    assert status(answer) == (200, b"") and b"Content-Length: 8" in answer


def test_too_many_clients_are_turned_away(loop, health):
    clients = [socket.create_connection(("127.0.0.1", health.port)) for _ in range(CLIENTS + 1)]
    assert loop.run_until(lambda: f"{CLIENTS} clients" in repr(health), LIMIT)
    gone = []
    loop.add_reader(clients[-1].fileno(), lambda: gone.append(clients[-1].recv(1)))
    assert loop.run_until(lambda: gone, LIMIT) and gone[0] == b""
    loop.remove_reader(clients[-1].fileno())
    for client in clients:
        client.close()
    assert loop.run_until(lambda: " 0 clients" in repr(health), LIMIT)


def test_a_port_that_does_not_work_is_said(loop, health):
    said = []

    def opened(text):
        return open_health(Spec(("true",), {HEALTH_PORT: text}), loop, said.append)

    assert opened("") is None and said == []
    assert opened("x") is None and opened("70000") is None
    assert said.pop(0) == f"{HEALTH_PORT}=x is no port: there is no health check"
    assert opened(str(health.port)) is None
    assert "Address already in use" in said[-1]
    free = opened("0")
    assert free is not None and free.port
    free.close()
