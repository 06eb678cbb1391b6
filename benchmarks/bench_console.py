"""Console throughput: 4 workers print 200 MB of lines under ``-t 3``, torchrun and rallyrun side by side.

    python benchmarks/bench_console.py [--megabytes 50] [--workers 4] [--sink pipe|file] [--component]

Each launcher runs twice: silent (its start-up) and talking; the difference is what the output costs.
Every line is counted on the console and in the log files: a lost one fails the benchmark.
``--component`` measures ``rallypoint.logs`` alone, on the loop, in place of the command ``rallyrun``.
``--cpu`` measures the launcher's CPU time at 8 workers x 1,000 lines/s instead (aim: 10 % of a core).
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LINE = 100  # bytes in each line, its end included
TALKER = """
import os, sys
rank, lines = os.environ.get("RANK", "0"), int(sys.argv[1])
block = b"".join(b"%s %09d %s\\n" % (rank.encode().zfill(4), i, b"x" * 84) for i in range(600))
while lines > 0:
    data = block[: lines * 100]
    lines -= len(data) // 100
    while data:
        data = data[os.write(1, data):]
"""
PACED = """
import sys, time
end = time.monotonic()
for i in range(int(sys.argv[1])):
    print("step", i, "x" * 80, flush=True)
    end += 0.001
    time.sleep(max(0, end - time.monotonic()))
"""


class Console:
    """Where a launcher's standard output goes, and the count of what came out."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.path = folder / "console.txt"
        self.lines = 0

    def run(self, command: list[str], environ: dict[str, str]) -> float:
        """Run ``command`` to its end and return the seconds until all its output was read."""
        begin = time.monotonic()
        if self.kind == "file":
            with self.path.open("wb") as sink:
                process = subprocess.run(command, stdout=sink, stderr=subprocess.PIPE, env=environ, check=False)
            taken = time.monotonic() - begin
            self.lines, code, errors = count_lines(self.path), process.returncode, process.stderr
        else:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ) as process:
                while data := os.read(process.stdout.fileno(), 1 << 20):
                    self.lines += data.count(b"\n")
            taken = time.monotonic() - begin
            code, errors = process.returncode, b""
        if code:
            raise SystemExit(f"{command[0]} ended with {code}: {errors.decode(errors='replace')[-2000:]}")
        return taken


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def launch(program: list[str], args: argparse.Namespace, lines: int) -> float:
    """Run one launcher over workers that print ``lines`` lines each; check that none is lost."""
    with tempfile.TemporaryDirectory(prefix="bench_console_") as name:
        folder = Path(name)
        script = folder / "talker.py"
        script.write_text(TALKER)
        console = Console(args.sink, folder)
        command = [*program, "--nproc-per-node", str(args.workers), "-t", "3", "--log-dir", str(folder / "logs")]
        environ = os.environ | {"OMP_NUM_THREADS": "1"}
        taken = console.run([*command, str(script), str(lines)], environ)
        in_files = sum(count_lines(path) for path in (folder / "logs").rglob("stdout.log"))
        expected = lines * args.workers
        if (console.lines, in_files) != (expected, expected):
            raise SystemExit(
                f"{program[0]}: {expected} lines printed, {console.lines} on the console, {in_files} in the files"
            )
        return taken


def component(workers: int, lines: int, log_dir: str | None, code: str = TALKER) -> None:
    """Run workers under ``Logs`` on a ``Loop``; what ``rallyrun`` does, less the start of a launcher."""
    from rallypoint.driver.loop import Loop
    from rallypoint.logs import Logs
    from rallypoint.model.result import WorkerId
    from rallypoint.model.spec import LogSpec

    with Loop() as loop:
        logs = Logs(LogSpec(directory=log_dir, tee={-1: 3} if log_dir else {}), loop, "bench", "default")
        running: dict[int, WorkerId] = {}
        for rank in range(workers):
            worker = WorkerId(1, rank)
            io = logs.prepare(worker, 0, rank, workers)
            dup2 = [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate((io.stdin, io.stdout, io.stderr))]
            command = [sys.executable, "-c", code, str(lines)]
            pid = os.posix_spawn(sys.executable, command, os.environ | {"RANK": str(rank)}, file_actions=dup2)
            logs.spawned(worker)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = worker

            def ended(pidfd: int = pidfd, pid: int = pid) -> None:
                os.waitpid(pid, 0)
                loop.remove_reader(pidfd)
                os.close(pidfd)
                logs.finish(running.pop(pidfd))

            loop.add_reader(pidfd, ended)
        loop.run_until(lambda: not running)
        logs.flush(60)
        logs.close()


def compare(args: argparse.Namespace) -> None:
    lines = args.megabytes * 1_000_000 // LINE
    total = args.megabytes * args.workers
    ours = [sys.executable, __file__, "--as-component"] if args.component else ["rallyrun"]
    name = "rallypoint.logs" if args.component else "rallyrun"
    print(f"{args.workers} workers x {args.megabytes} MB of {LINE}-byte lines, -t 3, console is a {args.sink}")
    beyond = {}
    for label, program in ((name, ours), ("torchrun", ["torchrun"])):
        silent, talking = launch(program, args, 0), launch(program, args, lines)
        beyond[label] = max(talking - silent, 1e-3)
        print(
            f"  {label:16} whole run {talking:6.2f} s, silent {silent:5.2f} s, "
            f"output {beyond[label]:6.2f} s = {total / beyond[label]:6.0f} MB/s, no line lost"
        )
    print(f"  ratio (output only): {beyond['torchrun'] / beyond[name]:.1f} times torchrun's rate")


def cpu(seconds: int = 5, workers: int = 8) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    component(workers, seconds * 1000, None, PACED)
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    turns = after.ru_nvcsw - before.ru_nvcsw
    print(
        f"{workers} workers x 1,000 lines/s: {100 * used / seconds:.1f} % of a core, "
        f"{turns / seconds:.0f} wake-ups a second",
        file=sys.stderr,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=50, help="printed by each worker")
    parser.add_argument("--workers", "--nproc-per-node", type=int, default=4)
    parser.add_argument("--sink", choices=("pipe", "file"), default="pipe")
    parser.add_argument("--component", action="store_true")
    parser.add_argument("--cpu", action="store_true", help="prints to standard output; send that to /dev/null")
    parser.add_argument("--as-component", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-t", dest="tee", help=argparse.SUPPRESS)
    parser.add_argument("--log-dir", help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args()
    if args.as_component:
        component(args.workers, int(rest[-1]), args.log_dir)
    elif args.cpu:
        cpu()
    elif not args.component and not shutil.which("rallyrun"):
        parser.error("rallyrun is not installed: use --component")
    else:
        compare(args)


if __name__ == "__main__":
    main()
