"""A real out-of-memory kill, in a memory cgroup of our own, is told from a plain kill -9."""

import os
import signal
import subprocess
import sys

import pytest

LIMIT_MIB = 64
LAUNCHER = """
import os, sys
from rallypoint.driver.loop import Loop
from rallypoint.model.event import Exited
from rallypoint.model.result import WorkerId
from rallypoint.proc import evidence
from rallypoint.proc.processes import Processes

where, log, *argv = sys.argv[1:]
if log == "nolog":
    evidence.KernelLog.open = lambda self: None
if where == "inside":
    open(os.environ["GROUP"] + "/cgroup.procs", "w").write("0")
with Loop() as loop:
    ends = []
    emit = lambda event: ends.append(event) if isinstance(event, Exited) else None
    with Processes(loop, emit, f"oom-{os.getpid()}", guard=False) as processes:
        processes.spawn(WorkerId(1, 0), argv, os.environ, (0, 1, 2))
        assert loop.run_until(lambda: ends, 30)
        print(ends[0].exit.signal, ends[0].exit.oom)
"""
EATER = """
import os
open(os.environ["GROUP"] + "/cgroup.procs", "w").write("0")
eaten = [b"x" * (1 << 20) for _ in range(256)]
"""


@pytest.fixture
def group():
    """A memory cgroup (v1 or v2) with a limit; skips where we may not make one."""
    for mount, limit, swap in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max", "memory.swap.max"),
    ):
        path = f"{mount}/rallypoint-test-{os.getpid()}"
        try:
            os.mkdir(path)
        except OSError:
            continue
        if os.path.exists(f"{path}/{limit}"):
            write(f"{path}/{limit}", LIMIT_MIB << 20)
            write(f"{path}/{swap}", LIMIT_MIB << 20)
            yield path
            os.rmdir(path)
            return
        os.rmdir(path)
    pytest.skip("no memory cgroup can be made here")


def write(path, number):
    try:
        with open(path, "w") as file:
            file.write(str(number))
    except OSError:
        pass  # no swap accounting here


def told(group, where, log, *argv):
    command = [sys.executable, "-c", LAUNCHER, where, log, *argv]
    run = subprocess.run(command, env=os.environ | {"GROUP": group}, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    number, _, oom = run.stdout.strip().partition(" ")
    assert int(number) == signal.SIGKILL
    return oom


WORDS = f"out of memory: the cgroup's limit of {LIMIT_MIB / 1024:.2g} GiB was reached"


def test_the_counter_of_the_launchers_own_cgroup(group):
    assert told(group, "inside", "nolog", sys.executable, "-c", EATER) == WORDS


def test_a_worker_in_a_cgroup_of_its_own(group):
    """The kernel's log names it, where we may read that; else the machine's counter says: likely."""
    words = told(group, "outside", "log", sys.executable, "-c", EATER)
    assert words == WORDS or words.startswith("likely out of memory")


def test_a_plain_kill_within_the_cgroup(group):
    assert told(group, "inside", "log", "sh", "-c", "kill -9 $$") == ""
