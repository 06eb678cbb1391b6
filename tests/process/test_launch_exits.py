"""How a run on one node ends: whose exit status it is, what a restart costs, what is late. (FAULTS 8, 9, 16, 22)"""

import re
import signal
import socket
import time

import pytest

from lab import FACTOR, Launch, free_port, reports, script

SLEEP = "time.sleep(600)\n"


def told(launch, event):
    """The fields of all JSON messages of one kind."""
    return [report["fields"] for report in reports(launch) if report["event"] == event]


@pytest.mark.parametrize("count", [1, 4])
def test_success_is_silent_and_0(tmp_path, count):
    with Launch("--nproc-per-node", count, script(tmp_path, "say('hello', rank, world, count)")) as launch:
        assert launch.end() == 0
    assert sorted(launch.lines) == [f"hello {rank} {count} 0" for rank in range(count)]


def test_8_one_failure_stops_the_peers_at_once(tmp_path):
    path = script(tmp_path, "say('up')\nif rank == 1:\n    sys.exit(9)\n" + SLEEP)
    with Launch("--nproc-per-node", 3, path) as launch:
        launch.until("run failed", limit=4)
        assert launch.end(2) == 9
        assert not launch.alive()


def test_8_with_a_budget_all_start_again_at_once(tmp_path):
    text = "say('start', count, time.monotonic())\nmeet()\nif count:\n    sys.exit(0)\nif rank == 1:\n    sys.exit(9)\n"
    with Launch("--nproc-per-node", 3, "--max-restarts", 2, script(tmp_path, text + SLEEP)) as launch:
        assert launch.end(10) == 0
    starts = [line.split() for line in launch.lines if line.startswith("start")]
    assert sorted(int(count) for _, count, _ in starts) == [0, 0, 0, 1, 1, 1]
    first, last = (sorted(float(at) for _, count, at in starts if count == which)[-1] for which in "01")
    assert last - first < 1.0 * FACTOR
    assert launch.text.count("restart 1 of 2 (rank 1 on") == 1


def test_9_the_budget_is_spent_exactly(tmp_path):
    text = "say('count', count, os.environ['TORCHELASTIC_MAX_RESTARTS'])\nmeet()\n"
    path = script(tmp_path, text + "if rank == count % 2:\n    sys.exit(10 + count)\n" + SLEEP)
    with Launch("--nproc-per-node", 2, "--max-restarts", 3, "--log-format", "json", path) as launch:
        assert launch.end() == 13
        assert not launch.alive()
    counts = sorted(line for line in launch.lines if line.startswith("count"))
    assert counts == [f"count {count} 3" for count in range(4) for _ in range(2)]
    assert [fields["restart"] for fields in told(launch, "restart")] == [1, 2, 3]
    assert [fields["round"] for fields in told(launch, "failure")] == [1, 2, 3, 4]
    (outcome,) = (fields["outcome"] for fields in told(launch, "finished"))
    assert (outcome["restarts"], outcome["rounds"], outcome["exit_code"]) == (3, 4, 13)


def test_several_failures_at_once_cost_one_restart(tmp_path):
    path = script(tmp_path, "if count == 0:\n    sys.exit(5)\nsay('again', count)\n")
    with Launch("--nproc-per-node", 4, "--max-restarts", 1, path) as launch:
        assert launch.end() == 0
    assert launch.lines.count("again 1") == 4


def test_16_overdue(tmp_path):
    text = "def stuck_here():\n    time.sleep(600)\nif rank == 3:\n    stuck_here()\ntime.sleep(0.5 if rank else 0)\n"
    path = script(tmp_path, text)
    began = time.monotonic()
    with Launch("--nproc-per-node", 4, "--success-timeout", 2, path) as launch:
        assert launch.end() == 124
        took = time.monotonic() - began
        assert not launch.alive()
    assert 2.0 < took < 4.0 * FACTOR
    assert re.search(r"run failed: rank 3 \(local 3\).*still running 2 s after.*--success-timeout", launch.text)
    assert "in stuck_here" in launch.text
    assert not re.search(r"rank [012] \(local", launch.text)


def test_16_all_in_time(tmp_path):
    path = script(tmp_path, "time.sleep(0 if rank == 0 else 0.7)\n")
    with Launch("--nproc-per-node", 2, "--success-timeout", 5, path) as launch:
        assert launch.end() == 0


