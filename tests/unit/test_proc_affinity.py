"""Mode, machine, allowed CPUs and GPUs -> CPUs of each worker; against torch where torch has an answer."""

import builtins
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import (
    DGX_A100,
    DGX_H100,
    EPYC,
    INTERLEAVED,
    LAPTOP,
    OFFLINE,
    SHAPES,
    TWO_SOCKETS,
    UNEVEN,
    Machine,
)

from rallypoint.proc.affinity import MODES, placements, share, spread
from rallypoint.proc.topology import Topology

WITH_GPUS = [name for name, machine in SHAPES.items() if machine.gpus]


def place(machine, root, mode, workers, allowed=None, gpus=None):
    topology = Topology(str(machine.build(root) / "sys"))
    allowed = frozenset(machine.online if allowed is None else allowed)
    return placements(mode, topology, allowed, workers, machine.gpus if gpus is None else gpus)


def by_torch(machine, root, mode, monkeypatch, allowed):
    """What torch binds each GPU's worker to, on the same tree."""
    binding = pytest.importorskip("torch.numa.binding")

    def opened(path, *args):
        return builtins.open(str(root) + str(path) if str(path).startswith("/sys/") else path, *args)

    class Os:
        path = os.path
        listdir = staticmethod(lambda path: os.listdir(str(root) + path))
        sched_getaffinity = staticmethod(lambda _pid: set(allowed))

    monkeypatch.setattr(binding, "open", opened, raising=False)
    monkeypatch.setattr(binding, "os", Os)
    monkeypatch.setattr(binding, "_get_gpu_count", lambda: len(machine.gpus))
    monkeypatch.setattr(binding, "_get_numa_node_index_for_gpu_index", lambda *, gpu_index: machine.gpus[gpu_index])
    options = binding.NumaOptions(affinity_mode=binding.AffinityMode(mode))
    return [
        binding._get_logical_cpus_to_bind_to(gpu_index=gpu, numa_options=options) for gpu in range(len(machine.gpus))
    ]


@pytest.mark.torch
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in WITH_GPUS if name != "grace"])
def test_with_a_worker_for_each_gpu_as_torch(name, mode, tmp_path, monkeypatch):
    machine = SHAPES[name]
    ours = place(machine, tmp_path, mode, len(machine.gpus))
    assert [p.cpus for p in ours] == by_torch(machine, tmp_path, mode, monkeypatch, machine.online)
    assert not any(p.remark for p in ours)


@pytest.mark.torch
@pytest.mark.parametrize("mode", MODES)
def test_restricted_by_a_cgroup_as_torch(mode, tmp_path, monkeypatch):
    allowed = {*range(0, 128, 2), *range(128, 200)}  # some of every node: torch fails on a node without any
    ours = place(DGX_A100, tmp_path, mode, 8, allowed)
    assert [p.cpus for p in ours] == by_torch(DGX_A100, tmp_path, mode, monkeypatch, allowed)


def test_node(tmp_path):
    found = place(DGX_H100, tmp_path, "node", 8)
    assert [p.nodes for p in found] == [(0,)] * 4 + [(1,)] * 4
    assert found[5].cpus == {*range(56, 112), *range(168, 224)}


def test_socket_covers_all_its_nodes(tmp_path):
    found = place(DGX_A100, tmp_path, "socket", 8)
    assert found[0].nodes == (0, 1, 2, 3) and found[4].nodes == (4, 5, 6, 7)
    assert found[0].cpus == {*range(64), *range(128, 192)}


def test_exclusive_shares_out_whole_cores_the_first_get_more(tmp_path):
    found = place(UNEVEN, tmp_path, "exclusive", 4)
    assert [len(p.cpus) for p in found] == [8, 8, 8, 24]
    assert found[0].cpus == {0, 1, 2, 3, 24, 25, 26, 27}
    eleven = place(UNEVEN, tmp_path, "exclusive", 4, set(UNEVEN.online) - {0, 24})
    assert [len(p.cpus) for p in eleven] == [8, 8, 6, 24]


def test_exclusive_divides_by_workers_not_by_gpus(tmp_path):
    """torch leaves the cores of GPUs without a worker idle."""
    found = place(DGX_H100, tmp_path, "exclusive", 2)
    assert [len(p.cpus) for p in found] == [56, 56]


def test_exclusive_with_more_workers_than_cores_shares_and_says_so(tmp_path):
    found = place(LAPTOP, tmp_path, "exclusive", 3, allowed={0, 8, 1})
    assert [p.cpus for p in found] == [{0, 8}, {1}, {0, 8}]
    assert {p.remark for p in found} == {"node 0 has 2 cores for 3 workers: some share one"}


def test_core_complexes_go_round(tmp_path):
    found = place(EPYC, tmp_path, "core-complex", 5, gpus=(0, 0, 0, 2, 2))
    assert [sorted(p.cpus)[0] for p in found] == [0, 8, 0, 32, 40]
    assert all(len(p.cpus) == 16 for p in found)


def test_core_complex_without_caches_is_the_node(tmp_path):
    found = place(Machine(cores=4, caches=False), tmp_path, "core-complex", 2)
    assert [p.cpus for p in found] == [{0, 1, 2, 3}] * 2
    assert found[0].remark == "the machine does not tell which cores share a cache"


