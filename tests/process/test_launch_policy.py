"""What follows from a failure: window, delays, rules, no progress (FAULTS 10, 11, 12)."""

from __future__ import annotations

import itertools
import time

from job import Job, outcome
from lab import FACTOR, Launch, reports, script

FAIL = "say('up', count, time.monotonic())\ntime.sleep({after})\nsys.exit({code} if count < {times} else 0)\n"


def starts(launch: Launch) -> list[float]:
    return [float(line.split()[2]) for line in launch.out if line.startswith("up")]


def test_10_old_failures_are_forgotten(tmp_path):
    program = script(tmp_path, FAIL.format(after=1.3, code=3, times=3))
    with Launch("--max-restarts=1", "--restart-window=1", program) as it:
        assert it.end() == 0
        assert len(starts(it)) == 4
        it.until(r"restart 3 \(at most 1 within 1 s\)")


def test_10_failures_within_the_window_end_it(tmp_path):
    program = script(tmp_path, FAIL.format(after=0, code=3, times=9))
    with Launch("--max-restarts=2", "--restart-window=60", "--log-format=json", program) as it:
        assert it.end() == 3
        assert len(starts(it)) == 3
        assert "2 restarts within 60 s (--restart-window)" in outcome(it)["reason"]


def test_11_a_code_that_is_final(tmp_path):
    program = script(tmp_path, FAIL.format(after=0, code=17, times=9))
    with Launch("--max-restarts=5", "--on-exit=17=fail", program) as it:
        assert it.end() == 17
        assert len(starts(it)) == 1
        assert "rallyrun: no further restart: --on-exit 17=fail" in it.text


def test_11_an_exception_that_is_final(tmp_path):
    with Launch("--max-restarts=5", "--on-exit=ModuleNotFoundError=fail", script(tmp_path, "import none_such\n")) as it:
        assert it.end() == 1
        assert "0 of 5 restarts used" in it.text


def test_11_a_failure_that_is_none(tmp_path):
    program = script(tmp_path, "say('up', count)\nsys.exit(5 if rank else 0)\n")
    with Launch("--nproc-per-node=2", "--on-exit=5=ignore", program) as it:
        assert it.end() == 0


def test_11_a_node_that_is_replaced(tmp_path):
    with Job(tmp_path, "--on-exit=17=replace-node", nnodes="2:3", last_call_timeout=0.5) as job:
        for name in "ABC":
            job.start(name, env={"CODE": "17"})
        job.until(3, world=3)
        bad = next(name for name in "ABC" if name != job.host())
        job.poke(bad)
        two = job.until(2, world=2)
        assert bad not in {e["node"] for e in two} and {e["count"] for e in two} == {0}
        assert job.nodes[bad].end() == 17
        others = "ABC".replace(bad, "")
        job.nodes[others[0]].until("is put aside: .*--on-exit 17=replace-node")
        job.finish(others)
        assert job.ended(others, 3) == [0, 0]


def test_12_delays_grow(tmp_path):
    program = script(tmp_path, FAIL.format(after=0, code=3, times=3))
    with Launch("--max-restarts=3", "--restart-delay=0.5:1.5", "--log-format=json", program) as it:
        assert it.end() == 0
        at = starts(it)
        gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
        assert [r["fields"]["seconds"] for r in reports(it) if r["event"] == "delayed"] == [0.5, 1.0, 1.5]
        for gap, wanted in zip(gaps, (0.5, 1.0, 1.5), strict=True):
            assert wanted <= gap <= wanted * 1.2 + 0.4 * FACTOR


def test_12_a_signal_is_heeded_during_a_delay(tmp_path):
    program = script(tmp_path, FAIL.format(after=0, code=3, times=9))
    with Launch("--max-restarts=3", "--restart-delay=300", program) as it:
        it.until("the next start is in")
        begin = time.monotonic()
        it.signal(15)
        assert it.end() == 143
        assert time.monotonic() - begin < 5 * FACTOR


def test_no_progress_is_the_end_before_the_budget_is(tmp_path):
    text = "from rallypoint.worker import safe_point\nsay('up', count)\n"
    text += "for step in range(7):\n    safe_point(step)\nraise ValueError('always here')\n"
    with Launch("--max-restarts=50", "--log-format=json", script(tmp_path, text)) as it:
        assert it.end() == 1
        assert len([line for line in it.out if line.startswith("up")]) == 3
        assert "the same failure 3 times at the same point" in outcome(it)["reason"]
        assert reports(it)[-1]["fields"]["outcome"]["cause"]["type"] == "ValueError"


