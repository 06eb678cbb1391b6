"""The tcp store at several endpoints: one serves, the next takes over, and a minority gets nothing done."""

import contextlib
import re
import signal
import socket
import sys
import time

import pytest
from store_lab import HERE, TcpLab

from certs import OPENSSL, Certificates
from job import HB, Job, listening, within
from lab import Launch, script
from rallypoint import __version__
from rallypoint.driver.loop import Loop
from rallypoint.model.value import Secret
from rallypoint.net import join_endpoint, listen
from rallypoint.store import wire
from rallypoint.store.client import Member, TcpStore
from rallypoint.store.messages import PROTOCOL, Hello, Refusal, Welcome
from rallypoint.store.seats.seat import Seat
from rallypoint.store.seats.store import SeatsStore
from rallypoint.store.tls import identity
from rallypoint.testing import check_store
from rallypoint.testing.check_store import Node, Notes


def free_places(count=3, host=HERE):
    """Endpoints that nobody listens at."""
    held = [listen(HERE, 0) for _ in range(count)]
    places = tuple((host, sock.getsockname()[1]) for sock in held)
    for sock in held:
        sock.close()
    return places


class SeatsLab(TcpLab):
    """Seats for all endpoints on one loop, and nodes that hold none; ``seats`` are closed one by one by the tests."""

    def __init__(self, count=3, host=HERE, ttl=5.0, **more):
        super().__init__(ttl=ttl)
        self.places = free_places(count, host)
        self.more, self.seats = more, []

    def __enter__(self):
        self.loop = Loop()
        for number, (_, port) in enumerate(self.places):
            sock = listen(HERE, port)
            member = self.member(f"s{number}")
            seat = Seat(self.loop, sock, number, self.places, member, self.warnings.append, lambda: None)
            self.seats.append(seat)
        self.until(self.serving)
        return self

    def shut(self):
        for seat in self.seats:
            seat.close()

    def member(self, name):
        endpoints = ",".join(join_endpoint(*place) for place in self.places)
        return Member("run", name, self.ttl, self.interval, endpoints=endpoints, **self.more)

    def open(self, watcher, places=None, **more):
        member = self.member(f"n{len(self.stores)}").replace(**more)
        where = self.places if places is None else places
        self.stores.append(SeatsStore(self.loop, watcher, where, member, is_host=False, warn=self.warnings.append))
        return self.stores[-1]

    def serving(self):
        return [seat.number for seat in self.seats if seat.serving]


@pytest.mark.parametrize("law", check_store.LAWS, ids=lambda law: law.__name__)
def test_contract(law):
    with SeatsLab() as lab:
        law(lab)


@pytest.mark.parametrize("host", [HERE, "localhost"])
def test_the_next_takes_over_with_an_empty_store(host):
    with SeatsLab(5, host) as lab:
        node = Node(lab).up()
        assert lab.serving() == [0]
        node.swap("key", 0, "value")
        for gone in (0, 1):
            lab.seats[gone].close()
            lab.until(lambda gone=gone: node.notes.count("up") == gone + 2)
            assert lab.serving()[-1] == gone + 1
            assert node.notes.told[-1][2] is True, "it is told that nothing of it is there any more"
            assert node.read("key") == []
        lab.seats[2].close()
        lab.until(
            lambda: any("2 of 5 endpoints are open, a majority of 3 is needed" in str(t) for t in node.notes.told)
        )
        assert lab.serving()[3:] == []


def test_a_seat_that_loses_the_majority_tells_its_nodes_that_they_have_been_alone():
    with SeatsLab() as lab:
        told = []
        node = Node(lab).up()
        node.notes.store_lost = lambda reason, silent: told.append((reason, silent))
        lab.seats[1].close()
        lab.seats[2].close()
        lab.until(lambda: told, 20)
        assert "majority" in told[0][0] and told[0][1] >= lab.ttl
        answers = []
        node.store.read("key", answers.append)
        assert not lab.run_until(lambda: answers, 0.5), "a minority answers nothing"


def test_a_loop_that_slept_serves_nobody(monkeypatch):
    with SeatsLab(ttl=2.0) as lab:
        node = Node(lab).up()
        serving = lab.seats[0]
        # As after a suspended machine, or SIGSTOP: the promises have run out, and no timer has told yet.
        monkeypatch.setattr("rallypoint.store.seats.seat.clock", lambda real=time.monotonic: real() + 1e6)
        replies = []
        serving.host.hub.handle(next(iter(serving.host.server._known)).session, None)  # would fail if it were handled
        node.store.read("key", replies.append)
        assert not lab.run_until(lambda: replies, 0.2)
        monkeypatch.undo()


def test_who_lists_other_endpoints_is_refused():
    with SeatsLab() as lab:
        Node(lab).up()
        notes = [Notes(), Notes()]
        lab.open(notes[0], places=(*lab.places, (HERE, 1)))
        alone = Member("run", "alone", lab.ttl, 0.5)
        lab.stores.append(TcpStore(lab.loop, notes[1], *lab.places[1], alone))
        lab.until(lambda: all(n.count("refused") for n in notes))
        assert {n.told[-1][1] for n in notes} == {"--rdzv-endpoint"}


def say_hello(lab, seat, number):
    """Say hello as seat ``number`` at the endpoint of ``seat``, by hand; return what it answers."""
    hello = Hello(PROTOCOL, __version__, "run", "x", 5.0, "s", endpoints=lab.member("x").endpoints, seat=number)
    with socket.create_connection(lab.places[seat]) as sock:
        sock.sendall(wire.PREFACE + wire.encode(hello))
        sock.setblocking(False)
        framer, found = wire.Framer(wire.ANSWERS, 1 << 20), []

        def answered():
            with contextlib.suppress(BlockingIOError):
                found.extend(framer.feed(sock.recv(4096)))
            return found

        lab.until(answered)
        return found[0]