@pytest.mark.parametrize(
    ("machine", "workers", "homes"),
    [
        (TWO_SOCKETS, 1, [0]),
        (TWO_SOCKETS, 2, [0, 1]),
        (TWO_SOCKETS, 3, [0, 0, 1]),
        (TWO_SOCKETS, 4, [0, 0, 1, 1]),
        (EPYC, 2, [0, 2]),
        (EPYC, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (DGX_A100, 4, [0, 2, 4, 6]),
        (LAPTOP, 3, [0, 0, 0]),
    ],
)
def test_without_gpus_workers_are_spread_over_the_nodes(machine, workers, homes, tmp_path):
    found = place(machine, tmp_path, "node", workers, gpus=())
    assert [p.nodes for p in found] == [(home,) for home in homes]
    assert all(p.cpus == machine.cpus(home) and not p.remark for p, home in zip(found, homes, strict=True))


def test_spread_follows_the_cores_that_are_left_to_us(tmp_path):
    allowed = {0, 1, *TWO_SOCKETS.cpus(1)}
    found = place(TWO_SOCKETS, tmp_path, "node", 5, allowed, gpus=())
    assert [p.nodes for p in found] == [(0,), (1,), (1,), (1,), (1,)]
    assert found[0].cpus == {0, 1}


def test_two_cpus_of_one_node_are_all_that_anybody_gets(tmp_path):
    topology = Topology(str(TWO_SOCKETS.build(tmp_path) / "sys"))
    for mode in MODES:
        found = placements(mode, topology, frozenset({8, 9}), 4)
        assert all(p.cpus <= {8, 9} and p.cpus and p.nodes == (1,) for p in found)


def test_a_gpu_whose_node_is_closed_to_us_leaves_its_worker_unbound(tmp_path):
    found = place(INTERLEAVED, tmp_path, "node", 2, allowed=INTERLEAVED.cpus(0))
    assert found[0].cpus == INTERLEAVED.cpus(0) and not found[0].remark
    assert not found[1].cpus
    assert found[1].remark == "none of the CPUs of node 1, where its GPU is, may be used"


def test_unknown_nodes_of_gpus(tmp_path):
    alone = place(LAPTOP, tmp_path / "a", "node", 2, gpus=(-1, -1))
    assert all(p.nodes == (0,) and not p.remark for p in alone)  # one node: which else
    several = place(TWO_SOCKETS, tmp_path / "b", "node", 4, gpus=(-1, -1, -1, 0))
    assert [p.nodes for p in several] == [(0,), (0,), (1,), (0,)]
    assert several[2].remark == "the machine does not tell at which node its GPU is" and not several[3].remark


def test_workers_beyond_the_gpus_are_spread(tmp_path):
    found = place(INTERLEAVED, tmp_path, "node", 4, gpus=(1, 0))
    assert [p.nodes for p in found] == [(1,), (0,), (1,), (1,)]


def test_no_cpu_at_all(tmp_path):
    [found] = place(LAPTOP, tmp_path, "node", 1, allowed={99})
    assert not found.cpus and "no NUMA node" in found.remark


def test_offline_cpus_are_given_to_nobody(tmp_path):
    topology = Topology(str(OFFLINE.build(tmp_path) / "sys"))
    for mode in MODES:
        found = placements(mode, topology, frozenset(range(32)), 4, OFFLINE.gpus)
        assert not any(p.cpus & set(OFFLINE.offline) for p in found)


@pytest.mark.parametrize(
    ("machine", "mode", "workers", "shares"),
    [
        (LAPTOP, None, 1, [8]),
        (LAPTOP, None, 3, [2, 2, 2]),
        (LAPTOP, None, 20, [1] * 20),
        (UNEVEN, None, 4, [6] * 4),
        (UNEVEN, "node", 4, [4, 4, 4, 12]),
        (UNEVEN, "exclusive", 4, [4, 4, 4, 12]),
        (EPYC, "core-complex", 4, [8] * 4),
    ],
)
def test_shares_of_cores(machine, mode, workers, shares, tmp_path):
    topology = Topology(str(machine.build(tmp_path) / "sys"))
    allowed = frozenset(machine.online)
    places = placements(mode, topology, allowed, workers, machine.gpus) if mode else ()
    assert [share(topology, allowed, places, workers, rank) for rank in range(workers)] == shares


@given(workers=st.integers(1, 40), weights=st.lists(st.integers(1, 64), min_size=1, max_size=9))
def test_spread_is_in_order_and_in_proportion(workers, weights):
    parts = spread(workers, weights)
    assert parts == sorted(parts) and len(parts) == workers
    for part, weight in enumerate(weights):
        assert abs(parts.count(part) - workers * weight / sum(weights)) <= 1


machines = st.builds(
    Machine,
    sockets=st.integers(1, 2),
    nodes=st.integers(1, 2),
    cores=st.sampled_from([2, 4]),
    complexes=st.integers(1, 2),
    smt=st.integers(1, 2),
    interleaved=st.booleans(),
    caches=st.booleans(),
)


@settings(max_examples=25, deadline=None)  # each example writes a tree of files
@given(machines, st.data())
def test_nobody_leaves_what_is_allowed(machine, data):
    import tempfile

    allowed = data.draw(st.sets(st.sampled_from(machine.online), min_size=1))
    workers = data.draw(st.integers(1, 9))
    gpus = data.draw(st.lists(st.integers(-1, 5), max_size=9))
    with tempfile.TemporaryDirectory() as folder:
        topology = Topology(str(machine.build(Path(folder)) / "sys"))
        for mode in MODES:
            for found in placements(mode, topology, frozenset(allowed), workers, gpus):
                assert found.cpus <= allowed
                assert found.cpus or found.remark
                assert bool(found.cpus) == bool(found.nodes)


def test_torch_is_read_as_it_is():
    """The differential test replaces these; if they move, it must fail and not pass by chance."""
    binding = pytest.importorskip("torch.numa.binding")
    source = Path(binding.__file__).read_text()
    assert "with open(" in source and "os.sched_getaffinity(0)" in source
