"""Workers that overstay: by queue, by named pipe, and below the launcher."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from lab import Launch, script, wait_until
from rallypoint.elastic import timer
from rallypoint.elastic.timer.local_timer import MultiprocessingRequestQueue

SPAWN = multiprocessing.get_context("spawn")

WORKER = """
import os, sys, time
from rallypoint.elastic import timer

def stuck():
    print("stuck", flush=True)
    time.sleep(300)

client = timer.FileTimerClient(sys.argv[1], *map(int, sys.argv[3:]))
timer.configure(client)
with timer.expires(after=30, scope="enough"):
    pass
with timer.expires(after=float(sys.argv[2])):
    stuck()
"""


@contextmanager
def worker(*args):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WORKER, *map(str, args)], **pipes) as process:
        yield process
        process.kill()


@pytest.fixture
def served(tmp_path):
    told = []
    path = str(tmp_path / "timer")
    server = timer.FileTimerServer(path, "job", max_interval=60, log_event=lambda name, request: told.append(name))
    server.start()
    yield server, path, told
    server.stop()
    assert not os.path.exists(path)


def test_who_overstays_is_killed_with_its_stack_written_down(served):
    _server, path, told = served
    with worker(path, 0.2) as process:
        _, err = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    assert "in stuck" in err
    wait_until(lambda: "kill worker process" in told)
    assert told == ["watchdog started", "timer expired", "kill worker process"]


def test_the_client_chooses_the_signal(served):
    _server, path, _told = served
    with worker(path, 0.2, int(signal.SIGTERM)) as process:
        assert process.wait(60) == -signal.SIGTERM


def test_without_a_signal_it_goes_on(served):
    server, path, told = served
    with worker(path, 0.1, 0) as process:
        wait_until(lambda: "timer expired" in told)
        assert process.poll() is None
        assert "kill worker process" not in told
    assert server.get_last_progress_time() >= time.time() - 60


@pytest.mark.torch
def test_torchs_client_and_our_server(served, monkeypatch):
    theirs = pytest.importorskip("torch.distributed.elastic.timer")
    server, path, _told = served
    client = theirs.FileTimerClient(path)
    client.acquire("mine", time.time() + 100)
    wait_until(lambda: server._timers)
    [request] = server._timers.values()
    assert (request.worker_pid, request.scope_id, request.signal) == (os.getpid(), "mine", signal.SIGKILL)
    client.release("mine")
    wait_until(lambda: not server._timers)


@pytest.mark.torch
def test_our_client_and_torchs_server(tmp_path):
    theirs = pytest.importorskip("torch.distributed.elastic.timer")
    server = theirs.FileTimerServer(str(tmp_path / "t"), "job", max_interval=0.05)
    server.start()
    client = timer.FileTimerClient(str(tmp_path / "t"))
    client.acquire("mine", time.time() + 100)
    wait_until(lambda: server._timers)
    client.release("mine")
    wait_until(lambda: not server._timers)
    server.stop()


def test_run_once_takes_in_what_is_there(tmp_path):
    server = timer.FileTimerServer(str(tmp_path / "t"), "job")
    client = timer.FileTimerClient(str(tmp_path / "t"))
    server.start()
    client.acquire("a", time.time() + 100)
    os.write(os.open(tmp_path / "t", os.O_WRONLY), b"nonsense\n")
    server.run_once()
    assert server._request_count == 1 and not (tmp_path / "t").exists()
    assert "closed" in repr(server)


def test_without_a_server_the_client_says_so(tmp_path, monkeypatch):
    from rallypoint.elastic.timer import file_based_local_timer

    monkeypatch.setattr(file_based_local_timer, "_PAUSE", 0)
    os.mkfifo(tmp_path / "t")
    with pytest.raises(BrokenPipeError, match="no timer server is at"):
        timer.FileTimerClient(str(tmp_path / "t")).acquire("a", 1)


def test_a_request_that_is_too_long_is_refused(served):
    with pytest.raises(RuntimeError, match="a request may have 4096 bytes"):
        timer.FileTimerClient(served[1]).release("x" * 5000)


def stays(queue, seconds, reading):
    timer.configure(timer.LocalTimerClient(queue))
    with timer.expires(after=30):
        pass
    with timer.expires(after=seconds):
        reading.recv()  # for ever


@pytest.mark.parametrize("workers", [1, 3])
def test_local_timers(workers, capfd):
    queue = SPAWN.Queue()
    server = timer.LocalTimerServer(queue, max_interval=60)
    server.start()
    ends = [SPAWN.Pipe() for _ in range(workers)]
    processes = [SPAWN.Process(target=stays, args=(queue, 0.3, reading)) for reading, _ in ends]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    assert capfd.readouterr().err.count(" in stays") == workers
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 30  # max_interval is not waited for
    assert "not watching" in repr(server)


def test_requests_of_a_queue():
    queue = SPAWN.Queue()
    requests = MultiprocessingRequestQueue(queue)
    first = timer.TimerRequest(1, "a", 2.0)
    queue.put(first)
    assert requests.get(5, 1) == [first]
    assert requests.size() == 0 and requests.get(1, 0.01) == []
    assert first != timer.TimerRequest(1, "a", 3.0) and first != "a" and "within a" in repr(first)
    assert timer.FileTimerRequest(1, "a", 2.0) != timer.FileTimerRequest(1, "a", 2.0, 9)


def test_a_client_is_needed(monkeypatch):
    from rallypoint.elastic.timer import api

    monkeypatch.setattr(api, "_client", None)
    with pytest.raises(RuntimeError, match="no timer client is configured"), timer.expires(after=1):
        pass


def test_scope_is_the_callers_place():
    class Kept(timer.TimerClient):
        def acquire(self, scope_id, expiration_time):
            self.scope = scope_id

        def release(self, scope_id):
            assert scope_id == self.scope

    client = Kept()
    with timer.expires(after=1, client=client):
        pass
    name, _, line = client.scope.rpartition("#")
    assert name == __file__ and int(line) == test_scope_is_the_callers_place.__code__.co_firstlineno + 9


OVERSTAYS = """
from rallypoint.elastic import timer
timer.configure(timer.FileTimerClient(os.environ["TORCHELASTIC_TIMER_FILE"]))
if count == 0 and rank == 1:
    with timer.expires(after=0.2, scope="step"):
        time.sleep(300)
