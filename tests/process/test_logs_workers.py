"""Real workers' output: through pipes to files and consoles, whatever happens to them."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import tty

import pytest

from rallypoint.driver.loop import Loop
from rallypoint.logs import Logs
from rallypoint.model.result import WorkerId
from rallypoint.model.spec import LogSpec

NASTY = r"""
import os, sys
rank = int(sys.argv[1])
big = b"%d:" % rank + bytes([97 + rank]) * 1_000_000 + b"\n"
data = b"".join(b"%d: line %06d\n" % (rank, i) for i in range(10_000))
data += b"%d:\xff\xfe\xc3\x28 invalid \x00\n" % rank + big
data += b"".join(b"\r%d: %3d%%" % (rank, p) for p in range(101)) + b"\n" + b"%d: no end" % rank
for start in range(0, len(data), 5000 + rank):
    os.write(1, data[start : start + 5000 + rank])
    os.write(2, b"%d: err %d\n" % (rank, start))
"""


class Bench:
    """A loop, a console made of pipes (or given), and workers under Logs."""

    def __init__(self, tmp_path, console=None):
        self.loop = Loop()
        self.tmp_path = tmp_path
        self.console = console
        self.received = {1: b"", 2: b""}
        self.readers = {}
        self.warnings = []
        self.running = {}
        self.exits = {}
        self.logs = None
        self.to_close = []

    def open(self, *, run_id="job", role="default", **spec):
        if self.console is None:
            ends = {n: os.pipe() for n in (1, 2)}
            for n, (read_end, write_end) in ends.items():
                self.read_from(n, read_end)
                self.to_close += [read_end, write_end]
            self.console = (ends[1][1], ends[2][1])
        self.logs = Logs(LogSpec(**spec), self.loop, run_id, role, self.console, warn=self.warnings.append)
        return self.logs

    def read_from(self, n, fd):
        os.set_blocking(fd, False)
        self.readers[n] = fd
        self.loop.add_reader(fd, lambda: self.take(n))

    def take(self, n):
        try:
            data = os.read(self.readers[n], 1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.received[n] += data
        if not data:
            self.loop.remove_reader(self.readers[n])

    def start(self, code, rank=0, world=1, attempt=0, **options):
        worker = WorkerId(attempt + 1, rank)
        io = self.logs.prepare(worker, attempt, rank, world)
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", code, str(rank)],
            stdin=io.stdin,
            stdout=io.stdout,
            stderr=io.stderr,
            **options,
        )
        self.logs.spawned(worker)
        pidfd = os.pidfd_open(process.pid)
        self.running[worker] = process

        def ended():
            self.loop.remove_reader(pidfd)
            os.close(pidfd)
            process.wait()
            self.logs.drain(worker)
            self.exits[worker] = self.logs.last_lines(worker)
            self.logs.finish(worker)
            del self.running[worker]

        self.loop.add_reader(pidfd, ended)
        return worker, io, process

    def wait(self, limit=60):
        assert self.loop.run_until(lambda: not self.running, limit)

    def finish(self):
        """Close the logs, and read what the console still holds."""
        while not self.logs.flush(0):
            self.loop.turn(0.1)
        self.logs.close()
        for n in self.readers:
            before = -1
            while before != len(self.received[n]):
                before = len(self.received[n])
                self.take(n)

    def close(self):
        for process in self.running.values():
            process.kill()
            process.wait()
        if self.logs:
            self.logs.close()
        self.loop.close()
        for fd in self.to_close:
            os.close(fd)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    bench = Bench(tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def terminal(bench):
    """The bench with a terminal as its console; what appears there is ``received[1]``."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    bench.console = (slave, slave)
    bench.to_close += [master, slave]
    bench.read_from(1, master)
    return bench


def nasty_output(tmp_path, rank):
    """What NASTY writes, got without any launcher."""
    with (tmp_path / f"plain{rank}").open("wb") as out:
        subprocess.run([sys.executable, "-c", NASTY, str(rank)], stdout=out, stderr=subprocess.DEVNULL, check=True)
    return (tmp_path / f"plain{rank}").read_bytes()


