"""The orphan guard: whatever ends the launcher, nothing of the run is left 2 s later."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rallypoint.driver.loop import Loop
from rallypoint.model.result import WorkerId
from rallypoint.proc import keeper, procfs
from rallypoint.proc.processes import Processes

LAUNCHER = """
import os, sys
from rallypoint.driver.loop import Loop
from rallypoint.model.event import Exited
from rallypoint.model.result import WorkerId
from rallypoint.proc.processes import Processes

mark, script = sys.argv[1:]
loop, ends = Loop(), []
processes = Processes(loop, lambda event: ends.append(event) if isinstance(event, Exited) else None, mark)
outer = os.environ.get("RALLYPOINT_MARK")
env = dict(os.environ, RALLYPOINT_MARK=f"{outer}:{mark}" if outer else mark)
for rank in range(2):
    processes.spawn(WorkerId(1, rank), ["sh", "-c", script], env, (0, 1, 2))
loop.run_until(lambda: "pid" in repr(processes), 10)
os.write(1, b"guarded\\n")  # in one piece, whatever PYTHONUNBUFFERED says
if "FORK" in os.environ and os.fork() == 0:
    sys.stdin.read()  # a child of the launcher that holds all its descriptors, for as long as the test likes
    os._exit(0)
loop.run_until(lambda: len(ends) == 2)
processes.sweep(1, loop.now() + 5)
processes.close()
loop.close()
print("end", flush=True)
"""
NASTY = """trap '' TERM INT HUP QUIT
set -m
sleep 71.TAG &
set +m
setsid sleep 72.TAG &
setsid sh -c 'trap "" TERM; env -i sh -c "trap : TERM; while :; do sleep 73.TAG; done"; :' &
(setsid sh -c 'sleep 74.TAG & sleep 75.TAG' &)
echo up
while :; do sleep 1; done"""
LIMIT = 20.0
COUNTER = iter(range(10**6))


def commands():
    """The command lines of all living processes."""
    lines = {}
    for process in procfs.table().values():
        try:
            with open(f"/proc/{process.pid}/cmdline", "rb") as file:
                lines[process.pid] = file.read().replace(b"\0", b" ").decode().strip()
        except OSError:
            pass
    return {pid: line for pid, line in lines.items() if line}


def left(tag):
    """What belongs to the run: its workers, their descendants, its guard. All name the tag in their command."""
    return sorted(pid for pid, line in commands().items() if tag in line)


def gone_within(tag, seconds, children=0):
    end = time.monotonic() + seconds
    while len(rest := left(tag)) > children:
        assert time.monotonic() < end, [commands().get(pid) for pid in rest]
        time.sleep(0.02)


class Launcher:
    """A stand-in for the launcher: a real process with two workers and a guard."""

    def __init__(self, script, through=(), **options):
        self.tag = f"{os.getpid()}{next(COUNTER):04d}"
        argv = [*through, sys.executable, "-c", LAUNCHER, f"guarded-{self.tag}", script.replace("TAG", self.tag)]
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | options
        self.process = subprocess.Popen(argv, **options)

    def await_start(self):
        lines = [self.process.stdout.readline().strip() for _ in range(3)]
        assert sorted(lines) == [b"guarded", b"up", b"up"], lines

    def guard(self):
        (pid,) = [pid for pid in left(self.tag) if "guard.py" in commands()[pid]]
        return pid

    def close(self):
        while pids := left(self.tag):
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.poll()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def launch():
    launchers = []

    def launch(*args, ready=True, **options):
        launchers.append(Launcher(*args, **options))
        if ready:
            launchers[-1].await_start()
        return launchers[-1]

    yield launch
    for launcher in launchers:
        launcher.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGHUP], ids=lambda n: n.name)
def test_the_launcher_is_ended(launch, number):
    launcher = launch(NASTY)
    wait_for(lambda: len(left(launcher.tag)) > 8)
    launcher.process.send_signal(number)
    launcher.process.wait(LIMIT)
    gone_within(launcher.tag, 2.0)


def test_the_shell_that_started_the_launcher_hangs_up(launch):
    launcher = launch(NASTY, through=("sh", "-c", '"$@"; :', "sh"), start_new_session=True)
    os.killpg(launcher.process.pid, signal.SIGHUP)  # as the kernel does when the terminal goes
    launcher.process.wait(LIMIT)
    gone_within(launcher.tag, 2.0)


def test_a_forked_child_that_holds_the_pipe_open(launch):
    reading, writing = os.pipe()
    launcher = launch(
        NASTY.replace("echo up", "exec 0</dev/null; echo up"), stdin=reading, env=os.environ | {"FORK": "1"}
    )
    os.close(reading)
    launcher.process.kill()
    gone_within(launcher.tag, 2.0, children=1)
    os.close(writing)
    gone_within(launcher.tag, 2.0)


def test_a_run_within_a_run(launch):
    quoted = LAUNCHER.replace("'", "'\\''")
    script = f"exec {sys.executable} -c '{quoted}' inner-TAG-$$ 'setsid sleep 72.TAG & exec sleep 71.TAG'"
    launcher = launch(script, ready=False)
    wait_for(lambda: len([pid for pid in left(launcher.tag) if commands().get(pid, "").startswith("sleep")]) == 8)
    launcher.process.kill()
    gone_within(launcher.tag, 2.0)


def wait_for(done):
    end = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_orderly_end_takes_the_guard_along(launch):
    launcher = launch("echo up; read line < /dev/null; exit 0")
    assert launcher.process.stdout.readline() == b"end\n"
    launcher.process.wait(LIMIT)
    gone_within(launcher.tag, 0.5)


def test_another_run_is_untouched(launch):
    one, two = launch("echo up; exec sleep 77.TAG"), launch("echo up; exec sleep 77.TAG")
    wait_for(lambda: len(left(two.tag)) == 4)  # launcher, guard, two workers
    before = left(two.tag)
    one.process.kill()
    gone_within(one.tag, 2.0)
    assert left(two.tag) == before
    assert two.process.poll() is None


def test_the_guard_heeds_no_signal_but_kill(launch):
    launcher = launch("echo up; exec sleep 77.TAG")
    guard = launcher.guard()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        os.kill(guard, number)
    launcher.process.kill()
    gone_within(launcher.tag, 2.0)


def test_a_guard_that_dies_is_replaced(monkeypatch):
    monkeypatch.setattr(keeper, "RETRY", 0.05)
    tag = f"{os.getpid()}{next(COUNTER):04d}"
    with Loop() as loop:
        events = []
        with Processes(loop, events.append, f"replaced-{tag}") as processes:
            processes.spawn(WorkerId(1, 0), ["sleep", f"78.{tag}"], {"PATH": os.environ["PATH"]}, (0, 1, 2))
            guard = processes._keeper
            assert loop.run_until(lambda: guard.pid, LIMIT)
            first = guard.pid
            os.kill(first, signal.SIGKILL)
            assert loop.run_until(lambda: guard.pid not in {0, first}, LIMIT)
            assert procfs.read(first) is None, "it was reaped"
            assert repr(guard) == f"<GuardKeeper pid {guard.pid}, 1 workers>"
            wait_for(lambda: "guard.py" in commands().get(guard.pid, ""))
        assert "closed" in repr(guard)
        assert left(tag) == []


def test_a_guard_that_cannot_start_does_not_keep_us_busy(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    before = len(os.listdir("/proc/self/fd"))
    with Loop() as loop, Processes(loop, lambda _event: None, f"none-{os.getpid()}") as processes:
        processes.spawn(WorkerId(1, 0), ["sleep", "78"], {"PATH": os.environ["PATH"]}, (0, 1, 2))
        tried = processes._keeper
        loop.run_until(lambda: tried._timer is None, 0.0)
        assert not loop.run_until(lambda: False, 0.3)
        assert "not running" in repr(tried)
        assert len(os.listdir("/proc/self/fd")) < before + 10


def test_a_guard_that_does_not_read_is_replaced(monkeypatch):
    monkeypatch.setattr(keeper, "RETRY", 0.05)
    with Loop() as loop:
        guard = keeper.GuardKeeper(loop, f"frozen-{os.getpid()}")
        guard.add(2**22)
        assert loop.run_until(lambda: guard.pid, LIMIT)
        first = guard.pid
        os.kill(first, signal.SIGSTOP)
        while guard.pid == first and len(os.listdir("/proc/self/fd")) < 100 and procfs.read(first).state != "Z":
            guard.add(2**22)
        assert loop.run_until(lambda: guard.pid not in {0, first}, LIMIT)
        guard.close(quiet=True)
        assert procfs.read(first) is None
