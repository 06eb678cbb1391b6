"""What the workers print, on the console, in files, at a terminal; and what they read. (FAULTS 26, 27)"""

import os
import subprocess
import time

import pytest

from lab import FACTOR, RALLYRUN, Launch, Terminal, script

RANKS, LINES = 8, 10_000
# What every rank writes; the last rank is killed, and none ends its last line.
CONTENT = """
def content(rank):
    lines = [b'%d line %d ' % (rank, n) + b'x' * (n % 50) + b'\\n' for n in range(10_000)]
    lines[10] = b'\\xff\\xfe invalid \\x80 utf-8 of %d\\n' % rank
    lines[20] = b'bar 10%\\rbar 50%\\rbar 100%' + b' of %d\\n' % rank
    lines[30] = b'%d' % rank * (1 << 20) + b'\\n'
    lines[40] = b'\\n'
    return b''.join(lines) + b'%d has no end' % rank
"""
WRITES = (
    CONTENT
    + """
def write(fd, text):
    while text:
        text = text[os.write(fd, text[:sys.maxsize if rank % 2 else 777]):]
write(1, content(rank))
write(2, b'%d error 1\\n%d error 2' % (rank, rank))
meet()
if rank == world - 1:
    os.kill(os.getpid(), 9)
time.sleep(600)
"""
)


def content(rank):
    space = {}
    exec(CONTENT, space)
    return space["content"](rank)


def logs(folder):
    """Return path -> bytes of all log files, by their path below the run's directory."""
    (run,) = folder.iterdir()
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*.log")}


def expected_files():
    files = {f"attempt_0/{rank}/stdout.log": content(rank) for rank in range(RANKS)}
    return files | {f"attempt_0/{rank}/stderr.log": b"%d error 1\n%d error 2" % (rank, rank) for rank in range(RANKS)}


def test_26_redirected_files_are_what_was_written(tmp_path):
    with Launch("--nproc-per-node", RANKS, "-r", 3, "--log-dir", tmp_path / "logs", script(tmp_path, WRITES)) as launch:
        assert launch.end() == 137
    assert logs(tmp_path / "logs") == expected_files()
    assert all(line.startswith(("rallyrun: ", "  ")) for line in launch.lines)
    assert f"  {RANKS - 1} error 2" in launch.lines


@pytest.mark.parametrize("together", [True, False])
def test_26_tee_keeps_every_byte_in_files_and_every_line_whole(tmp_path, together):
    console = tmp_path / "console"
    args = ("--nproc-per-node", RANKS, "-t", 3, "--log-dir", tmp_path / "logs", script(tmp_path, WRITES))
    with console.open("wb") as out, Launch(*args, stdout=out, stderr=out if together else subprocess.PIPE) as launch:
        assert launch.end() == 137
    assert logs(tmp_path / "logs") == expected_files()
    seen = console.read_bytes()
    assert seen.endswith(b"\n")
    mine = [line for line in seen.split(b"\n")[:-1] if line.startswith(b"[default")]
    for rank in range(RANKS):
        prefix = b"[default%d]:" % rank
        shown = [line.removeprefix(prefix) for line in mine if line.startswith(prefix) and b" error " not in line]
        # A bar is shown in its last state.
        assert shown == content(rank).replace(b"bar 10%\rbar 50%\r", b"").split(b"\n")
    assert len(mine) == RANKS * (LINES + 1) + (RANKS * 2 if together else 0)


def test_26_without_options_every_line_is_whole(tmp_path):
    """No prefix, no file; the lines of all workers, each as it was written."""
    console = tmp_path / "console"
    with (
        console.open("wb") as out,
        Launch("--nproc-per-node", RANKS, script(tmp_path, WRITES), stdout=out, env={"NO_COLOR": "1"}) as launch,
    ):
        assert launch.end() == 137
    lines = sorted(console.read_bytes().split(b"\n"))
    # Where one that was unfinished came before another line, its end was supplied.
    assert [line for line in lines if line] == sorted(
        line for rank in range(RANKS) for line in content(rank).split(b"\n") if line
    )


