"""How long N agents take to find each other over loopback: ours (tcp store) beside torch's c10d.

    python benchmarks/bench_rendezvous.py [--nodes 128 1024] [--no-torch]

Ours: the real core, coordinator and tcp client for each agent, all in one process, against a store
served by a process of its own; a round is complete when every agent has been told to start its
worker. Torch: N threads of one process, each with its own handler, as torchrun's agents have.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import threading
import time

from fake_nodes import over_tcp, run_until, served, start

from rallypoint.driver.loop import Loop


def ours(count: int) -> float:
    """Return seconds from the first connection to the last agent's order to start its worker."""
    with served() as port, Loop() as loop:
        begin = time.monotonic()
        nodes = start(loop, count, count, over_tcp(port))
        run_until(loop, nodes, lambda node: node.started_round > 0)
        took = time.monotonic() - begin
        for node in nodes:
            node.coordinator.close()
        return took


def torchs(count: int) -> float:
    """Return seconds until N threads have each got their rank from torch's c10d rendezvous."""
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    failed: list[BaseException] = []
    handlers: list[object] = []

    def join(number: int) -> None:
        try:
            params = RendezvousParameters(
                "c10d", endpoint, "bench", count, count, local_addr="127.0.0.1", is_host=str(number == 0).lower()
            )
            handler = get_rendezvous_handler(params)
            handlers.append(handler)  # the host's goes with its store: it must outlive the others' joining
            handler.next_rendezvous()
        except BaseException as error:  # told by the main thread
            failed.append(error)

    threads = [threading.Thread(target=join, args=(n,), daemon=True) for n in range(count)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(95)
        if thread.is_alive():
            return float("nan")
    if failed:
        raise failed[0]
    return time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 32, 128, 1024])
    parser.add_argument("--torch-nodes", type=int, nargs="*", default=[2, 32, 128])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    medians = {}
    for count in options.nodes:
        medians[count] = statistics.median(ours(count) for _ in range(options.repeat))
        line = f"{count:5} agents: rallypoint {medians[count]:7.3f} s"
        if count in options.torch_nodes:
            theirs = statistics.median(torchs(count) for _ in range(options.repeat))
            line += f"   torch c10d {theirs:7.3f} s   ratio {theirs / medians[count]:6.1f}"
        print(line, flush=True)
    if 128 in medians and 1024 in medians:
        print(f"1,024 agents take {medians[1024] / medians[128]:.1f} times as long as 128")


if __name__ == "__main__":
    main()
