"""Agents over a real etcd of three members: time to form a round and to restart, and what it costs etcd in writes.

    python benchmarks/bench_etcd.py [--agents 4 32 128]

Needs etcd (Debian: etcd-server) and the extra rallypoint[etcd]. All but the workers are real; the members are those of
the tests' lab, on loopback. A worker fails, and the time of the restart ends with the last order to start a worker. A
write is a revision of etcd's (a transaction that changed a key). There is no peer: torch's etcd-v2 needs an API that
etcd has no more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from fake_nodes import run_until, start

from rallypoint.driver.loop import Loop
from rallypoint.store.etcd.store import open_etcd

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from etcd_lab import Cluster


def measure(etcd: Cluster, count: int) -> None:
    """Print what ``count`` agents need."""
    places = list(etcd.places)
    with Loop() as loop:
        nodes = start(
            loop,
            count,
            count,
            lambda loop, coordinator, member: open_etcd(loop, coordinator, places, member, {}),
            backend="etcd",
            run_id=f"bench{count}",
            max_restarts=3,
        )
        times, writes = [], []
        for round_ in (1, 2, 3):
            begin, before = time.monotonic(), etcd.revision()
            if round_ > 1:
                nodes[round_].fail()
            run_until(loop, nodes, lambda node, round_=round_: node.started_round == round_)
            times.append(time.monotonic() - begin)
            writes.append(etcd.revision() - before)
        for node in nodes:
            node.coordinator.close()
        restart = min(times[1:])
        print(
            f"{count:5} agents: form a round in {times[0]:.3f} s, restart in {restart:.3f} s; "
            f"writes for each node: {writes[0] / count:.2f} to form, {writes[2] / count:.2f} to restart"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, nargs="+", default=[4, 32, 128])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench_etcd_") as folder, Cluster(Path(folder), size=3) as etcd:
        for count in args.agents:
            measure(etcd, count)


if __name__ == "__main__":
    main()
