"""How soon the others go on after a node has died: real launchers, and up to 1,000 agents over the real tcp store.

    python benchmarks/bench_regroup.py [--agents 10 100 1000] [--repeat 5]

Launchers: two of ``--nnodes 1:2`` on loopback; the peer and its worker are killed (-9); the time ends when the
survivor's new worker runs the user's code. torchrun does not notice such a death (docs/faults.md), so there is no
ratio. Agents: all but the workers are real; one connection is cut, the time ends with the last survivor's order to
start its worker in the next round.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fake_nodes import over_tcp, run_until, served, start

from rallypoint.driver.loop import Loop

WORKER = """
import os, sys, time
print("AT", time.monotonic(), os.environ["WORLD_SIZE"], os.getpid(), flush=True)
time.sleep(600)
"""


def launchers(victim_hosts: bool) -> float:
    """Return seconds from the kill of one of two launchers to the survivor's worker in user code."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as place:
        script = Path(place, "worker.py")
        script.write_text(WORKER)
        base = [sys.executable, "-m", "rallypoint", "run", "--rdzv-backend", "c10d"]
        base += ["--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-conf", "last_call_timeout=60"]
        both = []
        for _ in range(2):
            command = [*base, "--nnodes", "1:2", str(script)]
            out = subprocess.PIPE
            both.append(subprocess.Popen(command, stdout=out, text=True, start_new_session=True))
            time.sleep(0.3)  # the first one hosts the store
        host, peer = both
        victim, survivor = (host, peer) if victim_hosts else (peer, host)
        try:
            _arrival(survivor, "2")
            killed = _arrival(victim, "2")
            began = time.monotonic()
            victim.send_signal(signal.SIGKILL)
            os.kill(killed[1], signal.SIGKILL)
            return _arrival(survivor, "1")[0] - began
        finally:
            for process in both:
                process.terminate()
                process.wait()


def _arrival(launcher: subprocess.Popen, world: str) -> tuple[float, int]:
    """Wait for a worker in a world of that size; return when it ran the user's code, and its pid."""
    assert launcher.stdout is not None
    for line in launcher.stdout:
        if found := re.search(rf"AT (\S+) {world} (\d+)", line):
            return float(found[1]), int(found[2])
    raise SystemExit("a launcher ended too early")


def agents(count: int) -> tuple[float, float]:
    """Return seconds in which ``count`` agents form a round, and regroup when one has died."""
    with served() as port, Loop() as loop:
        begin = time.monotonic()
        nodes = start(loop, 1, count, over_tcp(port))
        run_until(loop, nodes, lambda node: node.started_round == 1)
        formed = time.monotonic() - begin
        lost = nodes.pop()
        begin = time.monotonic()
        lost.vanish()
        lost.coordinator.close()
        run_until(loop, nodes, lambda node: node.started_round == 2)
        took = time.monotonic() - begin
        for node in nodes:
            node.coordinator.close()
        return formed, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    for hosts in (False, True):
        times = [launchers(hosts) for _ in range(options.repeat)]
        who = "the store's host" if hosts else "a peer"
        print(f"{who} killed: survivor in user code after {statistics.median(times):.3f} s (worst {max(times):.3f})")
    for count in options.agents:
        runs = [agents(count) for _ in range(min(3, options.repeat))]
        formed, took = (statistics.median(column) for column in zip(*runs, strict=True))
        each = took / count * 1e3
        print(f"{count:5} agents: form a round in {formed:.3f} s, regroup in {took:.3f} s: {each:.2f} ms a node")


if __name__ == "__main__":
    main()
