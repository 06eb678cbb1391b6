"""Pre-flight's look at a machine, on trees that stand for machines."""

import os
import resource
import types

import pytest

from rallypoint.driver.preflight import clock
from rallypoint.proc import checks
from rallypoint.proc.checks import FAILED, OK, WARNING

NVIDIA = "Model: \t\t NVIDIA H100\nGPU UUID: \t GPU-{n}aaaaaaa\nDevice Minor: \t {n}\n"


def machine(root, available=None, gpus=0, answering=None):
    (root / "proc").mkdir()
    if available is not None:
        (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {available // 1024} kB\n")
    (root / "dev/shm").mkdir(parents=True)
    for number in range(gpus):
        folder = root / f"proc/driver/nvidia/gpus/0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(NVIDIA.format(n=number))
        (root / f"dev/nvidia{number}").touch()
    return str(root)


def test_memory_for_each_worker(tmp_path):
    root = machine(tmp_path, available=1 << 30)
    assert checks.memory(8, root).state == OK
    check = checks.memory(9, root)
    assert (check.state, check.words) == (FAILED, "1 GiB available for 9 workers, 1.12 GiB are the least")
    assert "--nproc-per-node" in check.mend


def test_a_kernel_that_does_not_say(tmp_path):
    assert checks.memory(1, machine(tmp_path)).state == WARNING


def test_the_cgroup_may_allow_less(monkeypatch):
    group = types.SimpleNamespace(limit=lambda: 100 * checks.MIB)
    monkeypatch.setattr(checks, "find_cgroup", lambda *_: group)
    check = checks.memory(1)
    assert check.state == FAILED and check.words.startswith("100 MiB allowed by the cgroup for 1 workers")


@pytest.mark.parametrize(("free", "state"), [(64 << 10, FAILED), (64 << 20, WARNING), (8 << 30, OK)])
def test_shared_memory(tmp_path, monkeypatch, free, state):
    root = machine(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _path: types.SimpleNamespace(f_bavail=free >> 12, f_frsize=1 << 12))
    check = checks.shared_memory(root)
    assert check.state == state
    assert ("--shm-size" in check.mend) == (state != OK)


def test_no_shared_memory_at_all(tmp_path):
    check = checks.shared_memory(str(tmp_path))
    assert (check.state, check.words) == (FAILED, "no such file or directory")


@pytest.mark.parametrize(
    ("soft", "hard", "state", "mend"),
    [
        (64, 1024, FAILED, "ulimit -n 1024"),
        (1024, 1 << 20, WARNING, "ulimit -n 65536"),
        (4096, 4096, OK, ""),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, OK, ""),
    ],
)
def test_open_files(monkeypatch, soft, hard, state, mend):
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (soft, hard))
    check = checks.open_files(8)
    assert check.state == state and check.mend.startswith(mend)


def test_gpus(tmp_path):
    root = machine(tmp_path, gpus=4)

    def look(nproc=4, devices=None, mask=None):
        (check,) = checks.gpus(nproc, devices, {} if mask is None else {"CUDA_VISIBLE_DEVICES": mask}, root)
        return check.state, check.words

    assert look() == (OK, "4 visible of 4")
    assert look(mask="0,1") == (WARNING, "2 visible of 4 for 4 workers: some will share")
    assert look(devices=4, mask="0,1,2") == (FAILED, "3 visible of 4, 4 are wanted")
    assert look(nproc=2, mask="") == (OK, "0 visible of 4"), "who hides them all wants none"


def test_a_gpu_that_does_not_answer(tmp_path, monkeypatch):
    root = machine(tmp_path, gpus=4)
    real = checks.nvidia_gpus
    monkeypatch.setattr(checks, "nvidia_gpus", lambda at, nvml: real(at, nvml=False)[: 3 if nvml else 4])
    monkeypatch.setattr(checks.os.path, "join", os.path.join)
    check = next(c for c in checks.gpus(4, None, {}, root) if c.name == "GPUs")
    assert check.state == OK, "on a recorded machine nobody asks NVML"
    monkeypatch.setattr(checks, "nvidia_gpus", lambda _at, nvml: real(root, nvml=False)[: 3 if nvml else 4])
    (check,) = checks.gpus(4, None, {}, "/")
    assert (check.state, check.words) == (FAILED, "3 answer of 4 that are here")


@pytest.mark.parametrize(
    ("offset", "state", "words"),
    [
        (None, OK, "the store tells no time"),
        (1.5, OK, "1.5 s behind the store's"),
        (-90.0, FAILED, "90.0 s ahead of the store's, 5 s are allowed"),
    ],
)
def test_the_clock(offset, state, words):
    check = clock(types.SimpleNamespace(clock_offset=offset))
    assert (check.state, check.words) == (state, words)
