"""Workers start bound: affinity and memory policy of real processes, and of the launcher afterwards."""

import json
import os
import re
import urllib.request

import pytest

import rallypoint
from lab import RALLYRUN, Launch, free_port, script, wait_until
from rallypoint.driver.places import Places
from rallypoint.model.spec import Spec
from rallypoint.proc import binding
from rallypoint.proc.affinity import Placement
from rallypoint.proc.launch import start

ALLOWED = sorted(os.sched_getaffinity(0))


def child(place, warn):
    """Start cat under ``place``; return its (Cpus_allowed_list, memory policy) as the kernel tells them."""
    reading, writing = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    program = "cat /proc/self/status; head -1 /proc/self/numa_maps"
    try:
        with binding.bound(place, warn):
            pid = start("/bin/sh", ["sh", "-c", program], os.environ, (null, writing, null))
        os.close(writing)
        with os.fdopen(reading) as output:
            text = output.read()
        os.waitpid(pid, 0)
    finally:
        os.close(null)
    status = dict(line.partition(":\t")[::2] for line in text.splitlines())
    return status["Cpus_allowed_list"], text.splitlines()[-1].split()[1]


def test_a_child_starts_bound_and_we_are_as_before():
    said = []
    cpus, policy = child(Placement(frozenset({ALLOWED[-1]}), (0,)), said.append)
    assert cpus == str(ALLOWED[-1])
    assert said == [] or "set_mempolicy is refused" in said[0]
    assert said or policy == "prefer:0"
    assert sorted(os.sched_getaffinity(0)) == ALLOWED
    assert said or binding._get() == (0, [])


def test_no_place_is_no_binding():
    assert child(Placement(), pytest.fail)[0].count("-") == (len(ALLOWED) > 1)


def test_what_the_kernel_refuses_is_said_and_left(monkeypatch):
    said = []
    child(Placement(frozenset({4000}), (0,)), said.append)
    assert said == ["CPUs cannot be bound: Invalid argument"]
    monkeypatch.setattr(binding, "_CALLS", {})
    cpus, policy = child(Placement(frozenset({ALLOWED[0]}), (0,)), said.append)
    assert (cpus, policy) == (str(ALLOWED[0]), "default")
    assert said[1:] == ["memory stays where it is: set_mempolicy is refused (Function not implemented)"]
    monkeypatch.undo()
    child(Placement(frozenset({ALLOWED[0]}), (900,)), said.append)
    assert "set_mempolicy is refused" in said[-1]
    assert sorted(os.sched_getaffinity(0)) == ALLOWED


def test_an_older_policy_is_put_back():
    try:
        binding._set(2, (0,))  # bind, as under numactl
    except OSError:
        pytest.skip("this kernel refuses set_mempolicy")
    try:
        with binding.bound(Placement(frozenset(ALLOWED), (0,)), pytest.fail):
            assert binding._get() == (1, [0])
        assert binding._get() == (2, [0])
    finally:
        binding._set(0, ())


def two_nodes(root):
    """A machine of two nodes with a CPU each and two GPUs; of the first GPU the node is unknown."""
    files = {
        "sys/devices/system/cpu/online": "0-1",
        "sys/devices/system/node/online": "0-1",
        "sys/devices/system/node/node0/cpulist": "0",
        "sys/devices/system/node/node1/cpulist": "1",
    }
    for index, node in enumerate((-1, 1)):
        address = f"0000:{index + 1}0:00.0"
        files[f"sys/bus/pci/devices/{address}/numa_node"] = str(node)
        files[f"proc/driver/nvidia/gpus/{address}/information"] = f"Device Minor: {index}"
        files[f"dev/nvidia{index}"] = ""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_all_that_is_amiss_is_one_warning(tmp_path, monkeypatch):
    """Two allowed CPUs, a GPU of unknown node, no memory policy: workers start, within what is allowed."""
    root = two_nodes(tmp_path)
    monkeypatch.setattr(binding, "_CALLS", {})
    said, seen = [], []
    places = Places(Spec(("x",), {}, nproc=2, numa="node"), said.append, root=str(root))
    for rank in (0, 1, 0):
        with places.of(rank):
            seen.append(os.sched_getaffinity(0))
    assert all(cpus <= set(ALLOWED) for cpus in seen)
    assert seen[1] == {1} or len(ALLOWED) < 2
    assert len(said) == 1 and said[0].startswith("--numa-binding node: the machine does not tell"), said
    assert "set_mempolicy is refused" in said[0]


SHOW = 'say("cpus", sorted(os.sched_getaffinity(0)))'


@pytest.mark.skipif(len(ALLOWED) < 2, reason="one CPU cannot be shared out")
def test_the_launchers_option(tmp_path):
    from rallypoint.proc.topology import Topology

    path = script(tmp_path, SHOW)
    with Launch("--nproc-per-node", 2, "--numa-binding", "exclusive", "--omp", "auto", path) as job:
        assert job.end() == 0
    first, second = (json.loads(re.search(r"cpus (\[.*?\])", line)[1]) for line in job.out)
    cores = Topology().cores(ALLOWED)
    if len(cores) > 1 and len(Topology().nodes()) == 1:
        assert not set(first) & set(second)
    assert set(first) | set(second) <= set(ALLOWED)


@pytest.mark.skipif(len(ALLOWED) < 2, reason="one CPU cannot be shared out")
def test_omp_auto_divides_the_cores(tmp_path):
    from rallypoint.proc.topology import Topology

    path = script(tmp_path, 'say("threads", os.environ.get("OMP_NUM_THREADS"))')
    with Launch(
        "--nproc-per-node", 1, "--omp", "auto", path, command=["env", "-u", "OMP_NUM_THREADS", *RALLYRUN]
    ) as job:
        assert job.end() == 0
    assert f"threads {len(Topology().cores(ALLOWED))}" in job.text


def test_the_health_check_answers_during_rendezvous(tmp_path):
    port = free_port()
    conf = ("--nnodes", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}")
    with Launch(*conf, script(tmp_path, ""), env={"TORCHELASTIC_HEALTH_CHECK_PORT": str(port)}) as job:

        def asked():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20) as answer:
                    return json.loads(answer.read())
            except OSError:
                return None

        facts = wait_until(asked)
        assert facts["status"] == "alive" and facts["workers"] == 0
        wait_until(lambda: (asked() or {})["phase"] == "forming")
        job.signal(15)
        job.end()


def where_am_i():
    return sorted(os.sched_getaffinity(0))


@pytest.mark.skipif(len(ALLOWED) < 2, reason="one CPU cannot be shared out")
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_functions_are_bound_however_they_start(method):
    from rallypoint.proc.topology import Topology

    first, second = rallypoint.launch(where_am_i, nproc=2, start_method=method, numa="exclusive")
    if len(Topology().cores(ALLOWED)) > 1 and len(Topology().nodes()) == 1:
        assert not set(first) & set(second)
    assert set(first) | set(second) <= set(ALLOWED)
    assert sorted(os.sched_getaffinity(0)) == sorted(ALLOWED), "the launcher is as before"