ALONE = """\
say('up', rank, count, os.getpid())
path = os.path.join(sys.argv[1], f'done{rank}')
if rank == 1 and count < 2:
    subprocess.Popen(['sleep', '600'])
    sys.exit(3)
if rank == 1:
    open(path, 'w').close()
while not os.path.exists(os.path.join(sys.argv[1], 'done1')):
    time.sleep(0.01)
"""


def test_one_worker_starts_again_and_the_others_run_on(tmp_path):
    program = script(tmp_path, "import subprocess\n" + ALONE)
    options = ["--nproc-per-node=3", "--max-restarts=2", "--restart-scope=worker", "--log-format=json"]
    with Launch(*options, "--log-dir", tmp_path / "logs", "-t", "3", program, tmp_path) as it:
        assert it.end() == 0
        assert not it.alive()
    ups = sorted(tuple(map(int, line.partition("up ")[2].split()[:2])) for line in it.out if "up " in line)
    assert ups == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)]
    told = outcome(it)
    assert (told["rounds"], told["restarts"], told["exit_code"]) == (1, 2, 0)
    assert [r["fields"]["restart"] for r in reports(it) if r["event"] == "restart"] == [1, 2]
    (run,) = (tmp_path / "logs").iterdir()
    files = {str(path.relative_to(run)) for path in run.rglob("stdout.log")}
    starts_of = [(0, 0), (0, 1), (0, 2), (1, 1), (2, 1)]
    assert files == {f"attempt_{attempt}/{rank}/stdout.log" for attempt, rank in starts_of}


def test_what_a_worker_leaves_in_its_session_is_ended_before_it_starts_again(tmp_path):
    text = """\
import subprocess
say('up', count)
if count == 0:
    child = subprocess.Popen(['sleep', '600'])
    open(sys.argv[1], 'w').write(str(child.pid))
    sys.exit(3)
pid = int(open(sys.argv[1]).read())
say('left', os.path.exists(f'/proc/{pid}/exe'))
"""
    path = script(tmp_path, text)
    with Launch("--max-restarts=1", "--restart-scope=worker", path, tmp_path / "pid") as it:
        assert it.end() == 0
    assert "left False" in it.out


def test_one_worker_alone_spends_the_budget(tmp_path):
    program = script(tmp_path, "say('up', rank)\nif rank == 1:\n    sys.exit(9)\n" + "time.sleep(600)\n")
    with Launch("--nproc-per-node=2", "--max-restarts=1", "--restart-scope=worker", program) as it:
        assert it.end() == 9
        assert not it.alive()
    assert sorted(line for line in it.out if line.startswith("up")) == ["up 0", "up 1", "up 1"]
    assert "restart 1 of 1, of one worker (rank 1 on" in it.text


def test_one_node_starts_again_and_the_other_runs_on(tmp_path):
    with Job(tmp_path, "--max-restarts=3", "--restart-scope=node", "--nproc-per-node=2", nnodes="2") as job:
        job.start_all("AB")
        first = job.until(4)
        job.poke("B", local=1)
        again = job.until(6)[4:]
        assert {(e["node"], e["local"], e["count"]) for e in again} == {("B", 0, 1), ("B", 1, 1)}
        assert {e["rank"] for e in again} == {e["rank"] for e in first if e["node"] == "B"}
        job.finish("AB")
        assert job.ended("AB", 3) == [0, 0]
        assert len(job.events()) == 6


def test_a_stop_reaches_one_who_waits_to_start_again(tmp_path):
    program = script(tmp_path, "say('up', rank)\nif rank == 1:\n    sys.exit(9)\n" + "time.sleep(600)\n")
    options = ["--nproc-per-node=2", "--max-restarts=1", "--restart-scope=worker", "--restart-delay=60"]
    with Launch(*options, program) as it:
        it.until("failed|exit code 9", limit=10)
        it.signal(15)
        assert it.end() == 143
        assert not it.alive()


def test_no_success_timeout_where_nobody_waits(tmp_path):
    program = script(tmp_path, "say('up')\n")
    with Launch("--restart-scope=worker", "--success-timeout=3", program) as it:
        assert it.end() == 2
    assert "--success-timeout" in it.text and "nobody waits" in it.text
