"""Agents with their real core, coordinator and tcp connection, many in one process, whose workers are made up."""

from __future__ import annotations

import contextlib
import gc
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from rallypoint.core.agent import Agent
from rallypoint.driver.coordinator import ORDERS, Coordinator
from rallypoint.driver.loop import Loop
from rallypoint.model import event as events
from rallypoint.model import order as orders
from rallypoint.model.node import NodeInfo
from rallypoint.model.result import Exit
from rallypoint.model.spec import Spec, Timing
from rallypoint.store.client import Member, TcpStore
from rallypoint.store.front import Front

Connect = Callable[[Loop, Coordinator, Member], Front]


class FakeNode:
    """An agent whose workers start at once, run for ever, and end at the first signal.

    ``started_round`` is the last round for which it was told to start its worker; ``carried`` counts its orders that
    cost the store a message.
    """

    def __init__(self, spec: Spec, number: int, loop: Loop, connect: Connect) -> None:
        self.queue: deque[events.Event] = deque([events.Started()])
        self.loop = loop
        self.started_round = 0
        self.carried = 0
        name = f"node{number}"
        self.agent = Agent(spec, NodeInfo(name, "bench", "", 1))
        self.coordinator = Coordinator(spec, name, self.queue.append, print)
        member = Member(spec.run_id, name, spec.timing.lease, spec.timing.keep_alive_interval)
        self.store = connect(loop, self.coordinator, member)
        self.coordinator.attach(self.store)

    def settle(self) -> None:
        """Take in all facts that wait."""
        while self.queue:
            for order in self.agent.handle(self.queue.popleft(), self.loop.now()):
                self._carry_out(order)

    def vanish(self) -> None:
        """Die as a killed process does: the connection is closed without a goodbye."""
        assert (
            isinstance(self.store, TcpStore) and self.store._link is not None and self.store._link._stream is not None
        )
        self.store._link._stream._sock.shutdown(socket.SHUT_RDWR)

    def fail(self) -> None:
        """Its worker ends badly."""
        self.queue.append(events.Exited(self.agent.group.workers[0].id, Exit(1, 1)))

    def _carry_out(self, order: orders.Order) -> None:
        if isinstance(order, orders.Spawn):
            self.started_round = order.worker.round
            self.queue.append(events.Spawned(order.worker, 1))
        elif isinstance(order, orders.Signal):
            self.queue.append(events.Exited(order.worker, Exit(1, None, order.number)))
        elif isinstance(order, orders.Sweep):
            self.queue.append(events.Swept(order.round))
        elif isinstance(order, orders.ServeWorkers):
            self.queue.append(events.Serving(order.round, 1))
        else:
            self.carried += 1
            getattr(self.coordinator, ORDERS[type(order)])(order)

    def __repr__(self) -> str:
        return f"<FakeNode {self.agent!r}>"


@contextlib.contextmanager
def served() -> Iterator[int]:
    """Serve a store in a process of its own; yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "rallypoint", "store", "--listen", f"127.0.0.1:{port}"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield port
    finally:
        server.terminate()
        server.wait()


def over_tcp(port: int) -> Connect:
    """Return how a node connects to the store at ``port``."""
    return lambda loop, coordinator, member: TcpStore(loop, coordinator, "127.0.0.1", port, member)


def start(loop: Loop, least: int, count: int, connect: Connect, **more: Any) -> list[FakeNode]:
    """Start ``count`` agents of a run that needs ``least`` of them; ``more`` are further fields of its ``Spec``."""
    timing = Timing(keep_alive_interval=30.0)
    fields = {"run_id": "bench", "backend": "tcp", "timing": timing} | more
    spec = Spec(("true",), {}, min_nodes=least, max_nodes=count, **fields)
    # In a process of its own each agent's collector would have next to nothing to look through; here it has them all.
    gc.disable()
    return [FakeNode(spec, number, loop, connect) for number in range(count)]


def run_until(loop: Loop, nodes: list[FakeNode], done: Callable[[FakeNode], bool]) -> None:
    """Drive all ``nodes`` until each is ``done``."""
    waiting = set(nodes)
    while waiting:
        for node in nodes:
            if node.queue:
                node.settle()
            if node in waiting and done(node):
                waiting.discard(node)
        if waiting and not any(node.queue for node in nodes):
            loop.turn(5.0)
