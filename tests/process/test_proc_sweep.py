"""What the workers of a round left behind is asked to stop, then killed."""

import os
import signal
import time

import pytest
from test_proc_processes import LIMIT, World, python

from rallypoint.model.event import Exited, Spawned, Swept
from rallypoint.proc import procfs, sweep


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


def test_an_empty_sweep_is_one_look(world):
    world.exit(world.spawn("true"))
    costs = []
    for round in range(2, 7):
        world.exit(world.spawn("true", round=round))
        began = time.thread_time()
        world.processes.sweep(round, world.loop.now() + LIMIT)
        costs.append(time.thread_time() - began)
        assert world.events[-1] == Swept(round)
    count = len(procfs.table())
    assert min(costs) < 0.003 * max(1, count / 100), (costs, count)


def test_a_round_without_processes_is_swept_at_once(world):
    world.processes.sweep(4, 0.0)
    assert world.events == [Swept(4)]


LEFT_BEHIND = {
    "own process group": "set -m; sleep 61 & echo up; exit 1",
    "own session": "setsid sleep 61 & echo up; exit 1",
    "daemon": "(setsid sh -c 'sleep 61 & sleep 61' &) ; echo up; exit 1",
    "environment emptied": "env -i sleep 61 & echo up; exit 1",
    "child of a daemon, emptied": "setsid sh -c 'env -i setsid sleep 61; :' & sleep 0.2; echo up; exit 1",
}


@pytest.mark.parametrize("script", LEFT_BEHIND.values(), ids=LEFT_BEHIND)
def test_what_is_left_behind_is_ended(world, script):
    worker = world.spawn("sh", "-c", script)
    world.heard("up")
    assert world.exit(worker).code == 1
    assert world.sweep() < 5
    assert world.of(Swept) == [Swept(1)]
    assert [p for p in procfs.table().values() if p.alive and command(p.pid).startswith("sleep 61")] == []


def command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def test_term_first_then_kill_at_the_deadline(world):
    deaf = "trap 'echo told' TERM; echo up; while :; do sleep 0.05; done"
    worker = world.spawn("sh", "-c", f'setsid sh -c "{deaf}" & exec sleep 60')
    world.heard("up")
    world.processes.signal(worker, signal.SIGKILL, group=False)
    world.exit(worker)
    assert 0.9 < world.sweep(seconds=1.0) < 3
    world.heard("told")
    assert world.of(Swept) == [Swept(1)]


def test_a_child_that_saves_is_allowed_to_finish(world, tmp_path):
    saving = f"trap 'sleep 0.7; echo saved > {tmp_path}/saved; exit' TERM; echo up; while :; do sleep 0.05; done"
    worker = world.spawn("sh", "-c", f'setsid sh -c "{saving}" & sleep 0.1; exit 0')
    world.heard("up")
    world.exit(worker)
    assert world.sweep() < 5
    assert (tmp_path / "saved").read_text() == "saved\n"


def test_who_was_told_is_not_told_again(world):
    lines = (
        "import os, signal, time",
        "def told(*_):",
        "    os.write(1, b'told ')",
        "if os.fork(): time.sleep(60)",
        "signal.signal(signal.SIGTERM, told)",
        "os.write(1, b'up')",
        "end = time.monotonic() + 0.8",
        "while time.monotonic() < end: time.sleep(0.05)",
        "os.write(1, b'end')",
    )
    worker = world.spawn(*python(*lines))
    world.heard("up")
    older = time.monotonic() + 0.05  # the fork must be older than one tick of the kernel's process clock
    world.poll(lambda: time.monotonic() > older)
    world.processes.signal(worker, signal.SIGTERM)
    world.exit(worker)
    world.sweep()
    assert world.heard("end").count("told") == 1


def test_a_second_call_moves_the_deadline(world):
    worker = world.spawn("sh", "-c", "trap '' TERM; setsid sleep 60 & echo up; exit 0")
    world.heard("up")
    world.exit(worker)
    world.processes.sweep(1, world.loop.now() + 60)
    world.loop.turn(0.1)
    assert world.of(Swept) == []
    world.processes.sweep(1, world.loop.now())
    world.until(lambda: world.of(Swept), 5)


def test_what_cannot_be_killed_is_named_and_not_waited_for_again(world, monkeypatch):
    monkeypatch.setattr(sweep, "PATIENCE", 0.2)
    monkeypatch.setattr(procfs, "send", lambda fd, number: None)  # as if it were in uninterruptible sleep
    monkeypatch.setattr(procfs.Hunt, "TRIES", 1)
    worker = world.spawn("sh", "-c", "setsid sleep 60 & echo $!; exit 0")
    pid = int(world.heard("\n"))
    world.exit(worker)
    world.sweep(seconds=0.1)
    assert world.of(Swept) == [Swept(1, (pid,))]
    world.exit(world.spawn("true", round=2))
    world.processes.sweep(2, world.loop.now())
    assert world.events[-1] == Swept(2)
    os.kill(pid, signal.SIGKILL)
    world.poll(lambda: not world.marked())


def test_an_abandoned_worker_is_told_of_no_more(world):
    stuck = world.spawn("sleep", "60")
    pid = world.of(Spawned)[0].pid
    world.processes.abandon(stuck)
    world.sweep(seconds=0)
    assert world.of(Swept) == [Swept(1)]
    assert "1 abandoned" in repr(world.processes)
    os.kill(pid, signal.SIGKILL)
    world.until(lambda: "none" in repr(world.processes))
    assert world.of(Exited) == []
    assert procfs.read(pid) is None, "it was reaped"


def test_another_runs_processes_are_untouched(world):
    other = World()
    try:
        stranger = other.spawn("sh", "-c", "setsid sleep 60 & exec sleep 60")
        other.poll(lambda: len(other.marked()) == 2)
        world.exit(world.spawn("true"))
        world.sweep(seconds=0)
        world.processes.close()
        assert len(other.marked()) == 2
        other.processes.signal(stranger, signal.SIGTERM)
        assert other.exit(stranger).signal == signal.SIGTERM
    finally:
        other.close()


def test_an_outer_run_ends_the_inner_ones_workers(world):
    env = {"RALLYPOINT_MARK": f"{world.mark}:inner"}
    worker = world.spawn("sh", "-c", "setsid sleep 61 & exit 0", env=env)
    world.exit(worker)
    world.sweep()
    assert world.marked() == []


def test_a_living_main_process_is_not_the_sweeps(world):
    worker = world.spawn("sh", "-c", "sleep 61 & echo up; exec sleep 60")
    world.heard("up")
    world.sweep()
    assert world.of(Exited) == []
    world.poll(lambda: len(world.marked()) == 1)
    world.processes.signal(worker, signal.SIGTERM)
    assert world.exit(worker).signal == signal.SIGTERM


def test_a_fork_storm_is_ended(world):
    storm = (
        "import os, signal, time\nsignal.signal(15, signal.SIG_IGN)\nwhile 1:\n if os.fork(): os._exit(0)\n os.setsid()"
    )
    worker = world.spawn("sh", "-c", f"setsid {python('')[0]} -I -S -c '{storm}' & echo up; exit 0")
    world.heard("up")
    world.exit(worker)
    world.sweep(seconds=0.2)
    assert world.of(Swept) == [Swept(1)]
