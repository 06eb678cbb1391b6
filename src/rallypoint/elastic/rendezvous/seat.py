"""A node's seat in a run whose workers are somebody else's affair: the core, the store, and workers in name only.

The core asks for workers to be started and stopped; here a worker "runs" from a round's forming until
``next_round`` is called again, so that the core's law holds: no new round while anybody is in the old one.
Everything happens in one thread of its own; the methods hand their wishes over and wait.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from rallypoint.c10d.server import WorkerStore
from rallypoint.core.agent import Agent
from rallypoint.driver.coordinator import ORDERS, Coordinator
from rallypoint.driver.loop import Loop
from rallypoint.driver.node import node_name
from rallypoint.driver.stores import C10D_FIRST_BYTE, open_store
from rallypoint.model import event as events
from rallypoint.model import order as orders
from rallypoint.model.node import Assignment, NodeInfo
from rallypoint.model.result import Exit, Failure, Outcome, WorkerId
from rallypoint.model.spec import Spec
from rallypoint.model.value import Value
from rallypoint.net import listen
from rallypoint.store.door import Door

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

FOREVER = 1e9
"""Seconds until workers in name would be killed: whoever uses the handler takes the time needed."""


class Found(Value):
    """A round with this node's place in it, or how the run ended here."""

    round: int
    assignment: Assignment | None
    outcome: Outcome | None = None


