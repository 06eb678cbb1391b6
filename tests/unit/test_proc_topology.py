"""sysfs trees of real shapes, read; and what is missing or broken in them."""

import os

import pytest
from machines import DGX_A100, EPYC, GRACE, OFFLINE, SHAPES, TWO_SOCKETS, Machine, write

from rallypoint.proc.topology import UNKNOWN, Topology, format_cpus, parse_cpus


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-2,4,6-7", {0, 1, 2, 4, 6, 7}), ("5", {5}), ("", set()), ("\n", set()), (" 1 , 3-4\n", {1, 3, 4}),
        ("x,-1,2-", {2}),
    ],
)  # fmt: skip
def test_the_kernels_lists_are_read(text, cpus):
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize(("cpus", "text"), [((3, 1, 0, 2, 9), "0-3,9"), ((), ""), ((7,), "7")])
def test_the_kernels_lists_are_written(cpus, text):
    assert format_cpus(cpus) == text


@pytest.mark.parametrize("name", SHAPES)
def test_nodes_hold_their_cpus_that_are_online(name, tmp_path):
    machine = SHAPES[name]
    topology = Topology(str(machine.build(tmp_path) / "sys"))
    assert topology.nodes() == {n: machine.cpus(n) for n in range(machine.sockets * machine.nodes)}
    assert topology.online() == set(machine.online)


def test_nodes_of_memory_alone_are_left_out(tmp_path):
    assert list(Topology(str(GRACE.build(tmp_path) / "sys")).nodes()) == [0]


def test_cores_sockets_and_caches(tmp_path):
    topology = Topology(str(EPYC.build(tmp_path) / "sys"))
    assert topology.core(3) == topology.core(67) == {3, 67}
    assert topology.socket(63) == 0
    assert topology.complex(0) == {*range(8), *range(64, 72)}
    assert [min(group) for group in topology.complexes(EPYC.cpus(1))] == [16, 24]
    assert len(topology.cores(EPYC.cpus(1))) == 16
    assert topology.cores({1, 65, 2}) == [{1, 65}, {2}]


def test_the_largest_group_of_a_cache_comes_first(tmp_path):
    topology = Topology(str(EPYC.build(tmp_path) / "sys"))
    assert topology.complexes({0, 1, 8, 9, 10}) == [{8, 9, 10}, {0, 1}]


def test_sockets_of_several_nodes(tmp_path):
    topology = Topology(str(DGX_A100.build(tmp_path) / "sys"))
    assert [topology.socket(min(cpus)) for cpus in topology.nodes().values()] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_offline_cpus_are_nobodys_siblings(tmp_path):
    topology = Topology(str(OFFLINE.build(tmp_path) / "sys"))
    assert topology.core(18) == {18} and topology.core(0) == {0, 16}


def test_devices_and_their_nodes(tmp_path):
    topology = Topology(str(Machine(sockets=2, gpus=(1, -1)).build(tmp_path) / "sys"))
    assert topology.node_of_pci("0000:10:00.0") == 1
    assert topology.node_of_pci("0000:18:00.0") == UNKNOWN
    assert topology.node_of_pci("0000:AA:00.0") == UNKNOWN


def test_a_machine_that_tells_nothing_is_one_node(tmp_path):
    bare = Topology(str(tmp_path))
    assert bare.nodes() == {0: frozenset()}
    assert bare.core(3) == {3} and bare.socket(3) == 0 and bare.complexes({1, 2}) == []
    assert bare.cores({4, 2}) == [{2}, {4}]
    without_nodes = Machine(node_folder=False, cores=4).build(tmp_path / "b")
    assert Topology(str(without_nodes / "sys")).nodes() == {0: {0, 1, 2, 3}}


def test_nonsense_reads_as_nothing(tmp_path):
    root = TWO_SOCKETS.build(tmp_path)
    write(root / "sys/devices/system/cpu/cpu0/topology/physical_package_id", "?")
    write(root / "sys/devices/system/cpu/cpu0/cache/index3/level", "")
    topology = Topology(str(root / "sys"))
    assert topology.socket(0) == 0
    assert topology.complex(0) == topology.core(0)


def test_this_machine_is_understood():
    topology = Topology()
    cpus = frozenset().union(*topology.nodes().values())
    assert os.sched_getaffinity(0) <= cpus
    assert f"{format_cpus(topology.nodes()[0])}" in repr(topology)
