"""Start-up, restart, memory and idleness of the launcher, side by side with torchrun in one run.

    python benchmarks/bench_launch.py [--repeat 9]

Needs torch 2.13 in the same environment (for torchrun). Prints medians and ratios.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
LAUNCHERS = {"torchrun": [str(BIN / "torchrun")], "rallyrun": [str(BIN / "rallyrun")]}
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

# CLOCK_MONOTONIC is the same for all processes, so a worker can note when it reached user code.
HELLO = "import sys, time; open(sys.argv[1], 'w').write(str(time.monotonic()))\n"
RESTART = """import os, sys, time
folder, rank, count = sys.argv[1], os.environ["RANK"], int(os.environ["TORCHELASTIC_RESTART_COUNT"])
open(f"{folder}/{count}.{rank}", "w").write(str(time.monotonic()))
if count < 2 and rank == "1":
    while len([n for n in os.listdir(folder) if n.startswith(f"{count}.")]) < 4:
        time.sleep(0.01)
    time.sleep(0.3)
    open(f"{folder}/died.{count}", "w").write(str(time.monotonic()))
    os._exit(1)
if count < 2:
    time.sleep(600)
"""
SLEEP = "import sys, time; open(sys.argv[1], 'w').write('up'); time.sleep(600)\n"


def first_code(launcher: str, folder: Path) -> tuple[float, float]:
    """Return seconds from the command to user code, and of the whole run."""
    mark = folder / f"hello.{time.monotonic_ns()}"
    begin = time.monotonic()
    command = [*LAUNCHERS[launcher], "--nproc-per-node", "1", str(folder / "hello.py"), str(mark)]
    subprocess.run(command, check=True, **QUIET)
    return float(mark.read_text()) - begin, time.monotonic() - begin


def restart_gaps(launcher: str, folder: Path) -> list[float]:
    """Return seconds from a worker's exit to all 4 workers back in user code, for two restarts."""
    marks = Path(tempfile.mkdtemp(dir=folder))
    command = [*LAUNCHERS[launcher], "--nproc-per-node", "4", "--max-restarts", "2", str(folder / "restart.py")]
    subprocess.run([*command, str(marks)], check=True, **QUIET)
    gaps = []
    for count in (0, 1):
        back = max(float((marks / f"{count + 1}.{rank}").read_text()) for rank in range(4))
        gaps.append(back - float((marks / f"died.{count}").read_text()))
    return gaps


def at_rest(launcher: str, folder: Path, seconds: float = 10.0) -> tuple[float, int]:
    """Return the launcher's resident memory in MB and its context switches while it is idle."""
    mark = folder / f"up.{time.monotonic_ns()}"
    agent = subprocess.Popen(
        [*LAUNCHERS[launcher], "--nproc-per-node", "1", str(folder / "sleep.py"), str(mark)], **QUIET
    )
    try:
        while not mark.exists():
            time.sleep(0.05)
        time.sleep(2.0)  # the peer settles: its threads start after the worker
        before = switches(agent.pid)
        time.sleep(seconds)
        after = switches(agent.pid)
        rss = next(line for line in Path(f"/proc/{agent.pid}/status").read_text().splitlines() if "VmRSS" in line)
        return int(rss.split()[1]) / 1024, after - before
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait()


def switches(pid: int) -> int:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return total


def show(what: str, ours: float, theirs: float, unit: str) -> None:
    ratio = f"{theirs / ours:7.1f}" if ours else "      -"
    print(f"{what:45} rallyrun {ours:9.3f} {unit:3} torchrun {theirs:9.3f} {unit:3} ratio {ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=9)
    repeat = parser.parse_args().repeat
    os.environ.pop("OMP_NUM_THREADS", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for script, text in (("hello", HELLO), ("restart", RESTART), ("sleep", SLEEP)):
            (folder / f"{script}.py").write_text(text)
        code: dict[str, list[float]] = {n: [] for n in LAUNCHERS}
        whole: dict[str, list[float]] = {n: [] for n in LAUNCHERS}
        gaps: dict[str, list[float]] = {n: [] for n in LAUNCHERS}
        for _ in range(repeat):  # interleaved, so that a noisy moment hits both
            for launcher in LAUNCHERS:
                reached, ended = first_code(launcher, folder)
                code[launcher].append(reached * 1e3)
                whole[launcher].append(ended * 1e3)
        for _ in range(max(2, repeat // 3)):
            for launcher in LAUNCHERS:
                gaps[launcher] += [gap * 1e3 for gap in restart_gaps(launcher, folder)]
        rest = {launcher: at_rest(launcher, folder) for launcher in LAUNCHERS}
    print(f"medians of {repeat}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    median = statistics.median
    show("command -> user code, 1 worker", median(code["rallyrun"]), median(code["torchrun"]), "ms")
    show("whole run, 1 worker", median(whole["rallyrun"]), median(whole["torchrun"]), "ms")
    show("worker exit -> all 4 back in user code", median(gaps["rallyrun"]), median(gaps["torchrun"]), "ms")
    show("launcher's memory (RSS)", rest["rallyrun"][0], rest["torchrun"][0], "MB")
    show("context switches in 10 s at rest", rest["rallyrun"][1], rest["torchrun"][1], "")


if __name__ == "__main__":
    main()
