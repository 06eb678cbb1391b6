"""torch's own TCPStore client and process groups against the worker store."""

import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

LONG, SHORT = timedelta(seconds=30), timedelta(milliseconds=100)


class Server:
    def __init__(self):
        command = [sys.executable, os.path.join(os.path.dirname(__file__), "c10d_lab.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def client(self, timeout=LONG, **options):
        options.setdefault("wait_for_workers", False)
        return torch.distributed.TCPStore("127.0.0.1", self.port, is_master=False, timeout=timeout, **options)

    def reset(self):
        print(file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "new round\n"

    def run(self, code, *words, **environment):
        """Start a Python process whose code knows ``torch`` and ``client()``."""
        prelude = f"import os, sys, torch\nclient = lambda: torch.distributed.TCPStore('127.0.0.1', {self.port})\n"
        command = [sys.executable, "-c", prelude + code, *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.process.kill()
    server.process.communicate()


@pytest.fixture
def store(server):
    return server.client()


def results(processes):
    found = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return found


def test_values(store):
    store.set("k", "v")
    assert store.get("k") == b"v"
    store.set("k", "")
    assert store.get("k") == b""
    assert store.add("n", 5) == 5
    assert store.add("n", -7) == -2
    assert store.get("n") == b"-2"
    store.append("a", "one ")
    store.append("a", "two")
    assert store.get("a") == b"one two"
    store.multi_set(["x", "y"], ["1", "22"])
    assert store.multi_get(["x", "y", "x"]) == [b"1", b"22", b"1"]
    assert store.multi_get([]) == []
    assert sorted(store.list_keys()) == ["a", "k", "n", "x", "y"]
    assert store.num_keys() == 5
    assert store.delete_key("k") is True
    assert store.delete_key("k") is False
    assert store.check(["x", "y"]) is True
    assert store.check(["x", "k"]) is False
    assert store.has_extended_api()


def test_compare_set(store):
    assert store.compare_set("c", "wrong", "new") == b"wrong"
    assert store.check(["c"]) is False
    assert store.compare_set("c", "", "one") == b"one"
    assert store.compare_set("c", "wrong", "two") == b"one"
    assert store.compare_set("c", "one", "two") == b"two"


def test_the_count_of_workers(server):
    """With ``world_size`` torch counts its clients in a key of its own, which is among those counted."""
    server.client(world_size=2, wait_for_workers=True)
    store = server.client(world_size=2, wait_for_workers=True)
    assert store.num_keys() == 1
    assert store.list_keys() == []


def test_wait_and_its_timeout(server, store):
    store.set("there", "1")
    store.wait(["there"])
    with pytest.raises(torch.distributed.DistStoreError, match="wait timeout after 100ms"):
        store.wait(["there", "absent"], SHORT)
    assert store.get("there") == b"1"  # the connection goes on
    other = server.run("client().wait(['a', 'b']); print('woken')")
    store.wait(["there"])
    store.set("a", "")
    store.add("b", 1)
    assert results([other]) == ["woken\n"]


def test_get_times_out_and_goes_on(server):
    store = server.client(timeout=SHORT)
    with pytest.raises(torch.distributed.DistStoreError):
        store.get("absent")
    store.set("absent", "here")
    assert store.get("absent") == b"here"


def test_queues(server, store):
    assert store.queue_len("q") == 0
    with pytest.raises(torch.distributed.QueueEmptyError):
        store.queue_pop("q", False)
    store.queue_push("q", "one")
    store.queue_push("q", "two")
    assert store.queue_len("q") == 2
    assert store.check(["q"]) and store.num_keys() == 0
    assert [store.queue_pop("q"), store.queue_pop("q", False)] == [b"one", b"two"]
    blocked = server.run("s = client(); s.set('begun', ''); print(s.queue_pop('q'), s.queue_pop('q'))")
    store.wait(["begun"])
    store.queue_push("q", "three")
    store.queue_push("q", "four")
    assert results([blocked]) == ["b'three' b'four'\n"]
    store.set_timeout(SHORT)
    with pytest.raises(torch.distributed.DistStoreError):
        store.queue_pop("q")


def test_barrier(server, store):
    store.barrier("alone", 1)
    with pytest.raises(torch.distributed.DistStoreError):
        store.barrier("nobody else", 2, SHORT)
    other = server.run("client().barrier('both', 2); print('through')")
    store.barrier("both", 2)
    assert results([other]) == ["through\n"]


def test_clone_and_prefix(store):
    store.set("k", "v")
    assert store.clone().get("k") == b"v"
    torch.distributed.PrefixStore("p", store).set("k", "w")
    assert store.get("p/k") == b"w"


def test_a_value_of_10_mb(store):
    value = os.urandom(10_000_000)
    store.set("big", value)
    assert store.get("big") == value
    assert store.multi_get(["big", "big"]) == [value, value]
    store.append("big", "+")
    assert store.compare_set("big", "", "") == value + b"+"


def test_32_clients_at_once(server, store):
    """2 processes of 16 connections each, all of which count, write, and wait for all others."""
    code = """
import threading
me = int(sys.argv[1])
def work(number):
    store = client()
    for i in range(100):
        store.add("sum", i)
    store.set(f"done {number}", "x" * 1000)
    store.wait([f"done {n}" for n in range(32)])
    store.barrier("end", 32)
threads = [threading.Thread(target=work, args=(me * 16 + i,)) for i in range(16)]
[t.start() for t in threads]
[t.join() for t in threads]
"""
    results([server.run(code, number) for number in range(2)])
    assert store.get("sum") == b"%d" % (32 * sum(range(100)))
    assert store.num_keys() == 34


def test_a_client_killed_in_the_middle_of_a_message(server, store):
    """It sends 200 MB; stopped as soon as it has begun, then killed."""
    victim = server.run("s = client(); s.set('begun', ''); s.set('half', bytes(200_000_000))")
    store.wait(["begun"])
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=30)
    store.set("k", "v")
    assert store.get("k") == b"v"
    # The message was either cut, and is forgotten, or complete.
    assert store.num_keys() in (2, 3)


def test_a_client_killed_while_it_waits(server, store):
    victim = server.run("s = client(); s.set('begun', ''); s.wait(['never'])")
    store.wait(["begun"])
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=30)
    store.set("never", "v")
    assert store.get("never") == b"v"


def test_an_impossible_add_fails_that_client_only(server, store):
    store.set("text", "abc")
    with pytest.raises(torch.distributed.DistNetworkError):
        store.add("text", 1)
    assert "add to b'/text'" in server.process.stdout.readline()
    assert server.client().get("text") == b"abc"


GROUP = """
import torch.distributed as dist
child = os.fork()  # one import for two workers; nothing of torch has run yet
os.environ["RANK"] = "0" if child else "1"
dist.init_process_group("gloo", init_method="env://")
total = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(total)
dist.barrier()
gathered = [None, None]
dist.all_gather_object(gathered, {"rank": dist.get_rank()})
dist.destroy_process_group()
line = f"{total.item()} {[g['rank'] for g in gathered]}\\n"
os.write(1, line.encode())  # in one piece: both write to the same pipe
sys.exit(os.waitpid(child, 0)[1] if child else 0)
"""


def test_gloo_process_groups(server):
    """As workers see it: the store is the agent's, and fresh in each round, for keys do not tell the rounds apart."""
    for restart in range(2):
        server.reset()
        environment = {
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": str(restart),
            "TORCHELASTIC_RUN_ID": "test",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(server.port),
            "WORLD_SIZE": "2",
        }
        assert results([server.run(GROUP, **environment)]) == ["3.0 [0, 1]\n" * 2]