say("done", rank, count)
"""


def test_the_launcher_kills_who_overstays_and_starts_again(tmp_path):
    environ = {"TORCHELASTIC_ENABLE_FILE_TIMER": "1", "TMPDIR": str(tmp_path)}
    path = script(tmp_path, OVERSTAYS)
    with Launch("--nproc-per-node", 2, "--max-restarts", 1, "--log-dir", tmp_path / "logs", path, env=environ) as job:
        job.until("has overstayed its time within step: sending SIGKILL")
        assert job.end() == 0
    assert any("worker.py" in line and "line" in line for line in job.lines), job.text  # its stack
    assert sum("done" in line for line in job.out) >= 2
    assert not list(tmp_path.glob("watchdog_timer_*"))


def test_the_path_may_be_given(tmp_path):
    environ = {"TORCHELASTIC_ENABLE_FILE_TIMER": "1", "TORCHELASTIC_TIMER_FILE": str(tmp_path / "mine")}
    path = script(tmp_path, 'say(os.environ["TORCHELASTIC_TIMER_FILE"])')
    with Launch(path, env=environ) as job:
        assert job.end() == 0 and str(tmp_path / "mine") in job.text
    (tmp_path / "mine").write_text("")
    with Launch(path, env=environ) as job:
        assert job.end() == 2
        assert "something else than a named pipe is there" in job.text
