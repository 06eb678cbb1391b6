"""Signals: who gets which, how often, and how much time there is. (FAULTS 18, 19, 20, 21)"""

import os
import signal
import sys
import time

import pytest

from lab import FACTOR, RALLYRUN, Launch, Terminal, free_port, script, wait_until

# A worker that needs a while to save when it is told to stop, and says so.
SAVES = """
folder, seconds = sys.argv[1], float(sys.argv[2])
def save(number, _frame):
    began = time.monotonic()
    with open(f'{folder}/{rank}.{count}', 'w') as file:
        while time.monotonic() - began < seconds:
            file.write('.')
            file.flush()
            time.sleep(0.01)
        file.write('complete')
    os._exit(0)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, save)
say('up', rank, os.getpid())
"""
SLEEP = "time.sleep(600)\n"
# Notes each signal and goes on, until a file is there.
NOTES = """
def note(number, _frame):
    say('got', signal.Signals(number).name, rank)
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, note)
say('up', rank, os.getpid())
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
"""


def saved(folder):
    """Return the names of the files that were written to their end."""
    return sorted(file.name for file in folder.iterdir() if file.read_text().endswith("complete"))


def pid_of(launch, rank):
    return next(int(line.split()[2]) for line in launch.lines if line.startswith(f"up {rank} "))


# 18: nohup


@pytest.mark.parametrize("command", [["nohup", *RALLYRUN], ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *RALLYRUN]])
def test_18_a_hang_up_that_was_ignored_at_the_start_stays_ignored(tmp_path, command):
    """By the launcher, and by its workers, which are left with the dispositions that nohup gave."""
    text = "say('up', signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)\nsys.stdin.read()\n"
    path = script(tmp_path, text + "while not os.path.exists(sys.argv[1]):\n    time.sleep(0.01)\nsay('done')\n")
    with Launch("--nproc-per-node", 2, path, tmp_path / "end", command=command) as launch:
        assert set(launch.until("^up", count=2)) == {"up True"}
        os.killpg(launch.pid, signal.SIGHUP)
        launch.signal(signal.SIGUSR1)  # handled after the first, so that it was handled too
        (tmp_path / "end").touch()
        assert launch.end(5) == 0
    assert launch.lines.count("done") == 2


def test_18_a_hang_up_stops_all(tmp_path):
    with Launch("--nproc-per-node", 2, script(tmp_path, "say('up')\n" + SLEEP)) as launch:
        launch.until("up", count=2)
        os.killpg(launch.pid, signal.SIGHUP)
        assert launch.end(5) == 129
        assert not launch.alive()


# 19: one grace for every way to stop


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_19_the_launcher_is_told_to_stop(tmp_path, files, number):
    with Launch("--nproc-per-node", 2, "--shutdown-timeout", 6, script(tmp_path, SAVES + SLEEP), files, 3) as launch:
        launch.until("up", count=2)
        launch.signal(number)
        assert launch.end(6) == 128 + number
    assert saved(files) == ["0.0", "1.0"]


@pytest.mark.slow
def test_19_a_peer_fails_and_then_the_budget_ends(tmp_path, files):
    """Two stops of three seconds each: before the restart, and before the end."""
    path = script(tmp_path, SAVES + "meet()\nif rank == 2:\n    sys.exit(5)\n" + SLEEP)
    with Launch("--nproc-per-node", 3, "--shutdown-timeout", 6, "--max-restarts", 1, path, files, 3) as launch:
        assert launch.end(20) == 5
    assert saved(files) == ["0.0", "0.1", "1.0", "1.1"]


