"""The driver of one node: the loop around the core, and the hands that carry its orders out.

    facts -> queue -> Agent.handle -> orders -> rooms -> facts ...

Rooms only put events into the queue; the core only answers with orders; observers are shown both.
Nothing here decides anything.
"""

from __future__ import annotations

import os
import socket
from collections import deque

import rallypoint
from rallypoint.c10d.server import WorkerStore
from rallypoint.core.agent import Agent
from rallypoint.driver.coordinator import Coordinator
from rallypoint.driver.signals import SignalTrap
from rallypoint.driver.stores import open_store
from rallypoint.logs.logs import Logs
from rallypoint.model import event as events
from rallypoint.model import order as orders
from rallypoint.model.errors import UsageError
from rallypoint.model.node import NodeInfo
from rallypoint.net import Listener, listen
from rallypoint.proc.environment import worker_argv, worker_environment
from rallypoint.proc.errorfile import read_error
from rallypoint.proc.processes import Processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.driver.loop import Loop
    from rallypoint.model.event import Event
    from rallypoint.model.order import Order
    from rallypoint.model.result import Outcome, WorkerId
    from rallypoint.model.spec import Spec
    from rallypoint.observe.messages import Messages

HOOK_DIR = os.path.join(os.path.dirname(rallypoint.__file__), "worker", "hook")


def node_name() -> str:
    """Return a name for this launcher that no other has: host, pid and some chance."""
    return f"{os.uname().nodename}:{os.getpid()}:{os.urandom(2).hex()}"


