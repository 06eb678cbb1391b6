"""Nothing survives the launcher, however it ends and whatever the workers started. (FAULTS 17)"""

import os
import signal
import subprocess
import sys

import pytest

from lab import RALLYRUN, Launch, Terminal, is_zombie, reports, script, wait_until

# A worker, a grandchild in a process group of its own with a child, and a daemon in a session of its own.
FAMILY = """
import subprocess
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
nap = 'import time; time.sleep(600)'
parent = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {nap!r}])'
subprocess.Popen([sys.executable, '-c', parent], process_group=0)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""
SIZE = 4


def gone(launch, limit=2.0):
    wait_until(lambda: not launch.alive(), limit, f"the end of {launch.alive()}")


@pytest.fixture
def family(tmp_path):
    """A launcher with two families that ignore every polite signal."""
    with Launch("--nproc-per-node", 2, script(tmp_path, FAMILY)) as launch:
        wait_until(lambda: len(launch.workers()) >= 2 * SIZE, 10, "the families")
        yield launch


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGALRM])
def test_17_the_launcher_dies(family, number):
    """Of SIGKILL, of a crash, of a signal that nobody expects."""
    family.signal(number)
    gone(family)
    assert family.process.wait(5) == -number


def test_17_its_whole_group_is_killed(family):
    os.killpg(family.pid, signal.SIGKILL)
    gone(family)


def test_17_the_launcher_is_frozen_and_killed(family):
    family.signal(signal.SIGSTOP)
    family.signal(signal.SIGKILL)
    gone(family)


def test_17_the_guard_is_killed_first(family):
    """A dead guard is replaced."""
    (guard,) = family.alive().keys() - family.workers().keys() - {family.pid}
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: family.alive().keys() - family.workers().keys() - {family.pid, guard}, 5, "a new guard")
    family.signal(signal.SIGKILL)
    gone(family)


def test_17_the_shell_that_has_the_terminal_dies(tmp_path):
    """The terminal hangs up, as when its window is closed: SIGHUP, and the grace that it gives."""
    command = ["sh", "-c", '"$@"; true', "sh", *RALLYRUN]
    args = ("--shutdown-timeout", 0.5, "--nproc-per-node", 2, script(tmp_path, FAMILY))
    with Terminal(*args, command=command) as terminal:
        wait_until(lambda: len(terminal.workers()) >= 2 * SIZE + 1, 10, "the families")
        terminal.signal(signal.SIGKILL)
        gone(terminal, 2.5)


def test_17_a_stop_in_order_leaves_nothing_either(tmp_path):
    with Launch("--nproc-per-node", 2, "--shutdown-timeout", 0.5, script(tmp_path, FAMILY)) as launch:
        wait_until(lambda: len(launch.workers()) >= 2 * SIZE, 10, "the families")
        launch.signal(signal.SIGTERM)
        assert launch.end(5) == 143
        assert not launch.alive()


def test_17_what_workers_leave_behind_is_swept_before_a_restart(tmp_path):
    """The daemon of the first start is gone when the second begins; SIGTERM reaches it."""
    text = """
import glob
folder = sys.argv[1]
if count:
    say('left', len(glob.glob(f'{folder}/*')))
    sys.exit(0)
if os.fork() == 0:
    os.setsid()
    open(f'{folder}/{rank}', 'w')
    signal.signal(signal.SIGTERM, lambda *_: (os.unlink(f'{folder}/{rank}'), os._exit(0)))
    signal.pause()
while len(os.listdir(folder)) < world:
    time.sleep(0.01)
os._exit(3)
"""
    (tmp_path / "daemons").mkdir()
    with Launch("--nproc-per-node", 2, "--max-restarts", 1, script(tmp_path, text), tmp_path / "daemons") as launch:
        assert launch.end(10) == 0
        assert not launch.alive()
    assert launch.lines.count("left 0") == 2


def test_17_a_success_leaves_no_daemon(tmp_path):
    text = "if os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
    with Launch("--nproc-per-node", 2, script(tmp_path, text)) as launch:
        assert launch.end(10) == 0
        assert not launch.alive()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_17_a_command_that_ignores_term(tmp_path, how):
    """No Python and no hook: a shell that will not stop, its child, and its child in the background."""
    command = 'trap "" TERM HUP INT; sleep 600 & sh -c "sleep 600; true"; true'
    args = ("--nproc-per-node", 2, "--shutdown-timeout", 0.5, "--no-python", "sh", "-c", command)
    with Launch(*args) as launch:
        wait_until(lambda: len(launch.workers()) >= 8, 10, "the shells")
        launch.signal(how)
        gone(launch, 2.5)


def test_17_a_launcher_within_a_worker_is_killed(tmp_path):
    """The inner launcher, its guard and its workers go with the outer one."""
    inner = [*RALLYRUN, "--nproc-per-node", "2", script(tmp_path, FAMILY)]
    with Launch("--no-python", *inner) as launch:
        wait_until(lambda: len(launch.workers()) >= 2 * SIZE + 1, 10, "the families")
        launch.signal(signal.SIGKILL)
        gone(launch)


def test_nested_an_inner_launcher_is_killed(tmp_path):
    inner = [*RALLYRUN, "--nproc-per-node", "2", script(tmp_path, "say('up')\ntime.sleep(600)\n")]
    with Launch("--no-python", *inner) as launch:
        launch.until("up", count=2)
        (pid,) = (p for p, c in launch.workers().items() if "rallypoint run" in c)
        os.kill(pid, signal.SIGKILL)
        assert launch.end(5) == 137
        gone(launch)


def test_nested_the_error_is_handed_on(tmp_path):
    """The outer launcher names what happened to the inner launcher's worker, with its traceback."""
    path = script(tmp_path, "if rank == 1:\n    raise KeyError('deep down')\ntime.sleep(600)\n")
    inner = [*RALLYRUN, "--nproc-per-node", "2", path]
    with Launch("--log-format", "json", "--no-python", *inner) as launch:
        assert launch.end(10) == 1
        assert not launch.alive()
    (cause,) = (r["fields"]["outcome"]["cause"] for r in reports(launch) if r["event"] == "finished")
    assert (cause["type"], cause["message"]) == ("KeyError", "'deep down'")
    assert "raise KeyError('deep down')" in cause["traceback"]


