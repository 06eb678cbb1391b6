"""Hundreds of agents in virtual time: whatever befalls some of them, all that are left go on together."""

import random

import pytest

from rallypoint.model.spec import Spec, Timing
from rallypoint.testing.simulated_workers import Script
from rallypoint.testing.simulator import Cluster


def cluster(count, seed, **config):
    timing = Timing(last_call_timeout=2.0, keep_alive_interval=1.0, shutdown_timeout=2.0)
    spec = Spec(
        argv=("train",), environ={}, backend="tcp", min_nodes=count // 2, max_nodes=count, timing=timing, **config
    )
    it = Cluster(spec, seed, lambda _name, _order: Script(saves=0.1), skew=0.01)
    for n in range(count):
        it.start(f"n{n + 1}")
    return it


def formed(it, members):
    assert it.run_until(lambda: it.formed and len(it.view.roster) == members, 60), it.story(60)
    assert list(it.ranks()) == list(range(members))


def ends(it):
    for at in it.live:
        for process in list(at.processes.workers.values()):
            at.processes.end_soon(process, 1.0)
    assert it.run_until(lambda: not it.live, 60), it.story(60)


@pytest.mark.parametrize(("count", "seed"), [(20, 1), (20, 2), (60, 3), (60, 4), (150, 5), (500, 6)])
def test_a_tenth_of_the_nodes_dies_at_once(count, seed):
    it = cluster(count, seed, max_restarts=1)
    formed(it, count)
    places = it.ranks()
    dead = random.Random(seed).sample(sorted(it.nodes), count // 10)
    for name in dead:
        it.kill(name)
        it.run_for(0.001)
    formed(it, count - len(dead))
    kept = [name for _, name in sorted(places.items()) if name not in dead]
    assert list(it.ranks().values()) == kept, "survivors keep their order"
    assert it.view.restarts == 0
    ends(it)
    assert {n.outcome.status for n in it.nodes.values() if n.outcome} == {"succeeded"}


@pytest.mark.parametrize(("count", "seed"), [(20, 1), (60, 2), (200, 3)])
def test_the_store_dies_and_some_nodes_are_cut_off(count, seed):
    rng = random.Random(seed)
    it = cluster(count, seed)
    formed(it, count)
    first = it.view.round
    out = rng.sample(sorted(it.nodes), count // 5)
    for name in out:
        it.cut(name)
    it.kill_store()
    it.run_for(rng.uniform(0.5, 2.0))
    it.revive_store()
    formed(it, count - len(out))
    assert it.view.round > first
    for name in out:
        it.mend(name)
    formed(it, count)
    ends(it)


@pytest.mark.parametrize(("count", "seed"), [(50, 1), (200, 2)])
def test_a_slow_network_and_frozen_nodes(count, seed):
    rng = random.Random(seed)
    it = cluster(count, seed)
    for name in rng.sample(sorted(it.nodes), count // 4):
        it.slow(name, 0.4)
    formed(it, count)
    frozen = rng.sample(sorted(it.nodes), 3)
    for name in frozen:
        it.freeze(name)
    formed(it, count - 3)
    for name in frozen:
        it.thaw(name)
    formed(it, count)
    ends(it)