class Seat:
    """Opened by the first user; ``leave`` gives everything back. ``fields`` are the Spec's about meeting."""

    def __init__(self, fields: dict[str, Any]) -> None:
        timing = fields["timing"].replace(shutdown_timeout=FOREVER)
        self._spec = Spec(argv=("rendezvous",), environ={}, **{**fields, "timing": timing})
        self._news = threading.Condition()
        self._found: Found | None = None
        self._dismissed = False  # the core wants the round to end: somebody waits, or has gone
        self._wishes: deque[Callable[[_Table], None]] = deque()
        self._loop = Loop()
        self._thread = threading.Thread(target=self._run, name="rallypoint-rendezvous", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        found = self._found
        return found is not None and found.outcome is not None

    @property
    def waiting(self) -> int:
        """1 if the round of now is to end because another node comes (or has gone), else 0."""
        return int(self._dismissed and not self.closed)

    def next_round(self) -> Found:
        """Leave the round of now and wait for the next, or for the end."""
        with self._news:
            if not self.closed:
                self._found, self._dismissed = None, False
                self._wish(_Table.release)
            self._news.wait_for(lambda: self._found is not None)
            assert self._found is not None, "that is what was waited for"
            return self._found

    def close_run(self) -> None:
        """End the run for all nodes."""
        self._wish(_Table.fail)

    def leave(self) -> None:
        """Give the seat back, and wait until the others can know."""
        self._wish(_Table.leave)
        self._thread.join()

    def _wish(self, call: Callable[[_Table], None]) -> None:
        self._wishes.append(call)
        self._loop.soon(lambda: None)

    def _run(self) -> None:
        try:
            with self._loop, _Table(self._spec, self._loop, self._tell) as table:
                while table.outcome is None:
                    table.turn(self._wishes)
                self._tell(Found(table.round, None, table.outcome))
                table.linger(self._wishes)
        except Exception as error:  # whoever waits for a round must hear of it
            reason = f"{type(error).__name__}: {error}"
            self._tell(Found(0, None, Outcome(status="error", exit_code=1, reason=reason)))

    def _tell(self, found: Found | None) -> None:
        with self._news:
            if found is None:
                self._dismissed = True
            elif not self.closed:
                self._found = found
            self._news.notify_all()

    def __repr__(self) -> str:
        return f"<Seat in {self._spec.run_id}: {self._found or 'waiting for a round'}>"


class _Table:
    """The thread's side: the loop around the core, with hands that only pretend to start workers."""

    def __init__(self, spec: Spec, loop: Loop, tell: Callable[[Found | None], None]) -> None:
        name = node_name()
        self.outcome: Outcome | None = None
        self.round = 0
        self._spec = spec
        self._loop = loop
        self._tell = tell
        self._queue: deque[events.Event] = deque([events.Started()])
        info = NodeInfo(name, os.uname().nodename, "", 1, role=spec.role, node_rank=spec.node_rank)
        self._agent = Agent(spec, info)
        self._worker: WorkerId | None = None
        self._worker_store = WorkerStore(loop, _quiet)
        self._door: Door | None = None
        self._coordinator = Coordinator(spec, name, self._queue.append, _quiet)
        store = open_store(spec, name, loop, self._coordinator, workers=self._worker_store, warn=_quiet)
        self._coordinator.attach(store)

    def turn(self, wishes: deque[Callable[[_Table], None]]) -> None:
        """Carry out wishes and orders, then wait for whatever comes next."""
        while wishes:
            wishes.popleft()(self)
        while self._queue and self.outcome is None:
            for order in self._agent.handle(self._queue.popleft(), self._loop.now()):
                self._carry_out(order)
        if self.outcome is not None or wishes:
            return
        wake = self._agent.wake_at()
        self._loop.turn(None if wake is None else max(0.0, wake - self._loop.now()))
        if wake is not None and self._loop.now() >= wake:
            self._queue.append(events.DeadlinePassed())

    def linger(self, wishes: deque[Callable[[_Table], None]]) -> None:
        """Having ended: serve the store, if it is here, until the others know or the seat is given back."""
        gone: list[bool] = []
        if self.outcome is not None and self.outcome.status == "stopped":
            return
        if linger := getattr(self._coordinator.store, "linger", None):
            linger(self._spec.timing.close_timeout, lambda: gone.append(True))
            self._loop.run_until(lambda: gone or _Table.leave in wishes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._coordinator.close()
        if self._door is not None:
            self._door.close()
        self._worker_store.close()

    # -- wishes

    def release(self) -> None:
        """Our workers of the round, if any, are gone."""
        self._end_worker(Exit(pid=0, code=None, signal=signal.SIGTERM), wanted=True)

    def fail(self) -> None:
        """A failure without restarts left ends the run for everybody."""
        if self._worker is not None:
            self._end_worker(Exit(pid=0, code=1), wanted=False)
        else:
            failure = Failure("worker", self._agent.view.round, self._agent.info.id, os.uname().nodename, "closed", 1)
            self._coordinator.publish(orders.Publish(failure))

    def leave(self) -> None:
        self._queue.append(events.SignalReceived(signal.SIGTERM))
        self._queue.append(events.SignalReceived(signal.SIGTERM))
        self.release()

    def _end_worker(self, how: Exit, wanted: bool) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            if wanted and not self._agent.group.stopping:
                # Nobody asked us to end the round: the others learn from the view that we wait again.
                self._agent.group.stop(signal.SIGTERM, self._loop.now())
            self._queue.append(events.Exited(worker, how))

    # -- hands

    def _carry_out(self, order: orders.Order) -> None:
        if type(order) in ORDERS:
            getattr(self._coordinator, ORDERS[type(order)])(order)
        elif isinstance(order, orders.Finish):
            self.outcome = order.outcome
        else:
            self._pretend(order)

    def _pretend(self, order: orders.Order) -> None:
        if isinstance(order, orders.ServeWorkers):
            self._serve(order.round)
        elif isinstance(order, orders.Spawn):
            self.round, self._worker = order.worker.round, order.worker
            self._queue.append(events.Spawned(order.worker, 0))
            self._tell(Found(self.round, order.assignment))
        elif isinstance(order, orders.Sweep):
            self._queue.append(events.Swept(order.round))
        elif isinstance(order, orders.Signal):
            self._tell(None)

    def _serve(self, round_: int) -> None:
        """Open the round's store, as ``driver.node`` does: empty, at a new port (``static``: at the known one)."""
        self._worker_store.reset()
        port = int(self._spec.endpoint.rpartition(":")[2]) if self._spec.node_rank == 0 else 0
        if self._spec.backend != "static":
            if self._door is not None:
                self._door.close()
            everywhere = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
            routes = {C10D_FIRST_BYTE: self._worker_store.adopt}
            self._door = Door(self._loop, listen(everywhere, 0), routes, _quiet)
            port = self._door.port
        self._queue.append(events.Serving(round_, port))


def _quiet(_text: str) -> None:
    """What strangers send to a port concerns nobody here."""
