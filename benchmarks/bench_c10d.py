"""Operations per second of torch's own client, against our worker store and torch's C++ server.

    python benchmarks/bench_c10d.py [--seconds 0.1] [--rounds 25] [--clients 8]

Each server runs in a process of its own; both run all the time, and the repetitions alternate, so
that what else the machine does falls on both. Then: how long an exit waits to be noticed while the
clients hammer the loop that serves them. Needs torch.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from bench_c10d_roles import Clients, Server, latencies

TARGETS = {"set 1": 0.9, "get 1": 0.9, "add 1": 0.9, "get 8": 0.8, "add 8": 0.8}
EXIT_TARGET = 0.020


def compare(clients: Clients, operation: str, servers: dict[str, Server], rounds: int, seconds: float) -> float:
    """Print the medians of both servers; return the median of the ratios ours / torch's, pair by pair."""
    rates: dict[str, list[float]] = {name: [] for name in servers}
    spent: dict[str, list[float]] = {name: [] for name in servers}
    for turn in range(rounds):
        for name in list(servers)[:: 1 if turn % 2 else -1]:
            before = servers[name].cpu()
            rate = clients.rate(operation, servers[name].port, seconds)
            rates[name].append(rate)
            spent[name].append((servers[name].cpu() - before) / (rate * seconds))
    ratio = statistics.median(ours / torch for ours, torch in zip(rates["ours"], rates["torch"], strict=True))
    title = f"{operation} {len(clients)}"
    target = TARGETS.get(title)
    note = "" if target is None else f"target {target}: {'ok' if ratio >= target else 'MISSED'}"
    print(f"{title:6} ratio {ratio:.2f}  {note}", end="")
    for name, found in rates.items():
        cpu = statistics.median(spent[name]) * 1e6
        print(f"   {name} {statistics.median(found):,.0f}/s (best {max(found):,.0f}, {cpu:.1f} us CPU each)", end="")
    print(flush=True)
    return ratio


def exits(clients: Clients, operation: str, server: Server, idle: Server, count: int) -> bool:
    """Print how long exits wait for the loop that serves, and for one that serves nobody; True if in time.

    Clients that only set wait for nothing: they keep every core busy, and what is measured is who gets one.
    """
    found, control = latencies(clients, server.port, operation, (server, idle), count)
    for name, times in (("busy loop", found), ("idle loop, same moments", control)):
        middle, most = statistics.median(times) * 1e3, max(times) * 1e3
        print(f"exit noticed while {len(clients)} clients {operation}, {name}: median {middle:.1f}, max {most:.1f} ms")
    return max(found) <= EXIT_TARGET


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.1, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=25, help="measurements of each server")
    parser.add_argument("--clients", type=int, default=8, help="in the second part")
    parser.add_argument("--exits", type=int, default=20, help="exits measured under load")
    args = parser.parse_args()
    missed = 0
    with Server("ours") as ours, Server("ours") as idle, Server("torch") as torch:
        servers = {"ours": ours, "torch": torch}
        for count, operations in ((1, ("set", "get", "add")), (args.clients, ("get", "add"))):
            with Clients(count) as clients:
                for operation in operations:
                    ratio = compare(clients, operation, servers, args.rounds, args.seconds)
                    missed += ratio < TARGETS.get(f"{operation} {count}", 0)
                if count > 1:
                    missed += not exits(clients, "add", ours, idle, args.exits)
                    exits(clients, "set", ours, idle, args.exits)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