def test_eight_workers_one_killed_nothing_lost_nothing_mixed(bench):
    logs = bench.open(directory=str(bench.tmp_path / "logs"), tee={-1: 3})
    endless = "import os\nwhile True: os.write(1, b'7: ' + b'z' * 60 + b'\\n')"
    started = [bench.start(NASTY if rank < 7 else endless, rank, 8) for rank in range(8)]
    file = os.path.join(logs.directory, "attempt_0", "7", "stdout.log")
    assert bench.loop.run_until(lambda: os.path.getsize(file) > 1_000_000, 30)
    started[7][2].send_signal(signal.SIGKILL)
    bench.wait()
    bench.finish()
    lines = bench.received[1].split(b"\n")
    for rank in range(7):
        written = nasty_output(bench.tmp_path, rank)
        with open(os.path.join(logs.directory, "attempt_0", str(rank), "stdout.log"), "rb") as log:
            assert log.read() == written
        mine = [line for line in lines if line.startswith(b"[default%d]:" % rank)]
        bars = written.split(b"\n")[-2]
        rest = [line.partition(b":")[2] for line in mine if b"%" not in line]
        assert rest == [line for line in written.split(b"\n") if line != bars]
        assert mine[-2].endswith(b"100%")
    with open(file, "rb") as log:
        killed = log.read().split(b"\n")
    assert set(killed[:-1]) == {b"7: " + b"z" * 60}
    assert re.fullmatch(rb"(\[default\d\]:.*\n)*", bench.received[1], re.DOTALL)
    for line in lines[:-1]:
        prefix, rank = re.match(rb"\[default(\d)\]:(\d):", line).groups()
        assert prefix == rank, line[:100]


def test_one_worker_passes_through_byte_by_byte(bench):
    bench.open()
    bench.start(NASTY)
    bench.wait()
    bench.finish()
    assert bench.received[1] == nasty_output(bench.tmp_path, 0)
    assert not [name for name in os.listdir(bench.tmp_path) if name.startswith("rallypoint")]


def test_one_worker_shows_a_prompt_at_once_and_is_answered(bench):
    bench.open()
    answer, question = os.pipe()
    bench.to_close += [answer]
    code = "import sys; print('name? ', end='', flush=True); print('hello', sys.stdin.readline())"
    saved = os.dup(0)
    os.dup2(answer, 0)
    try:
        bench.start(code)
    finally:
        os.dup2(saved, 0)
        os.close(saved)
    assert bench.loop.run_until(lambda: bench.received[1] == b"name? ", 30)
    os.write(question, b"Ada\n")
    os.close(question)
    bench.wait()
    bench.finish()
    assert bench.received[1] == b"name? hello Ada\n\n"


def test_one_worker_on_one_console_keeps_the_order_of_both_streams(bench):
    read_end, write_end = os.pipe()
    bench.to_close += [read_end, write_end]
    bench.console = (write_end, write_end)
    bench.read_from(1, read_end)
    bench.open()
    bench.start("import os\nfor i in range(2000): os.write(1 + i % 2, b'%d\\n' % i)")
    bench.wait()
    bench.finish()
    assert bench.received[1] == b"".join(b"%d\n" % i for i in range(2000))


def test_several_workers_without_a_terminal_write_raw_whole_lines(bench):
    bench.open()
    for rank in range(4):
        bench.start(NASTY, rank, 4)
    bench.wait()
    bench.finish()
    lines = [line for line in bench.received[1].split(b"\n") if line]
    for rank in range(4):
        expected = nasty_output(bench.tmp_path, rank)
        assert b"\n".join(line for line in lines if line.lstrip(b"\r")[:2] == b"%d:" % rank) == expected


def test_a_terminal_gets_prefix_and_colour(terminal):
    terminal.open()
    for rank in range(2):
        terminal.start("import sys; print('hi from', sys.argv[1])", rank, 2)
    terminal.wait()
    terminal.finish()
    assert sorted(terminal.received[1].splitlines()) == [
        b"\x1b[32m[1]\x1b[0m hi from 1",
        b"\x1b[36m[0]\x1b[0m hi from 0",
    ]


def test_a_progress_bar_on_a_terminal(terminal):
    terminal.open()
    bar = "import sys,time\nfor i in range(21): print(f'\\r{i * 5:3}%', end='', flush=True); time.sleep(0.1)\nprint()"
    terminal.start(bar, 0, 2)
    terminal.start("pass", 1, 2)
    terminal.wait()
    terminal.finish()
    *updates, last = terminal.received[1].split(b"\r\x1b[K")
    assert 2 <= len(updates) <= 5
    assert last == b"\x1b[36m[0]\x1b[0m 100%\n"


def test_one_worker_has_the_terminal_for_itself(terminal):
    terminal.open()
    terminal.start("print('\\r 10%\\r 20%', end='')")
    terminal.wait()
    terminal.finish()
    assert terminal.received[1] == b"\r 10%\r 20%"