def test_16_overdue_is_a_failure_that_a_restart_may_mend(tmp_path):
    path = script(tmp_path, "if count == 0 and rank == 1:\n    time.sleep(600)\nsay('end', count)\n")
    with Launch("--nproc-per-node", 2, "--success-timeout", 0.5, "--max-restarts", 1, path) as launch:
        assert launch.end() == 0
    assert launch.lines.count("end 1") == 2


def test_22_all_ranks_42(tmp_path):
    with Launch("--nproc-per-node", 4, script(tmp_path, "sys.exit(42)\n")) as launch:
        assert launch.end() == 42


def test_22_peers_that_die_of_our_term_are_not_the_culprits(tmp_path):
    text = "signal.signal(signal.SIGTERM, lambda *_: os._exit(7))\nmeet()\nif rank == 2:\n    sys.exit(42)\n"
    with Launch("--nproc-per-node", 3, script(tmp_path, text + SLEEP)) as launch:
        assert launch.end() == 42
    assert "rank 0" not in launch.text
    assert "rank 1" not in launch.text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_22_a_signal_is_128_and_its_number(tmp_path, number):
    path = script(tmp_path, f"if rank == 1:\n    os.kill(os.getpid(), {int(number)})\n" + SLEEP)
    with Launch("--nproc-per-node", 2, path) as launch:
        assert launch.end() == 128 + number
    assert number.name in launch.text
    assert "out of memory" not in launch.text.lower()


def test_22_plain_kill_claims_no_oom(tmp_path):
    with Launch(script(tmp_path, "os.kill(os.getpid(), 9)\n")) as launch:
        assert launch.end() == 137
    assert "nothing on this node says who sent SIGKILL" in launch.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_22_the_launcher_is_told_to_end(tmp_path, number):
    with Launch("--nproc-per-node", 2, script(tmp_path, "say('up')\n" + SLEEP)) as launch:
        launch.until("up", count=2)
        launch.signal(number)
        assert launch.end(5) == 128 + number
        assert not launch.alive()
    assert f"stopped by {number.name}" in launch.lines[-1]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--nproc-per-node", "0"], "--nproc-per-node: '0'"),
        (["--nnodes", "3:2"], "--nnodes: '3:2'"),
        (["--max-restarts", "-1"], "--max-restarts: '-1'"),
        (["--signals-to-handle", "KILL"], "--signals-to-handle"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_22_usage(tmp_path, args, named):
    path = script(tmp_path, "say('started')\n")
    with Launch(*args, path) as launch:
        assert launch.end() == 2
    assert named in launch.lines[0]
    assert "started" not in launch.text
    assert len(launch.lines) <= 2


def test_22_rendezvous_timeout_75(tmp_path):
    path = script(tmp_path, "say('started')\n")
    endpoint = f"127.0.0.1:{free_port()}"
    args = ("--nnodes", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-conf", "join_timeout=1")
    with Launch(*args, path) as launch:
        assert launch.end() == 75
    assert "1 of 2 nodes here" in launch.text
    assert "1 missing" in launch.text
    assert "started" not in launch.text


@pytest.mark.parametrize("theirs", [["--nnodes", "1:3"], ["--nnodes", "2", "--rdzv-id", "another"]])
def test_22_refused_77(tmp_path, theirs):
    path = script(tmp_path, "say('started')\n" + SLEEP)
    meet = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}")
    with Launch("-v", "--nnodes", 2, *meet, "--rdzv-id", "one", path) as host:
        host.until("joined")
        began = time.monotonic()
        with Launch(*("--rdzv-id", "one"), *theirs, *meet, path) as other:
            assert other.end(5) == 77
        assert time.monotonic() - began < 2 * FACTOR
        assert "refused by the run" in other.text
        assert host.process.poll() is None


def test_22_a_command_that_cannot_start(tmp_path):
    path = tmp_path / "tool"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    with Launch("--max-restarts", 3, "--no-python", path) as launch:
        assert launch.end() == 127
    assert "interpreter" in launch.text
    assert "restart 1" not in launch.text


def test_22_a_taken_port_is_said(tmp_path):
    """Something else listens at the endpoint: it is not taken for a store."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        meet = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{other.getsockname()[1]}")
        with Launch("--nnodes", 1, *meet, "--rdzv-conf", "join_timeout=1", script(tmp_path, "")) as launch:
            assert launch.end() == 75
    assert "likely cause" in launch.text


def test_an_exit_right_after_the_start_of_many(tmp_path):
    """Ends arrive while other workers are still being started."""
    with Launch("--nproc-per-node", 12, "--max-restarts", 5, "--no-python", "false") as launch:
        assert launch.end() == 1
        assert not launch.alive()
    assert "5 of 5 restarts used" in launch.text