def test_nested_the_inner_environment_is_the_inner_launchers(tmp_path):
    path = script(tmp_path, "say('inner', rank, world, os.environ['LOCAL_WORLD_SIZE'], count)\n")
    inner = [*RALLYRUN, "--nproc-per-node", "2", path]
    with Launch("--nproc-per-node", 3, "--no-python", *inner) as launch:
        assert launch.end(15) == 0
    assert sorted(launch.lines) == ["inner 0 2 2 0"] * 3 + ["inner 1 2 2 0"] * 3


FREEZER = "/sys/fs/cgroup/freezer"


@pytest.fixture
def freezer():
    """A cgroup (v1) in which SIGKILL waits until it is thawed: as near as one comes to a dead disk."""
    folder = f"{FREEZER}/rallypoint-{os.getpid()}"
    try:
        os.mkdir(folder)
    except OSError as error:
        pytest.skip(f"no freezer cgroup may be made: {error}")
    yield folder
    write(f"{folder}/freezer.state", "THAWED")
    wait_until(lambda: not read(f"{folder}/cgroup.procs"), 5, "the end of what was frozen")
    os.rmdir(folder)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def read(path):
    with open(path) as file:
        return file.read()


@pytest.mark.slow
def test_a_worker_that_sigkill_does_not_end_is_abandoned(tmp_path, freezer):
    """It is said, and the restart goes on without it."""
    path = script(tmp_path, "if count == 0:\n    say(rank, 'has pid', os.getpid())\n    time.sleep(600)\n")
    failing = ("--nproc-per-node", 2, "--max-restarts", 1, "--shutdown-timeout", 0.5)
    with Launch(*failing, path) as launch:
        launch.until("has pid", count=2)
        pids = {line.split()[0]: int(line.split()[-1]) for line in launch.lines if "has pid" in line}
        write(f"{freezer}/cgroup.procs", str(pids["0"]))
        write(f"{freezer}/freezer.state", "FROZEN")
        os.kill(pids["1"], signal.SIGKILL)
        assert launch.end(10) == 0
    assert f"pid {pids['0']}" in launch.text
    assert "does not end even on SIGKILL: left behind" in launch.text
    assert "uninterruptible sleep" in launch.text
    assert "restart 1 of 1 (rank 1" in launch.text


HOLDS = """
import ctypes, sys
trace = ctypes.CDLL(None).ptrace
trace.argtypes = [ctypes.c_long] * 4
print('holds', trace(0x4206, int(sys.argv[1]), 0, 0), flush=True)  # PTRACE_SEIZE, as a debugger does
sys.stdin.read()
"""


def test_a_dead_worker_that_a_debugger_holds(tmp_path):
    """Its end can only be read once the debugger lets go; until then the launcher looks after the others."""
    text = "signal.signal(signal.SIGUSR1, lambda *_: say('got it', rank))\nsay(rank, 'has pid', os.getpid())\n"
    path = script(tmp_path, text + "while True:\n    time.sleep(600)\n")
    with Launch("--nproc-per-node", 2, "--forward-signals", "USR1", path) as launch:
        launch.until("has pid", count=2)
        pid = next(int(line.split()[-1]) for line in launch.lines if line.startswith("1 has pid"))
        debugger = [sys.executable, "-c", HOLDS, str(pid)]
        with subprocess.Popen(debugger, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            if holder.stdout.readline() != "holds 0\n":
                pytest.skip("no process may be traced")
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: is_zombie(pid), 5)
            launch.signal(signal.SIGUSR1)
            launch.until("got it 0")
            assert launch.process.poll() is None
        assert launch.end(5) == 137