def test_a_blocked_console_holds_the_workers_not_the_loop(bench):
    bench.open()
    for fd in bench.readers.values():
        bench.loop.remove_reader(fd)  # nobody reads the console
    amount = 20_000_000
    code = f"import os\nline = b'x' * 99 + b'\\n'\nfor _ in range({amount} // 100): os.write(1, line)"
    bench.start(code, 0, 2)
    out = bench.logs._console.out
    assert bench.loop.run_until(lambda: out.full, 30)
    ticks = []
    bench.loop.call_at(bench.loop.now() + 0.2, lambda: ticks.append(1))
    assert bench.loop.run_until(lambda: ticks, 1), "the loop turns"
    assert out._size < 6 << 20, "the launcher does not hoard"
    assert bench.running
    bench.read_from(1, bench.readers[1])
    bench.wait()
    bench.finish()
    assert len(bench.received[1]) == amount
    assert bench.received[1].count(b"x" * 99 + b"\n") == amount // 100


def test_the_job_goes_on_when_the_consoles_reader_is_gone(bench):
    read_end, write_end = os.pipe()
    errors_read, errors = os.pipe()
    bench.to_close += [write_end, errors_read, errors]
    bench.console = (write_end, errors)
    os.close(read_end)
    bench.open()
    _, _, process = bench.start("for i in range(100_000): print('x' * 50)")
    bench.wait()
    assert process.returncode == 0
    assert len(bench.warnings) == 1
    assert "standard output" in bench.warnings[0]


def test_a_full_log_disk_costs_lines_not_the_job(bench):
    disk = bench.tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        logs = bench.open(directory=str(disk), tee={-1: 1})
        workers = [bench.start("for i in range(20_000): print(f'{i:99}')", rank, 2) for rank in range(2)]
        bench.wait()
        bench.finish()
        assert [process.returncode for _, _, process in workers] == [0, 0]
        assert bench.received[1].count(b"\n") == 40_000
        for rank in range(2):
            path = os.path.join(logs.directory, "attempt_0", str(rank), "stdout.log")
            said = [text for text in bench.warnings if path in text]
            assert len(said) == 2
            assert "no space left" in said[0]
            assert f"{2_000_000 - os.path.getsize(path)} bytes" in said[1]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_redirect_writes_the_file_alone_and_gives_last_words(bench):
    bench.open(directory=str(bench.tmp_path / "logs"), redirects={0: 3})
    worker, io, _ = bench.start("import sys; print('out'); print('err', file=sys.stderr)", 0, 2)
    bench.start("print('shown')", 1, 2)
    bench.wait()
    bench.finish()
    assert bench.received == {1: b"shown\n", 2: b""}
    with open(os.path.join(io.directory, "stdout.log"), "rb") as log:
        assert log.read() == b"out\n"
    assert os.stat(os.path.join(io.directory, "stderr.log")).st_mode & 0o777 == 0o600
    assert bench.exits[worker] == ("out", "err")
    assert os.listdir(os.path.dirname(io.directory) + "/1") == []


def test_tee_wins_over_redirect(bench):
    bench.open(directory=str(bench.tmp_path / "logs"), redirects={-1: 3}, tee={-1: 1})
    _, io, _ = bench.start("import sys; print('out'); print('err', file=sys.stderr)")
    bench.wait()
    bench.finish()
    assert bench.received == {1: b"[default0]:out\n", 2: b""}
    assert sorted(os.listdir(io.directory)) == ["stderr.log", "stdout.log"]


def test_filters_copy_the_shown_ranks_tee_lines_of_all_ranks_to_one_file(bench):
    logs = bench.open(
        directory=str(bench.tmp_path / "logs"), tee={-1: 1}, stdout_filters=("apple",), shown=(0, 1), role="trainer"
    )
    for rank in range(3):
        bench.start("import sys; print('pear\\napple', sys.argv[1])", rank, 3)
    bench.wait()
    bench.finish()
    with open(os.path.join(logs.directory, "attempt_0", "filtered_stdout.log")) as log:
        assert sorted(log) == ["[trainer0]:apple 0\n", "[trainer1]:apple 1\n"]
    assert b"apple 2" not in bench.received[1]
    assert os.path.getsize(os.path.join(logs.directory, "attempt_0", "2", "stdout.log")) == 13


def test_a_template_is_used_for_all_lines(bench):
    bench.open(template="<${role_name}/${rank}/${local_rank}/${other}> ", role="trainer")
    bench.start("print('x')")
    bench.wait()
    bench.finish()
    assert bench.received[1] == b"<trainer/0/0/${other}> x\n"


