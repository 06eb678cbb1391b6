"""Interpreters that wait for a restart: what is let go is what a fresh start gives; none is left over."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from lab import Launch, script, wait_until

FACTS = """\
import faulthandler
own = ("RANK", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_ERROR_FILE", "MASTER_PORT")
facts = {
    "argv": sys.argv, "path": sys.path, "name": __name__, "file": __file__, "flags": str(sys.flags),
    "modules": sorted(sys.modules), "environ": {k: v for k, v in sorted(os.environ.items()) if k not in own},
    "names": sorted(os.environ), "directory": os.getcwd(), "faults": faulthandler.is_enabled(),
    "signals": [str(signal.getsignal(n)) for n in range(1, 32) if n not in (9, 19)],
    "mask": str(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "session": os.getsid(0) == os.getpid(),
    "descriptors": sorted(int(n) for n in os.listdir("/proc/self/fd"))[:3], "open": len(os.listdir("/proc/self/fd")),
    "streams": [repr(s) for s in (sys.stdin, sys.stdout, sys.stderr)], "end": sys.stdin.read(),
    "excepthook": sys.excepthook is sys.__excepthook__,
}
say("FACTS", json.dumps(facts))
"""
HOLD = """\
say("up", count, os.getpid())
if count == 0:
    while True:
        signal.pause()
"""


LINES = "say('line\\n' * 1000)\n"


def fail_one(launch: Launch) -> None:
    """Kill a worker of the first start, so that all start again."""
    os.kill(int(launch.until("up 0")[0].split()[-1]), signal.SIGKILL)


def parked(launch: Launch, count: int) -> list[int]:
    """Wait until ``count`` interpreters are parked; return them."""
    return wait_until(lambda: len(p := launch.parked()) == count and p, 10, f"{count} parked interpreters")


def test_what_is_let_go_is_what_a_fresh_start_is(tmp_path):
    program = script(tmp_path, FACTS + "time.sleep(0.6)\nsys.exit(count < 2 and 3)\n")
    facts = {}
    for warm in ("on", "off"):
        with Launch("--max-restarts=2", f"--warm-start={warm}", "-t3", f"--log-dir={tmp_path}", program, "a b") as it:
            assert it.end() == 0
        facts[warm] = [json.loads(line.partition("FACTS ")[2]) for line in it.out if "FACTS" in line]
    assert len(facts["on"]) == len(facts["off"]) == 3
    for fresh, warm in zip(facts["off"], facts["on"], strict=True):
        for which in (fresh, warm):
            own = [name for name in which["environ"] if any(n in name for n in ("RUN_ID", "MARK", "SAFE_POINT"))]
            which["environ"] = {k: v for k, v in which["environ"].items() if k not in own}
        assert warm == fresh


def test_a_restart_uses_them_and_every_log_is_whole(tmp_path):
    program = script(tmp_path, HOLD.replace("while True:", "say('line\\n' * 1000)\n    while True:") + LINES)
    logs = tmp_path / "logs"
    with Launch("--nproc-per-node=2", "--max-restarts=1", "-t3", f"--log-dir={logs}", program) as it:
        it.until("line", count=2000)
        waiting = parked(it, 2)
        fail_one(it)
        assert it.end() == 0
        assert it.alive() == {}
    run = next(logs.iterdir())
    files = [run / f"attempt_{n}" / str(rank) / "stdout.log" for n in (0, 1) for rank in (0, 1)]
    first = [file.read_text().splitlines() for file in files]
    assert [len(lines) for lines in first] == [1002] * 4, "the line that say ends is empty"
    assert sorted(int(lines[0].split()[2]) for lines in first[2:]) == waiting


def test_an_exception_of_one_is_told_with_its_traceback(tmp_path):
    program = script(tmp_path, HOLD.replace("signal.pause()", "time.sleep(0.6); sys.exit(4)") + "def g(): 1 / 0\ng()\n")
    with Launch("--max-restarts=1", program) as it:
        assert it.end() == 1
    assert "ZeroDivisionError: division by zero" in it.text
    assert "in g" in it.text


def test_multiprocessing_works_in_one(tmp_path):
    text = """\
import multiprocessing
def double(number): return 2 * number
if __name__ == "__main__":
    time.sleep(0.6)
    if count:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            say("doubled", pool.map(double, [1, 2]))
    sys.exit(not count)
"""
    with Launch("--max-restarts=1", script(tmp_path, text)) as it:
        assert it.end() == 0
    assert "doubled [2, 4]" in it.out


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_none_outlives_the_launcher(tmp_path, number):
    with Launch("--nproc-per-node=2", "--max-restarts=1", script(tmp_path, HOLD)) as it:
        it.until("^up", count=2)
        parked(it, 2)
        it.signal(number)
        it.end()
        wait_until(lambda: not it.alive(), 2, "the end of everything")


def test_one_that_was_killed_is_no_loss(tmp_path):
    with Launch("--nproc-per-node=2", "--max-restarts=1", script(tmp_path, HOLD)) as it:
        it.until("^up 0", count=2)
        waiting = parked(it, 2)
        os.kill(waiting[0], signal.SIGKILL)
        fail_one(it)
        again = {int(line.split()[-1]) for line in it.until("^up 1", count=2)}
        assert waiting[1] in again and waiting[0] not in again
        assert it.end() == 0


@pytest.mark.parametrize("way", ["no hook", "off", "no budget"])
def test_nobody_is_parked_where_it_would_be_wrong(tmp_path, way):
    """Without the hook (law 1) a parked process would run the script."""
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (tmp_path / "python").chmod(0o755)
    env = {"PYTHON_EXEC": str(tmp_path / "python")} if way == "no hook" else {}
    options = {"off": ["--max-restarts=1", "--warm-start=off"], "no budget": []}.get(way, ["--max-restarts=1"])
    text = "say('up', count)\ntime.sleep(1.2)\nsys.exit(3 if count == 0 else 0)\n"
    with Launch(*options, script(tmp_path, text), env=env) as it:
        it.until("^up 0")
        code = it.end()
    starts = [line for line in it.out if line.startswith("up")]
    assert (code, starts) == ((3, ["up 0"]) if way == "no budget" else (0, ["up 0", "up 1"]))


def test_modules_are_imported_while_it_waits(tmp_path):
    (tmp_path / "early.py").write_text("import time\nat = time.monotonic()\n")
    text = """\
began = time.monotonic()
import early
say("early", early.at < began)
say("up", count, os.getpid())
while count == 0:
    signal.pause()
"""
    env = {"PYTHONPATH": str(tmp_path)}
    with Launch("--max-restarts=1", "--warm-start=early,none_such", script(tmp_path, text), env=env) as it:
        it.until("up 0")
        parked(it, 1)
        fail_one(it)
        assert it.end() == 0
    assert [line for line in it.out if line.startswith("early")] == ["early False", "early True"]
