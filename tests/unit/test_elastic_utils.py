"""Helpers, and meeting points in a store: a small one in memory, and torch's."""

import threading
from contextlib import closing
from datetime import timedelta

import pytest

from rallypoint.elastic.utils import data, get_env_variable_or_raise, get_socket_with_port, macros
from rallypoint.elastic.utils import store as meeting
from rallypoint.elastic.utils.distributed import create_c10d_store, get_free_port
from rallypoint.elastic.utils.logging import get_logger
from rallypoint.elastic.utils.process_state import is_uninterruptible_state, read_proc_state


class Shared:
    """What several threads' stores have in common."""

    def __init__(self):
        self.values = {}
        self.news = threading.Condition()


class Small:
    """The methods of torch's Store that the helpers use."""

    def __init__(self, shared):
        self.shared = shared
        self.timeout = timedelta(seconds=20)

    def set_timeout(self, timeout):
        self.timeout = timeout

    def set(self, key, value):
        with self.shared.news:
            self.shared.values[key] = value
            self.shared.news.notify_all()

    def add(self, key, amount):
        with self.shared.news:
            self.shared.values[key] = int(self.shared.values.get(key, 0)) + amount
            return self.shared.values[key]

    def wait(self, keys, timeout=None):
        with self.shared.news:
            seconds = (timeout or self.timeout).total_seconds()
            if not self.shared.news.wait_for(lambda: all(k in self.shared.values for k in keys), seconds):
                raise TimeoutError(f"{keys} did not come")

    def multi_get(self, keys):
        self.wait(keys)
        return [self.shared.values[key] for key in keys]


def each(world_size, call):
    """Call ``call(rank)`` in a thread for each rank; return results or exceptions."""
    found = [None] * world_size

    def run(rank):
        try:
            found[rank] = call(rank)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_everybody_gets_everybodys_data():
    shared = Shared()
    got = each(4, lambda rank: meeting.synchronize(Small(shared), b"%d" % rank, rank, 4, "k", timeout=20))
    assert got == [[b"0", b"1", b"2", b"3"]] * 4


def test_a_barrier_opens_when_all_are_there():
    shared = Shared()
    assert each(3, lambda rank: meeting.barrier(Small(shared), 3, "b", 20)) == [None] * 3


def test_a_barrier_says_who_is_missing():
    shared = Shared()
    got = each(2, lambda rank: meeting.barrier(Small(shared), 4, "b", 0.3, rank, lambda r: f"host{r}", 0.1))
    assert all(isinstance(error, TimeoutError) for error in got)
    assert "missing_ranks=[host2, host3]" in str(got[0])
    assert "<check rank 0 (host0) for missing rank info>" in str(got[1])


def test_a_barrier_without_ranks_raises_the_stores_own_error():
    with pytest.raises(TimeoutError, match="did not come"):
        meeting.barrier(Small(Shared()), 2, "b", 0.01)
    with pytest.raises(AssertionError):
        meeting.barrier(Small(Shared()), 2, "b", 0.01, rank_tracing_decoder=str)


def test_other_errors_are_not_taken_for_a_timeout():
    class Broken(Small):
        def wait(self, keys, timeout=None):
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        meeting.barrier(Broken(Shared()), 2, "b", 1, rank=0)


def test_the_time_limit_is_put_back_even_after_an_error():
    store = Small(Shared())
    with pytest.raises(KeyError), meeting.store_timeout(store, 5):
        assert store.timeout == timedelta(seconds=5)
        raise KeyError
    assert store.timeout == timedelta(seconds=20)


@pytest.mark.torch
def test_torchs_store_will_do():
    pytest.importorskip("torch")
    store = create_c10d_store(is_server=True, server_addr="localhost", timeout=20)
    assert meeting.synchronize(store, b"x", 0, 1, "k", 20) == [b"x"]
    with pytest.raises(RuntimeError, match=r"missing_ranks=\[1\]"):
        meeting.barrier(store, 2, "b", 0.1, rank=0, trace_timeout=0.1)
    with pytest.raises(RuntimeError, match="already in use"):
        create_c10d_store(is_server=True, server_addr="localhost", server_port=store.port, timeout=5)


def test_a_store_for_several_needs_a_port():
    with pytest.raises(ValueError, match="2 processes need one port"):
        create_c10d_store(True, "localhost", world_size=2)


def test_ports():
    with closing(get_socket_with_port()) as sock:
        assert sock.getsockname()[1] != get_free_port() > 0


def test_environment_and_macros(monkeypatch):
    monkeypatch.setenv("A_VARIABLE", "")
    assert get_env_variable_or_raise("A_VARIABLE") == ""
    with pytest.raises(ValueError, match="NO_SUCH_VARIABLE is not set"):
        get_env_variable_or_raise("NO_SUCH_VARIABLE")
    assert macros.substitute(["--x=${local_rank}", "$$", "${other}", 5], "3") == ["--x=3", "$", "${other}", 5]


def test_loggers(monkeypatch):
    monkeypatch.setenv("LOGLEVEL", "ERROR")
    assert (get_logger().name, get_logger("x").level) == (__name__, 40)


def test_process_states():
    import os

    assert read_proc_state(os.getpid()) in ("R", "S")
    assert read_proc_state(1 << 22) is None
    assert [is_uninterruptible_state(s) for s in ("D", "D+", "S", None)] == [True, True, False, False]


def test_epochs_in_a_row():
    assert list(data.CyclingIterator(3, lambda epoch: iter([epoch] * (epoch % 2)))) == [1]
    assert list(data.CyclingIterator(3, lambda epoch: iter([epoch, -epoch]), start_epoch=1)) == [1, -1, 2, -2]
    assert "epoch 0 of 2" in repr(data.CyclingIterator(2, lambda _: iter(())))


@pytest.mark.torch
@pytest.mark.parametrize("start", [0, 3, 6])
def test_the_sampler_is_torchs(start):
    theirs = pytest.importorskip("torch.distributed.elastic.utils.data").ElasticDistributedSampler
    for rank in range(3):
        samplers = [kind(list(range(10)), 3, rank, start) for kind in (data.ElasticDistributedSampler, theirs)]
        for sampler in samplers:
            sampler.set_epoch(5)
        ours, other = samplers
        assert list(ours) == list(other) and len(ours) == len(other)
    with pytest.raises(ValueError, match="beyond"):
        data.ElasticDistributedSampler([1], 1, 0, 1)
    with pytest.raises(TypeError):
        data.ElasticDistributedSampler(iter([1]), 1, 0)


@pytest.mark.torch
def test_the_sampler_gives_everybody_something_where_torchs_fails():
    pytest.importorskip("torch")
    assert [list(data.ElasticDistributedSampler(list(range(10)), 3, rank, 9)) for rank in range(3)] == [[9]] * 3


def test_other_names_do_not_exist():
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        data.Nope  # noqa: B018
