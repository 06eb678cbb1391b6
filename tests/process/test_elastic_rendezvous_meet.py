"""Our own handlers, used as torch's: they meet through a real store, give ranks, and see newcomers and the end."""

import threading

import pytest

from lab import FACTOR, free_port, wait_until
from rallypoint.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousParameters,
    RendezvousTimeoutError,
)
from rallypoint.elastic.rendezvous.registry import get_rendezvous_handler


def handler(endpoint, nodes=(2, 2), run_id="meet", backend="c10d", **config):
    config = {"last_call_timeout": 0.3 * FACTOR, "close_timeout": 2} | config
    return get_rendezvous_handler(RendezvousParameters(backend, endpoint, run_id, *nodes, **config))


class Asked:
    """``next_rendezvous`` in a thread: ``got`` waits for its answer."""

    def __init__(self, whom):
        self._answer = None

        def ask():
            try:
                self._answer = whom.next_rendezvous()
            except Exception as error:
                self._answer = error

        self._thread = threading.Thread(target=ask, daemon=True)
        self._thread.start()

    @property
    def waits(self):
        return self._answer is None

    def got(self, limit=20):
        self._thread.join(limit * FACTOR)
        assert self._answer is not None, "no answer yet"
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.fixture
def handlers():
    made = []

    def make(*args, **kwargs):
        made.append(handler(*args, **kwargs))
        return made[-1]

    yield make
    for one in [threading.Thread(target=h.shutdown) for h in made]:
        one.start()
        one.join(20)


def test_one_node_meets_itself(handlers):
    alone = handlers("", (1, 1))
    info = alone.next_rendezvous()
    assert (info.rank, info.world_size) == (0, 1)
    info.store.set("a", "b")
    assert info.store.get("a") == b"b"
    assert (info.store.add("n", 2), info.store.add("n", 3)) == (2, 5)
    assert (info.store.check(["a"]), info.store.check(["b"])) == (True, False)
    info.store.multi_set(["x", "y"], [b"1", b"2"])
    assert info.store.multi_get(["x", "y"]) == [b"1", b"2"]
    assert info.store.delete_key("x")
    again = alone.next_rendezvous()
    assert not again.store.check(["a"])


@pytest.mark.parametrize("backend", ["c10d", "static"])
def test_two_nodes_meet_again_and_again(handlers, backend):
    endpoint = f"127.0.0.1:{free_port()}"
    pair = [handlers(endpoint, backend=backend, **({"rank": r} if backend == "static" else {})) for r in (0, 1)]
    for _ in range(2):
        infos = [asked.got() for asked in [Asked(h) for h in pair]]
        assert sorted(i.rank for i in infos) == [0, 1]
        assert {i.world_size for i in infos} == {2}
        first, second = sorted(infos, key=lambda i: i.rank)
        first.store.set("hello", b"there")
        assert second.store.get("hello") == b"there"
        assert first.bootstrap_store_info == second.bootstrap_store_info
        assert all(h.num_nodes_waiting() == 0 for h in pair)


def test_a_newcomer_is_seen_and_let_in(handlers):
    endpoint = f"127.0.0.1:{free_port()}"
    first = handlers(endpoint, (1, 2))
    assert Asked(first).got().world_size == 1
    second = handlers(endpoint, (1, 2))
    waiting = Asked(second)
    wait_until(first.num_nodes_waiting, what="the newcomer's being seen")
    assert waiting.waits
    assert Asked(first).got().world_size == 2
    assert waiting.got().world_size == 2


def test_whoever_asks_again_calls_the_others(handlers):
    endpoint = f"127.0.0.1:{free_port()}"
    pair = [handlers(endpoint) for _ in range(2)]
    for asked in [Asked(h) for h in pair]:
        asked.got()
    again = Asked(pair[0])
    wait_until(pair[1].num_nodes_waiting, what="the other's being seen")
    assert {Asked(pair[1]).got().rank, again.got().rank} == {0, 1}


def test_a_closed_run_is_closed_for_all(handlers):
    endpoint = f"127.0.0.1:{free_port()}"
    pair = [handlers(endpoint) for _ in range(2)]
    for asked in [Asked(h) for h in pair]:
        asked.got()
    pair[0].set_closed()
    wait_until(pair[1].num_nodes_waiting, what="the end's being seen")
    with pytest.raises(RendezvousClosedError):
        Asked(pair[1]).got()
    assert pair[0].is_closed()
    assert pair[1].is_closed()
    with pytest.raises(RendezvousClosedError):
        pair[0].next_rendezvous()


def test_too_few_nodes_are_a_timeout(handlers):
    lonely = handlers(f"127.0.0.1:{free_port()}", join_timeout=0.3)
    with pytest.raises(RendezvousTimeoutError, match="not enough nodes"):
        Asked(lonely).got()


def test_a_node_that_does_not_fit_is_refused(handlers):
    endpoint = f"127.0.0.1:{free_port()}"
    assert Asked(handlers(endpoint, (1, 2))).got().world_size == 1
    with pytest.raises(RendezvousError, match="--nnodes"):
        Asked(handlers(endpoint, (1, 3))).got()


def test_shutdown_leaves_no_thread(handlers):
    alone = handlers("", (1, 1))
    alone.next_rendezvous()
    alone.shutdown()
    assert not [t for t in threading.enumerate() if t.name == "rallypoint-rendezvous"]