class Node:
    """One launcher. ``run`` returns how the run ended here; ``close`` releases everything, in any state.

    ``logs`` is where the workers' output goes, ``messages`` the observer that speaks to people.
    """

    def __init__(self, spec: Spec, name: str, loop: Loop, logs: Logs, messages: Messages) -> None:
        self._spec = spec
        self._loop = loop
        self._logs = logs
        self._messages = messages
        self._queue: deque[Event] = deque()
        self.outcome: Outcome | None = None
        info = NodeInfo(name, os.uname().nodename, "", spec.nproc, role=spec.role, node_rank=spec.node_rank)
        self._agent = Agent(spec, info)
        self._mark = os.urandom(8).hex()
        self._processes = Processes(loop, self._enriched, self._mark)
        self._worker_store = WorkerStore(loop, self._warn)
        self._worker_listener: Listener | None = None
        self._error_files: dict[WorkerId, str] = {}
        self._starts: dict[int, int] = {}  # round -> attempt
        self._coordinator = Coordinator(spec, name, self._queue.append, self._warn)
        self._signals = SignalTrap((*spec.signals, *spec.forward_signals), loop.wake_fd)

    def run(self) -> Outcome:
        """Drive the run to its end on this node."""
        self._queue.append(events.Started())
        store = open_store(
            self._spec,
            self._agent.info.id,
            self._loop,
            self._coordinator,
            workers=self._worker_store,
            warn=self._warn,
        )
        self._coordinator.attach(store)
        while True:
            self._settle()
            if self.outcome is not None:
                return self.outcome
            self._loop.turn(self._patience())
            self._note_signals_and_time()

    def linger(self) -> None:
        """Stay until the console has taken all output and, if we host the store, the others have learned the end.

        A signal ends the wait. If one has stopped this node already, nobody is waited for: the others go on.
        """
        self._loop.run_until(lambda: self._logs.flush(0) or self._signals.arrived)
        if self.outcome is not None and self.outcome.status == "stopped":
            return
        if linger := getattr(self._coordinator.store, "linger", None):
            gone: list[bool] = []
            linger(self._spec.timing.close_timeout, lambda: gone.append(True))
            self._loop.run_until(lambda: gone or self._signals.arrived)

    def close(self) -> None:
        self._processes.close()
        self._coordinator.close()
        if self._worker_listener is not None:
            self._worker_listener.close()
        self._worker_store.close()
        self._signals.close()

    # -- the loop's three steps

    def _settle(self) -> None:
        """Let the core take in every fact that is waiting, and carry out what it orders."""
        while self._queue and self.outcome is None:
            event = self._queue.popleft()
            now = self._loop.now()
            given = self._agent.handle(event, now)
            self._messages(orders.Decision(now, event, tuple(given)))
            for order in given:
                _HANDS[type(order)](self, order)

    def _patience(self) -> float | None:
        times = [t for t in (self._agent.wake_at(), self._messages.next_tick()) if t is not None]
        return max(0.0, min(times) - self._loop.now()) if times else None

    def _note_signals_and_time(self) -> None:
        while self._signals.arrived:
            self._queue.append(events.SignalReceived(self._signals.arrived.popleft()))
        now = self._loop.now()
        wake, tick = self._agent.wake_at(), self._messages.next_tick()
        if wake is not None and now >= wake:
            self._queue.append(events.DeadlinePassed())
        if tick is not None and now >= tick:
            self._messages.tick(now)

    # -- hands, one for each order

    def _serve_workers(self, order: orders.ServeWorkers) -> None:
        """Open the worker store at a new port, so that nobody of an earlier round can reach it.

        With ``static`` the port is given: rank 0's store shares it with the coordination store's.
        """
        self._worker_store.reset()
        if self._spec.backend == "static":
            port = int(self._spec.endpoint.rpartition(":")[2]) if self._spec.node_rank == 0 else 0
            self._queue.append(events.Serving(order.round, port))
            return
        if self._worker_listener is not None:
            self._worker_listener.close()
        try:
            sock = listen(self._agent.info.address, 0)
        except (OSError, UnicodeError):
            # --local-addr may be a name, or an address that only the others know this node by.
            sock = listen("::" if socket.has_dualstack_ipv6() else "0.0.0.0", 0)
        self._worker_listener = Listener(self._loop, sock, self._worker_store.adopt)
        self._queue.append(events.Serving(order.round, self._worker_listener.port))

    def _spawn(self, order: orders.Spawn) -> None:
        worker, assignment = order.worker, order.assignment
        attempt = self._starts.setdefault(worker.round, len(self._starts))
        try:
            stdio = self._logs.prepare(worker, attempt, assignment.rank, assignment.local_world_size)
        except OSError as error:
            self._queue.append(events.SpawnFailed(worker, f"no pipes for its output: {error}"))
            return
        self._error_files[worker] = stdio.error_file
        try:
            env = worker_environment(self._spec, assignment, stdio.error_file, self._mark, HOOK_DIR)
        except UsageError as error:  # fewer devices than workers shows only now
            self._queue.append(events.SpawnFailed(worker, str(error)))
            return
        argv = worker_argv(self._spec, worker.local_rank)
        self._processes.spawn(worker, argv, env, (stdio.stdin, stdio.stdout, stdio.stderr))
        self._logs.spawned(worker)

    def _enriched(self, event: Event) -> None:
        """Queue a fact about a worker; to its end, add its own last words."""
        if isinstance(event, events.Exited):
            worker = event.worker
            self._logs.drain(worker)
            path = self._error_files.get(worker, "")
            error = read_error(path) if path and not event.exit.succeeded else None
            event = event.replace(
                exit=event.exit.replace(
                    error=error,
                    last_lines=() if event.exit.succeeded else self._logs.last_lines(worker),
                    error_file=path if error else "",
                )
            )
        elif isinstance(event, events.Swept):
            for worker in [w for w in self._error_files if w.round == event.round]:
                self._logs.finish(worker)
                del self._error_files[worker]
        self._queue.append(event)

    def _signal(self, order: orders.Signal) -> None:
        self._processes.signal(order.worker, order.number, order.group)

    def _dump_stacks(self, order: orders.DumpStacks) -> None:
        self._processes.dump_stacks(order.worker)

    def _sweep(self, order: orders.Sweep) -> None:
        self._processes.sweep(order.round, order.deadline)

    def _abandon(self, order: orders.Abandon) -> None:
        self._processes.abandon(order.worker)

    def _finish(self, order: orders.Finish) -> None:
        self.outcome = order.outcome

    def _warn(self, text: str) -> None:
        self._messages.notice(text, "warning")

    def __repr__(self) -> str:
        return f"<Node {self._agent!r}, {len(self._queue)} facts waiting>"


_HANDS: dict[type[Order], Callable[..., None]] = {
    orders.Join: lambda node, order: node._coordinator.join(order),
    orders.Lead: lambda node, order: node._coordinator.lead(order),
    orders.Gather: lambda node, _order: node._coordinator.gather(),
    orders.Propose: lambda node, order: node._coordinator.propose(order),
    orders.Publish: lambda node, order: node._coordinator.publish(order),
    orders.Leave: lambda node, order: node._coordinator.leave(order),
    orders.ServeWorkers: Node._serve_workers,
    orders.Spawn: Node._spawn,
    orders.Signal: Node._signal,
    orders.DumpStacks: Node._dump_stacks,
    orders.Sweep: Node._sweep,
    orders.Abandon: Node._abandon,
    orders.Finish: Node._finish,
}
