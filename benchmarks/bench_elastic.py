"""rallypoint.elastic beside torch's: import time and memory, starting a function on 4 workers, returning 100 MB.

    python benchmarks/bench_elastic.py [--quick]

Bounds: the import under a tenth of torch's, in time and memory; the start no slower than four bare
``multiprocessing`` processes plus 20 %; the return at no less than half of a plain pipe's rate.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import time

WORKERS = 4
SIZE = 100_000_000

IMPORT = (
    "import resource, time; begin = time.perf_counter(); import {module}; "
    "print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
)
OURS = "rallypoint.elastic.launcher.api"
TORCHS = "torch.distributed.launcher.api"


def nothing():
    return None


def much():
    return bytes(SIZE)


def imported(module):
    """Seconds and KB of one import in a fresh interpreter; the bare interpreter's memory is taken off."""
    command = [sys.executable, "-c", IMPORT.format(module=module)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    seconds, memory = map(float, done.stdout.split())
    bare = subprocess.run(
        [sys.executable, "-c", IMPORT.format(module="sys")], capture_output=True, text=True, check=True
    )
    return seconds, memory - float(bare.stdout.split()[1])


def bare():
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=nothing) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def ours(function=nothing):
    from rallypoint.elastic.launcher.api import LaunchConfig, elastic_launch

    return elastic_launch(LaunchConfig(1, 1, WORKERS, run_id="bench"), function)()


def torchs(function=nothing):
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(1, 1, WORKERS, run_id="bench", rdzv_backend="c10d", rdzv_endpoint="localhost:0")
    return elastic_launch(config, function)()


def pipe_rate():
    """Bytes a second through a plain pipe: four processes write 100 MB each, one after the other is read."""
    context = multiprocessing.get_context("fork")
    ends = [os.pipe() for _ in range(WORKERS)]
    processes = []
    for reading, writing in ends:
        process = context.Process(target=write_all, args=(writing,))
        process.start()
        os.close(writing)
        processes.append((process, reading))
    begin = time.perf_counter()
    for process, reading in processes:
        kept = bytearray()
        while piece := os.read(reading, 1 << 16):
            kept += piece
        os.close(reading)
        process.join()
    return WORKERS * SIZE / (time.perf_counter() - begin)


def write_all(fd):
    view = memoryview(bytes(SIZE))
    while view:
        view = view[os.write(fd, view) :]


def timed(call, times):
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def line(what, value, unit, bound=""):
    print(f"{what:58} {value:10.3f} {unit:5} {bound}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one run of each, without torch")
    quick = parser.parse_args().quick
    times = 1 if quick else 5
    found = [imported(OURS) for _ in range(times)]
    seconds, memory = (statistics.median(column) for column in zip(*found, strict=True))
    line("import rallypoint.elastic.launcher.api", seconds * 1000, "ms")
    line("  its memory", memory / 1024, "MB")
    theirs = None if quick else imported(TORCHS)
    if theirs:
        line("import torch.distributed.launcher.api", theirs[0] * 1000, "ms", f"ours is 1/{theirs[0] / seconds:.0f}")
        line("  its memory", theirs[1] / 1024, "MB", f"ours is 1/{theirs[1] / memory:.0f}")
    plain, own = timed(bare, times), timed(ours, times)
    line(f"start and end of {WORKERS} bare multiprocessing processes", plain, "s")
    line(f"elastic_launch of a function on {WORKERS} workers (spawn)", own, "s", f"{own / plain - 1:+.0%} (bound +20%)")
    if theirs:
        line("  torch's", timed(torchs, 1), "s")
    rate = statistics.median(pipe_rate() for _ in range(times))
    line("a plain pipe", rate / 1e6, "MB/s")
    took = timed(lambda: ours(much), max(1, times // 2)) - own
    back = WORKERS * SIZE / took
    line(
        f"100 MB returned from each of {WORKERS} workers",
        back / 1e6,
        "MB/s",
        f"{back / rate:.0%} of a pipe (bound 50%)",
    )
    if theirs:
        line("  torch's (one run, its start included)", WORKERS * SIZE / timed(lambda: torchs(much), 1) / 1e6, "MB/s")


if __name__ == "__main__":
    main()