@pytest.mark.slow
def test_19_one_that_ignores_term_is_killed_on_time(tmp_path):
    path = script(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay('up')\n" + SLEEP)
    with Launch("--nproc-per-node", 2, "--shutdown-timeout", 2, path) as launch:
        launch.until("up", count=2)
        began = time.monotonic()
        launch.signal(signal.SIGTERM)
        assert launch.end(6) == 143
        assert 1.9 < time.monotonic() - began < 2 + 1 * FACTOR


def test_19_from_the_environment(tmp_path):
    path = script(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay('up')\n" + SLEEP)
    with Launch(path, env={"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "0"}) as launch:
        launch.until("up")
        launch.signal(signal.SIGTERM)
        assert launch.end(2) == 143


def test_19_a_descendant_has_the_same_grace(tmp_path, files):
    """A data loader's process in a group of its own, or a session of its own, is asked before it is killed."""
    text = "import subprocess\nif len(sys.argv) == 3:\n    subprocess.Popen([sys.executable, *sys.argv, 'child'],"
    text += " start_new_session=rank == 1, process_group=0 if rank == 0 else None)\n"
    path = script(tmp_path, text + "else:\n    rank += 10\n" + SAVES + SLEEP)
    with Launch("--nproc-per-node", 2, "--shutdown-timeout", 6, path, files, 0.7) as launch:
        launch.until("up", count=4)
        launch.signal(signal.SIGTERM)
        assert launch.end(6) == 143
        assert not launch.alive()
    assert saved(files) == ["0.0", "1.0", "10.0", "11.0"]


# 20: signals that are only passed on


def test_20_forwarded_signals_reach_each_worker_once(tmp_path):
    end = tmp_path / "end"
    with Launch("--nproc-per-node", 3, "--forward-signals", "USR1,HUP", script(tmp_path, NOTES), end) as launch:
        launch.until("up", count=3)
        launch.signal(signal.SIGUSR1)
        launch.until("got SIGUSR1", count=3)
        launch.signal(signal.SIGHUP)
        launch.until("got SIGHUP", count=3)
        end.touch()
        assert launch.end(5) == 0
    assert sorted(line for line in launch.lines if line.startswith("got")) == [
        f"got {name} {rank}" for name in ("SIGHUP", "SIGUSR1") for rank in range(3)
    ]


def test_20_they_do_not_reach_what_the_worker_started(tmp_path):
    """A data loader without a handler would die of it."""
    text = "import subprocess\nchild = subprocess.Popen(['sleep', '600'])\n" + NOTES
    path = script(tmp_path, text + "say('child', child.poll())\nos._exit(0)\n")
    with Launch("--forward-signals", "USR1", path, tmp_path / "end") as launch:
        launch.until("up")
        launch.signal(signal.SIGUSR1)
        launch.until("got SIGUSR1")
        (tmp_path / "end").touch()
        assert launch.end(5) == 0
    assert "child None" in launch.lines


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_20_by_default_they_do_nothing(tmp_path, number):
    with Launch("--nproc-per-node", 2, script(tmp_path, NOTES), tmp_path / "end") as launch:
        launch.until("up", count=2)
        launch.signal(number)
        (tmp_path / "end").touch()
        assert launch.end(5) == 0
    assert "got" not in launch.text


def test_20_usr1_may_be_made_to_stop(tmp_path):
    with Launch("--signals-to-handle", "SIGUSR1", script(tmp_path, "say('up')\n" + SLEEP)) as launch:
        launch.until("up")
        launch.signal(signal.SIGUSR1)
        assert launch.end(5) == 128 + signal.SIGUSR1


# 21: Ctrl-C


@pytest.fixture
def bystander(tmp_path):
    """Another job on this host. It is untouched."""
    (tmp_path / "other").mkdir()
    with Launch("--nproc-per-node", 2, script(tmp_path / "other", "say('up')\n" + SLEEP)) as other:
        other.until("up", count=2)
        before = other.workers()
        yield other
        assert other.workers() == before
        assert other.process.poll() is None


@pytest.mark.parametrize(
    "meet",
    [
        ("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:{port}"),
        ("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:{port}", "--rdzv-conf", "is_host=0"),
        ("--node-rank", "0", "--master-addr", "127.0.0.1", "--master-port", "{port}"),
        ("--node-rank", "1", "--master-addr", "127.0.0.1", "--master-port", "{port}"),
        ("--rdzv-backend", "c10d", "--rdzv-endpoint", "192.0.2.1:29400"),
    ],
)
def test_21_while_waiting_for_nodes(tmp_path, meet):
    port = free_port()
    with Launch("--nnodes", 2, *(word.format(port=port) for word in meet), script(tmp_path, SLEEP)) as launch:
        caught = 1 << signal.SIGINT - 1
        wait_until(lambda: int(status(launch.pid, "SigCgt"), 16) & caught and waits(launch.pid), 5, "the wait")
        began = time.monotonic()
        os.killpg(launch.pid, signal.SIGINT)
        assert launch.end(2) == 130
        assert time.monotonic() - began < 1 * FACTOR
        assert not launch.alive()
    assert 1 <= len(launch.lines) <= 3
    assert "Traceback" not in launch.text


def status(pid, field):
    with open(f"/proc/{pid}/status") as file:
        return next(line.split()[1] for line in file if line.startswith(field))


def waits(pid):
    """Whether the process sleeps in its loop."""
    with open(f"/proc/{pid}/wchan") as file:
        return "poll" in file.read()


def test_21_each_worker_gets_one_and_the_second_kills(tmp_path, bystander):
    path = script(tmp_path, NOTES)
    with Launch("--nproc-per-node", 2, path, tmp_path / "never") as launch:
        launch.until("up", count=2)
        os.killpg(launch.pid, signal.SIGINT)
        launch.until("got SIGINT", count=2)
        began = time.monotonic()
        os.killpg(launch.pid, signal.SIGINT)
        assert launch.end(2) == 130
        assert time.monotonic() - began < 1 * FACTOR
        assert not launch.alive()
    assert sorted(line for line in launch.lines if line.startswith("got")) == ["got SIGINT 0", "got SIGINT 1"]
    assert launch.text.count("rallyrun:") == 3


@pytest.mark.parametrize("mode", ["pipe", "inherit"])
def test_21_at_a_terminal(tmp_path, mode):
    """A real Ctrl-C, and a real second one."""
    path = script(tmp_path, NOTES)
    with Terminal("--nproc-per-node", 2, "--logs", mode, path, tmp_path / "never") as terminal:
        terminal.until("up", count=2)
        terminal.type("\x03")
        terminal.until("got SIGINT", count=2)
        terminal.type("\x03")
        assert terminal.end(2) == 130
        assert not terminal.alive()
    assert len([line for line in terminal.lines if "got SIGINT" in line]) == 2


def test_21_a_plain_script_ends_by_keyboard_interrupt(tmp_path):
    with Launch("--nproc-per-node", 2, script(tmp_path, "say('up')\n" + SLEEP)) as launch:
        launch.until("up", count=2)
        os.killpg(launch.pid, signal.SIGINT)
        assert launch.end(3) == 130
    assert launch.lines[-1].startswith("rallyrun: stopped by SIGINT")


def test_21_before_the_run_has_begun(tmp_path):
    """Ctrl-C at any moment of the start: never a defect, never an orphan."""
    path = script(tmp_path, "time.sleep(600)\n")
    for delay in (0.02, 0.04, 0.06, 0.08, 0.1, 0.15):
        with Launch("--nproc-per-node", 2, path) as launch:
            time.sleep(delay)
            os.killpg(launch.pid, signal.SIGINT)
            # 1: Python itself was interrupted while it started.
            assert launch.end(5) in (130, -signal.SIGINT, 1), launch.text
            wait_until(lambda launch=launch: not launch.alive(), 2)
            assert "internal error" not in launch.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_job_in_the_background_of_a_shell(tmp_path, number):
    """The shell ignores both for it; whoever signals the launcher means the workers, too."""
    background = ["sh", "-c", '"$@" & echo launcher $!; wait $!', "sh", *RALLYRUN]
    with Launch("--nproc-per-node", 2, script(tmp_path, "say('up')\n" + SLEEP), command=background) as launch:
        launch.until("up", count=2)
        os.kill(int(launch.until("launcher")[0].split()[1]), number)
        assert launch.end(3) == 128 + number


def test_signals_that_were_blocked_at_the_start(tmp_path):
    blocked = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})"
    command = [sys.executable, "-c", blocked + "; os.execv(sys.argv[1], sys.argv[1:])", *RALLYRUN]
    with Launch("--forward-signals", "USR1", script(tmp_path, NOTES), tmp_path / "never", command=command) as launch:
        launch.until("up")
        launch.signal(signal.SIGUSR1)
        launch.until("got SIGUSR1")
        launch.signal(signal.SIGTERM)
        launch.until("got SIGTERM")
        launch.signal(signal.SIGTERM)
        assert launch.end(3) == 143