def test_a_hidden_worker_is_drained_all_the_same(bench):
    bench.open(shown=(0,))
    worker, _, process = bench.start("print('x\\n' * 1_000_000); print('end')", 1, 2)
    bench.wait()
    bench.finish()
    assert process.returncode == 0
    assert bench.received[1] == b""
    assert bench.exits[worker][-1] == "end"


def test_inherit_hands_over_the_console_itself(terminal):
    logs = terminal.open(mode="inherit")
    io = logs.prepare(WorkerId(1, 0), 0, 0, 2)
    other = logs.prepare(WorkerId(1, 1), 0, 1, 2)
    assert (io.stdin, io.stdout, io.stderr) == (0, *terminal.console)
    assert other.stdin != 0
    assert os.fstat(other.stdin).st_rdev == os.stat(os.devnull).st_rdev
    assert os.path.isdir(io.directory)


def test_only_the_first_worker_reads_standard_input(bench):
    logs = bench.open()
    assert logs.prepare(WorkerId(1, 0), 0, 4, 2).stdin == 0
    assert logs.prepare(WorkerId(1, 1), 0, 5, 2).stdin > 2


def test_each_start_has_a_directory_of_its_own(bench):
    logs = bench.open(run_id="../a b", directory=str(bench.tmp_path / "logs"), tee={-1: 3})
    for attempt in range(3):
        bench.start(f"print({attempt})", attempt=attempt)
        bench.wait()
    bench.finish()
    assert os.path.dirname(logs.directory) == str(bench.tmp_path / "logs")
    for attempt in range(3):
        with open(os.path.join(logs.directory, f"attempt_{attempt}", "0", "stdout.log")) as log:
            assert log.read() == f"{attempt}\n"


def test_error_files_lie_in_a_private_directory_that_may_be_kept(bench):
    logs = bench.open()
    io = logs.prepare(WorkerId(1, 0), 0, 0, 1)
    assert io.error_file == os.path.join(io.directory, "error.json")
    assert logs.directory is None
    logs.close(keep=True)
    assert os.path.isdir(io.directory)


def test_dev_null_as_log_directory_means_no_files(bench):
    logs = bench.open(directory=os.devnull, tee={-1: 3}, redirects={-1: 3})
    bench.start("print('x')")
    bench.wait()
    bench.finish()
    assert bench.received[1] == b"x\n"
    assert logs.directory is None


def test_no_descriptor_is_left_behind(bench):
    logs = bench.open(directory=str(bench.tmp_path / "logs"), tee={0: 3}, redirects={1: 3}, stdout_filters=("x",))
    before = os.listdir("/proc/self/fd")
    for attempt in range(200):
        for rank in range(3):
            logs.prepare(WorkerId(attempt, rank), attempt, rank, 3)
        for rank in range(3):
            logs.finish(WorkerId(attempt, rank))
    assert os.listdir("/proc/self/fd") == before


def test_a_descendant_that_holds_the_pipe_does_not_hold_the_end(bench):
    bench.open()
    worker, _, _ = bench.start(
        "import os, time\nprint('before')\nif not os.fork():\n while True: os.write(1, b'y' * 65536)\ntime.sleep(0.2)",
        start_new_session=True,
    )
    process = bench.running[worker]
    try:
        bench.wait(20)
        assert bench.received[1].startswith(b"before\n")
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_the_launchers_lines_stand_between_whole_lines(bench):
    logs = bench.open(tee={-1: 2}, directory=str(bench.tmp_path / "logs"))
    bench.start("import sys\nfor i in range(3000): sys.stderr.write('ab'); sys.stderr.write('cd\\n')", 0, 2)
    said = []

    def speak():
        logs.say(f"launcher {len(said)}")
        said.append(1)
        if bench.running:
            bench.loop.call_at(bench.loop.now() + 0.002, speak)

    speak()
    bench.wait()
    bench.finish()
    lines = bench.received[2].splitlines()
    assert lines.count(b"[default0]:abcd") == 3000
    assert [line for line in lines if b"launcher" in line] == [b"launcher %d" % n for n in range(len(said))]
    assert len(lines) == 3000 + len(said)


def test_finish_alone_takes_what_is_left_in_the_pipe(bench):
    logs = bench.open()
    worker = WorkerId(1, 0)
    io = logs.prepare(worker, 0, 0, 2)
    os.write(io.stdout, b"last words\n")
    logs.finish(worker)
    assert logs.last_lines(worker) == ()
    bench.finish()
    assert bench.received[1] == b"last words\n"