@pytest.mark.slow
def test_27_the_launcher_needs_little_of_a_core(tmp_path):
    """8 workers with 1,000 lines a second each: 10 % of a core, which bench_console.py measures on a machine at rest.

    Here the launcher may be traced for coverage and share its core with others: the limit only shows that
    nothing spins.
    """
    text = """
end, n = time.monotonic() + 6, 0
while (now := time.monotonic()) < end:
    due = int((now - end + 6) * 1000)
    for n in range(n, due):
        say(rank, 'line', n, 'of a middling length, as programs print them all the time')
    n = due
    time.sleep(0.01)
"""
    with Launch("--nproc-per-node", 8, "-t", 3, "--log-dir", tmp_path / "logs", script(tmp_path, text)) as launch:
        launch.until("line 1000 ", count=8)
        before, began = cpu_seconds(launch.pid), time.monotonic()
        launch.until("line 5000 ", count=8)
        share = (cpu_seconds(launch.pid) - before) / (time.monotonic() - began)
        assert launch.end(10) == 0
    assert share < 0.3 * FACTOR
    assert len(launch.out) >= 8 * 5900


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_no_earlier_log_is_deleted(tmp_path):
    """Neither by a restart nor by another run."""
    path = script(tmp_path, "say('start', count, 'of', rank)\nmeet()\nsys.exit(count < 2)\n")
    folder = tmp_path / "logs"
    for _ in range(2):
        with Launch("--nproc-per-node", 2, "--max-restarts", 2, "-r", 3, "--log-dir", folder, path) as launch:
            assert launch.end() == 0
        for met in tmp_path.glob("met.*"):
            met.unlink()
    runs = list(folder.iterdir())
    assert len(runs) == 2
    for run in runs:
        for count in range(3):
            for rank in range(2):
                assert (run / f"attempt_{count}/{rank}/stdout.log").read_text() == f"start {count} of {rank}\n"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no file system may be mounted")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("option", ["-t", "-r"])
def test_a_full_disk_costs_log_lines_not_the_job(tmp_path, small_disk, option):
    path = script(tmp_path, "for _ in range(3000):\n    say('x' * 99)\nos.write(2, b'done\\n')\n")
    with Launch("--nproc-per-node", 2, option, 1, "--log-dir", small_disk, path) as launch:
        assert launch.end() == 0
    assert launch.lines.count("done") == 2
    assert sum(line.endswith("x" * 99) for line in launch.out) == (6000 if option == "-t" else 0)
    assert "no space left on device" in launch.text
    assert "bytes of output are missing" in launch.text


def test_a_disk_without_room_for_a_directory(tmp_path, small_disk):
    for number in range(200):
        try:
            (small_disk / str(number)).mkdir()
        except OSError:
            break
    with Launch("-t", 3, "--log-dir", small_disk, script(tmp_path, "say('all the same')\n")) as launch:
        assert launch.end() == 0
    assert "all the same" in launch.text
    assert "no log and error files" in launch.text.lower()


def test_the_reader_of_the_console_goes_away(tmp_path):
    """As in ``rallyrun ... | head -1``: the job goes on to its own end."""
    path = script(tmp_path, "for n in range(100_000):\n    say(n)\nopen(sys.argv[1], 'w').close()\n")
    pipeline = ["sh", "-c", '"$@" | head -1', "sh", *RALLYRUN]
    with Launch(path, tmp_path / "end", command=pipeline) as launch:
        assert launch.end() == 0
    assert launch.out == ["0"]
    assert (tmp_path / "end").exists()


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_standard_stream(tmp_path, closed):
    path = script(tmp_path, "say('out')\nopen(f'{sys.argv[1]}.{rank}', 'w').close()\n")
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *RALLYRUN]
    with Launch("--nproc-per-node", 2, path, tmp_path / "end", command=command) as launch:
        assert launch.end() == 0
    assert (tmp_path / "end.0").exists()
    assert (tmp_path / "end.1").exists()