def test_only_another_seat_may_ask_for_votes():
    with SeatsLab() as lab:
        assert isinstance(say_hello(lab, 1, 0), Welcome)
        for number in (1, 3, 99, -2):
            assert say_hello(lab, 1, number) == Refusal("seat", str(number), "another")
        assert lab.serving() == [0]


@pytest.mark.parametrize("secure", ["token", "tls"])
def test_seats_prove_themselves_to_each_other_too(secure, tmp_path):
    if secure == "token":
        more, other = {"token": Secret("one")}, {"token": Secret("two")}
    elif OPENSSL is None:
        pytest.skip("needs openssl to make certificates")
    else:
        more, other = {"tls": identity("x", Certificates(tmp_path).conf("server"), True)}, {"tls": None}
    with SeatsLab(**more) as lab:
        Node(lab).up()
        notes = Notes()
        lab.open(notes, **other)
        lab.until(lambda: notes.count("refused"))


# With launchers


def endpoints(count=3):
    return ",".join(join_endpoint(*place) for place in free_places(count))


def training(folder, *options, nnodes):
    return Job(folder, "-v", *options, nnodes=nnodes, last_call_timeout=1, endpoint=endpoints())


def host_of(job):
    """The node whose launcher serves the store, as all say."""
    places = {re.findall(r"joined the store at (\S+)", node.text)[-1] for node in job.nodes.values()}
    assert len(places) == 1
    return next(name for name, node in job.nodes.items() if places <= listening(node.pid))


def test_01_the_host_of_the_store_is_killed(tmp_path):
    with training(tmp_path, nnodes="2:4") as job:
        job.start_all("ABCD")
        job.until(4, world=4)
        host = host_of(job)
        rest = "ABCD".replace(host, "")
        begin = time.monotonic()
        job.nodes[host].signal(signal.SIGKILL)
        three = job.until(3, world=3)
        within(max(e["at"] for e in three) - begin, HB, "the next endpoint has taken over")
        assert {e["count"] for e in three} == {0}
        job.start(host)
        job.until(4 + 3 + 4)
        job.finish("ABCD")
        assert job.ended("ABCD", 3) == [0] * 4
        assert all("the store is back at 127.0.0.1:" in job.nodes[name].text for name in rest)


def test_01_also_when_its_launcher_is_only_stopped(tmp_path):
    with training(tmp_path, nnodes="2:3") as job:
        job.start_all("ABC")
        job.until(3, world=3)
        host = host_of(job)
        job.nodes[host].signal(signal.SIGSTOP)
        job.until(2, world=2, limit=3 * HB)
        job.nodes[host].signal(signal.SIGCONT)
        job.until(3 + 2 + 3, limit=3 * HB)
        job.finish("ABC")
        assert job.ended("ABC", 3) == [0] * 3


def test_the_budget_survives_a_new_host(tmp_path):
    with training(tmp_path, "--max-restarts=1", nnodes="2:3") as job:
        job.start_all("ABC")
        job.until(3, world=3)
        job.poke("A")
        job.until(6)
        host = host_of(job)
        job.nodes[host].signal(signal.SIGKILL)
        two = job.until(2, world=2)
        assert {e["count"] for e in two} == {1}
        rest = "ABC".replace(host, "")
        job.poke(rest[0])
        assert job.ended(rest, 2) == [1, 1]


def test_a_minority_waits_and_says_for_what(tmp_path):
    path = script(tmp_path, "say('started')")
    options = ["--nnodes=1:3", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoints()}"]
    with Launch(*options, "--rdzv-conf=join_timeout=7", path) as launch:
        launch.until("waiting", limit=20)
        assert launch.end(20) == 75
    assert "started" not in launch.out
    assert "0 of 3" in launch.text or "1 of 3" in launch.text or "connection refused" in launch.text


def test_a_node_leaves_and_takes_its_endpoint_along(tmp_path):
    with training(tmp_path, nnodes="2:3") as job:
        job.start_all("ABC")
        job.until(3, world=3)
        host = host_of(job)
        job.nodes[host].signal(signal.SIGTERM)
        assert job.nodes[host].end() == 143
        job.until(2, world=2)
        rest = "ABC".replace(host, "")
        job.finish(rest)
        assert job.ended(rest, 3) == [0, 0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a:1,b:1", "of two, neither can take over"), ("a:1,b:1,a:1", "one place twice"), ("a:0,b:1,c:1", "not 0")],
)
def test_what_cannot_work_is_refused(tmp_path, text, reason):
    path = script(tmp_path, "say('started')")
    with Launch("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={text}", path) as launch:
        assert launch.end() == 2
    assert reason in launch.text and "--rdzv-endpoint" in launch.text


def test_it_works_from_python_too(tmp_path):
    path = script(tmp_path, "say('world', world)")
    where = endpoints()
    options = ["--nnodes=3", "--rdzv-backend=c10d", f"--rdzv-endpoint={where}", path]
    code = (
        "from rallypoint.elastic.launcher.api import LaunchConfig, elastic_launch\n"
        "import sys\n"
        f"config = LaunchConfig(3, 3, 1, rdzv_backend='c10d', rdzv_endpoint={where!r}, max_restarts=0, run_id='none')\n"
        f"elastic_launch(config, sys.executable)({str(path)!r})\n"
    )
    with (
        Launch(*options) as one,
        Launch(*options) as two,
        Launch("-c", code, command=[sys.executable]) as three,
    ):
        assert [one.end(), two.end(), three.end()] == [0, 0, 0]
    assert "world 3" in three.text
