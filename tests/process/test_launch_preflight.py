"""Pre-flight: a node that is not fit is kept out and named, on its side and on the run's (FAULTS 37); the doctor."""

import resource
import signal
import sys
import time

import pytest

from job import Job, within
from lab import Launch, free_port, script

DOCTOR = [sys.executable, "-m", "rallypoint"]


def test_a_fit_node_runs(tmp_path):
    path = script(tmp_path, "say('here')")
    with Launch("--preflight", path) as launch:
        assert launch.end() == 0
    assert launch.out == ["here"]


def test_a_command_that_fails_keeps_the_node_out(tmp_path):
    path = script(tmp_path, "say('here')")
    with Launch("--preflight=echo one; echo the disk is gone >&2; exit 3", path) as launch:
        assert launch.end() == 77
    assert "kept out of the run" in launch.text and "command: exit status 3: the disk is gone" in launch.text
    assert "run it by hand on this node" in launch.text
    assert "here" not in launch.out and "Traceback" not in launch.text


def test_the_others_are_told_who_is_kept_out_and_go_on(tmp_path):
    with Job(tmp_path, nnodes="1:3", last_call_timeout=0.5) as job:
        job.start("A", "--preflight=true")
        job.until(1)
        job.start("B", "--preflight=exit 1")
        assert job.nodes["B"].end() == 77
        job.nodes["A"].until("is kept out: pre-flight check: command: exit status 1: it printed nothing")
        job.start("C", "--preflight")
        job.until(2, world=2)
        assert not job.events(node="B")
        job.finish("AC")
        assert job.ended("AC", 3) == [0, 0]


def test_too_few_open_files(tmp_path):
    path = script(tmp_path, "say('here')")

    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

    with Launch("--preflight", path, preexec_fn=few) as launch:
        assert launch.end() == 77
    assert "open files: 100 for each process" in launch.text and "ulimit -n" in launch.text


def test_a_command_that_hangs_can_be_interrupted(tmp_path):
    path = script(tmp_path, "say('here')")
    with Launch("--preflight=echo begun > $BEGUN; sleep 300", path, env={"BEGUN": str(tmp_path / "begun")}) as launch:
        from lab import wait_until

        wait_until((tmp_path / "begun").exists, 10, "the command")
        begin = time.monotonic()
        launch.signal(signal.SIGTERM)
        assert launch.end() != 0
        within(time.monotonic() - begin, 3, "the end")
        wait_until(lambda: not launch.alive(), 5, "nothing is left")


def test_a_variable_may_ask_for_it(tmp_path):
    path = script(tmp_path, "say('here')")
    for value, status in (("1", 0), ("0", 0), ("exit 4", 77)):
        with Launch(path, env={"PET_PREFLIGHT": value}) as launch:
            assert launch.end() == status


@pytest.mark.parametrize("backend", ["c10d", "static"])
def test_the_doctor_looks_at_the_store(tmp_path, backend):
    place = f"127.0.0.1:{free_port()}"
    where = [f"--rdzv-backend={backend}", f"--rdzv-endpoint={place}", "--nnodes=2"]
    with Launch("doctor", *where, command=DOCTOR) as early:
        assert early.end() == 0
    assert f"nobody serves it at {place} now" in early.text
    with Launch(*where, script(tmp_path, "say('here')")) as run:
        run.until("1 of 2|waiting", limit=30)
        with Launch("doctor", *where, command=DOCTOR) as fit:
            assert fit.end() == 0
        assert f"{place} answers, which sees this node at 127.0.0.1" in fit.text and "clock: 0.0 s" in fit.text
        with Launch("doctor", *where, "--rdzv-id=other", command=DOCTOR) as other:
            assert other.end() == 1
        assert "refuses: run id is 'other' here, 'none' there" in other.text
        run.signal(signal.SIGTERM)
        run.end()


def test_the_doctor_alone(tmp_path):
    with Launch("doctor", command=DOCTOR) as launch:
        assert launch.end() == 0
    assert "memory:" in launch.text and "none is needed: one node alone" in launch.text
    with Launch("doctor", "--preflight=exit 9", command=DOCTOR) as launch:
        assert launch.end() == 1
    assert "command: exit status 9" in launch.text and "1 failed" in launch.text
    with Launch("doctor", "--help", command=DOCTOR) as launch:
        assert launch.end() == 0
    with Launch("doctor", "--nnodes=x", command=DOCTOR) as launch:
        assert launch.end() == 2