@pytest.mark.parametrize("mode", ["pipe", "inherit"])
def test_standard_input_is_the_first_workers(tmp_path, mode):
    (tmp_path / "input").write_text("one\ntwo\n")
    path = script(tmp_path, "say(rank, 'read', sys.stdin.read().split())\n")
    with (tmp_path / "input").open() as file, Launch("--nproc-per-node", 3, "--logs", mode, path, stdin=file) as launch:
        assert launch.end() == 0
    assert sorted(launch.lines) == ["0 read ['one', 'two']", "1 read []", "2 read []"]


@pytest.mark.parametrize("mode", [("--logs", "inherit", "--nproc-per-node", 2), ("--logs", "inherit"), ()])
def test_a_debugger_in_rank_0_at_a_terminal(tmp_path, mode):
    """With one worker that works without asking, too."""
    text = """
meet()
if rank == 0:
    name = input('name? ')
    answer = 6 * 7
    breakpoint()
    say('bye', name, answer)
"""
    with Terminal(*mode, script(tmp_path, text)) as terminal:
        terminal.until(r"name\? $")
        terminal.type("Ada\n")
        terminal.until(r"\(Pdb\) $")
        terminal.type("p answer + 1\n")
        terminal.until(r"^43")
        terminal.type("answer = 5\n")
        terminal.until(r"\(Pdb\) $", count=1)
        terminal.type("c\n")
        terminal.until("bye Ada 5")
        assert terminal.end(5) == 0


def test_inherit_gives_the_terminal_itself(tmp_path):
    path = script(tmp_path, "say(rank, *(os.isatty(fd) for fd in range(3)))\n")
    with Terminal("--logs", "inherit", "--nproc-per-node", 2, path) as terminal:
        assert terminal.end() == 0
    assert sorted(line for line in terminal.lines if line[:1].isdigit()) == ["0 True True True", "1 False True True"]


def test_ranks_and_colours_at_a_terminal(tmp_path):
    with Terminal("--nproc-per-node", 2, script(tmp_path, "say('hello')\n")) as terminal:
        assert terminal.end() == 0
    assert [line for line in terminal.lines if "[0]" in line and line.endswith("hello")]
    assert "\x1b[" in terminal.text
    with Terminal("--nproc-per-node", 2, script(tmp_path, "say('hello')\n"), env={"NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
    assert sorted(line for line in terminal.lines if line) == ["[0] hello", "[1] hello"]


def test_only_some_ranks_are_shown(tmp_path):
    folder = tmp_path / "logs"
    path = script(tmp_path, "say('hello', rank)\n")
    shown = ("--local-ranks-filter", "1,3", "-t", 1, "--log-dir", folder)
    with Launch("--nproc-per-node", 4, *shown, path) as launch:
        assert launch.end() == 0
    assert sorted(launch.lines) == ["[default1]:hello 1", "[default3]:hello 3"]
    assert {f"hello {rank}\n".encode() for rank in range(4)} == set(logs(folder).values())


def test_a_template(tmp_path):
    template = {"TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "<${role_name}/${rank}/${local_rank}> "}
    with Launch("--nproc-per-node", 2, "--role", "trainer", script(tmp_path, "say('hi')\n"), env=template) as launch:
        assert launch.end() == 0
    assert sorted(launch.lines) == ["<trainer/0/0> hi", "<trainer/1/1> hi"]


def test_the_last_words_are_there_before_the_report(tmp_path):
    """All that the culprit wrote stands before the launcher says that it failed."""
    path = script(tmp_path, "if rank:\n    time.sleep(600)\nfor n in range(20_000):\n    say('line', n)\nos._exit(3)\n")
    with Launch("--nproc-per-node", 2, path, stderr=subprocess.STDOUT) as launch:
        assert launch.end() == 3
    failed = next(n for n, line in enumerate(launch.lines) if line.startswith("rallyrun: "))
    assert launch.lines[:failed] == [f"line {n}" for n in range(20_000)]
