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
from rallypoint.driver.coordinator import ORDERS, Coordinator
from rallypoint.driver.programs import open_program
from rallypoint.driver.services import Services
from rallypoint.driver.signals import SignalTrap
from rallypoint.driver.stores import C10D_FIRST_BYTE, open_store
from rallypoint.logs.logs import Logs
from rallypoint.model import event as events
from rallypoint.model import order as orders
from rallypoint.model.errors import UsageError
from rallypoint.model.node import NodeInfo
from rallypoint.model.result import ALL
from rallypoint.net import listen
from rallypoint.proc.environment import worker_environment
from rallypoint.proc.errorfile import read_error
from rallypoint.proc.processes import Processes
from rallypoint.proc.safepoints import SafePoints
from rallypoint.store.door import Door
from rallypoint.store.resolve import numeric

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rallypoint.driver.coordinator import Meet, Stranger
    from rallypoint.driver.destinations import Decided
    from rallypoint.driver.loop import Loop
    from rallypoint.driver.preflight import Preflight
    from rallypoint.model.event import Event
    from rallypoint.model.node import Assignment
    from rallypoint.model.order import Decision, Order
    from rallypoint.model.result import Outcome, WorkerId
    from rallypoint.model.spec import Spec
    from rallypoint.observe.messages import Messages
    from rallypoint.proc.pack import Packed

    Observer = Callable[[Decision], None]

HOOK_DIR = os.path.join(os.path.dirname(rallypoint.__file__), "worker", "hook")


def node_name() -> str:
    """Return a name for this launcher that no other has: host, pid and some chance."""
    return f"{os.uname().nodename}:{os.getpid()}:{os.urandom(2).hex()}"


def _introduction(spec: Spec, name: str, probe: int) -> NodeInfo:
    """What this node says of itself first."""
    return NodeInfo(
        name,
        os.uname().nodename,
        "",
        spec.nproc,
        role=spec.role,
        node_rank=spec.node_rank,
        topology=spec.membership.topology,
        probe=probe,
    )


def _preflight(spec: Spec, loop: Loop, warn: Callable[[str], None]) -> Preflight | None:
    if spec.preflight is None:
        return None
    from rallypoint.driver.preflight import Preflight

    return Preflight(spec, loop, warn)


def _decided(spec: Spec) -> Decided | None:
    if spec.logs.reify is None:
        return None
    from rallypoint.driver.destinations import Decided

    return Decided(spec.logs.reify)


class Node:
    """One launcher. ``run`` returns how the run ended here; ``close`` releases everything, in any state.

    ``logs`` is where the workers' output goes, ``messages`` the observer that speaks to people;
    other ``observers`` are shown every decision too. ``meet`` makes a coordinator that brings its own store.
    ``packed`` is ``spec.call``, ready for the workers, if there is one.
    """

    def __init__(
        self,
        spec: Spec,
        name: str,
        loop: Loop,
        logs: Logs,
        messages: Messages,
        observers: Sequence[Observer] = (),
        meet: Meet | None = None,
        packed: Packed | None = None,
    ) -> None:
        self._loop = loop
        self._logs = logs
        self._messages = messages
        self._mark = os.urandom(8).hex()
        self._services = Services(spec, loop, self._mark, self._warn)
        self._spec = spec = self._services.spec
        self._observers: tuple[Observer, ...] = (self._services, *observers)
        self._queue: deque[Event] = deque()
        self.outcome: Outcome | None = None
        self._preflight = _preflight(spec, loop, self._warn)
        self._agent = Agent(spec, _introduction(spec, name, self._preflight.port if self._preflight else 0))
        emit = self._queue.append
        self._safe_points = SafePoints(loop, spec.nproc, lambda round_: emit(events.Prepared(round_)))
        processes = self._processes = Processes(loop, self._enriched, self._mark)
        self._program = open_program(spec, loop, processes, packed, self._enriched, self._services.place)
        self._worker_store = WorkerStore(loop, self._warn)
        self._worker_door: Door | None = None
        self._decided = _decided(spec)
        self._error_files: dict[WorkerId, str] = {}
        self._starts: dict[tuple[int, int], int] = {}  # round and life -> attempt
        self._directory_told = False
        self._coordinator: Coordinator | Stranger = (
            meet(spec, name, loop, emit, self._warn)
            if meet
            else Coordinator(spec, name, emit, self._warn, self._preflight)
        )
        heeded = (*spec.signals, *spec.forward_signals, *spec.membership.leave_signals)
        self._signals = SignalTrap(heeded, loop.wake_fd)

    def run(self) -> Outcome:
        """Drive the run to its end on this node."""
        self._queue.append(events.Started())
        self._begin()
        while True:
            self._settle()
            if self.outcome is not None:
                return self.outcome
            self._loop.turn(self._patience())
            self._note_signals_and_time()

    def _begin(self) -> None:
        coordinator = self._coordinator
        if not isinstance(coordinator, Coordinator):
            coordinator.begin()
            return
        if self._preflight is not None:
            self._preflight.look(lambda: self._signals.arrived)
        info, workers = self._agent.info, self._worker_store
        store = open_store(self._spec, info.id, self._loop, coordinator, workers=workers, warn=self._warn)
        coordinator.attach(store)

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
        self._program.close()
        self._processes.close()
        self._coordinator.close()
        if self._preflight is not None:
            self._preflight.close()
        if self._worker_door is not None:
            self._worker_door.close()
        self._worker_store.close()
        self._safe_points.close()
        self._services.close()
        self._signals.close()

    # -- the loop's three steps

    def _settle(self) -> None:
        """Let the core take in every fact that is waiting, and carry out what it orders."""
        while self._queue and self.outcome is None:
            event = self._queue.popleft()
            now = self._loop.now()
            given = self._agent.handle(event, now)
            decision = orders.Decision(now, event, tuple(given))
            self._messages(decision)
            for observer in self._observers:
                observer(decision)
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
        sock = self._listen_for_workers()
        if self._worker_door is not None:
            self._worker_door.close()  # only now: or it might be the same port again
        self._worker_door = Door(self._loop, sock, {C10D_FIRST_BYTE: self._worker_store.adopt}, self._warn)
        self._queue.append(events.Serving(order.round, self._worker_door.port))

    def _listen_for_workers(self) -> socket.socket:
        """Listen where this node is reached: at its own address alone, or at all of them if only the others know it."""
        address = numeric(self._agent.info.address)
        if address is not None:  # a name may mean 127.0.1.1 here and nowhere else
            try:
                return listen(address, 0)
            except OSError:
                pass  # --local-addr may be one that a router translates
        return listen("::" if socket.has_dualstack_ipv6() else "0.0.0.0", 0)

    def _spawn(self, order: orders.Spawn) -> None:
        worker, assignment = order.worker, order.assignment
        attempt = self._starts.setdefault((worker.round, worker.life), len(self._starts))
        destination, env = None, None
        try:
            if self._decided:
                destination, env = self._decided.of(worker.round, worker.local_rank, self._environments)
            ranks = (assignment.rank, assignment.local_world_size)
            stdio = self._logs.prepare(worker, attempt, *ranks, destination)
            env = env or self._environment(assignment, stdio.error_file)
        except OSError as error:
            self._queue.append(events.SpawnFailed(worker, f"no pipes for its output: {error}"))
        except UsageError as error:  # fewer devices than workers shows only now
            self._queue.append(events.SpawnFailed(worker, str(error)))
        except Exception as error:  # the user's own class, which says where the output goes
            self._queue.append(events.SpawnFailed(worker, f"its logs specs fail: {type(error).__name__}: {error}"))
        else:
            self._error_files[worker] = stdio.error_file
            self._tell_directory()
            self._safe_points.begin(worker.round, worker.local_rank)
            self._program.spawn(worker, assignment.rank, env, (stdio.stdin, stdio.stdout, stdio.stderr))
            self._logs.spawned(worker)

    def _environment(self, assignment: Assignment, error_file: str = "") -> dict[str, str]:
        cores = self._services.cores(assignment.local_rank)
        env = worker_environment(self._spec, assignment, error_file, self._mark, HOOK_DIR, cores)
        return env | self._safe_points.environment(assignment.local_rank)

    def _environments(self) -> dict[int, dict[str, str]]:
        """Return what every worker of this node's round is told, by local rank."""
        return {w.assignment.local_rank: self._environment(w.assignment) for w in self._agent.group.workers}

    def _tell_directory(self) -> None:
        """Say where the logs are, once, if the user did not choose the place."""
        if not self._directory_told and self._logs.directory is not None and self._spec.logs.directory is None:
            self._messages.notice(f"logs are in {self._logs.directory}")
            self._directory_told = True

    def _enriched(self, event: Event) -> None:
        """Queue a fact about a worker; to its end, add its own last words."""
        if isinstance(event, events.Exited):
            worker = event.worker
            self._logs.drain(worker)
            event = self._program.ended(event)
            path = self._error_files.get(worker, "")
            written = read_error(path) if path and not event.exit.succeeded else None
            event = event.replace(
                exit=event.exit.replace(
                    error=written or event.exit.error,
                    last_lines=() if event.exit.succeeded else self._logs.last_lines(worker),
                    error_file=path if written else "",
                    progress=self._safe_points.ended(worker.round, worker.local_rank),
                )
            )
        elif isinstance(event, events.Swept):
            for worker in [w for w in self._error_files if _concerns(event, w)]:
                self._logs.finish(worker)
                del self._error_files[worker]
        self._queue.append(event)

    def _coordinate(self, order: Order) -> None:
        getattr(self._coordinator, ORDERS[type(order)])(order)

    def _signal(self, order: orders.Signal) -> None:
        self._processes.signal(order.worker, order.number, order.group)

    def _prepare(self, order: orders.Prepare) -> None:
        self._safe_points.ask(order.round)

    def _dump_stacks(self, order: orders.DumpStacks) -> None:
        self._processes.dump_stacks(order.worker)

    def _sweep(self, order: orders.Sweep) -> None:
        self._processes.sweep(order.round, order.deadline, order.local_rank)

    def _abandon(self, order: orders.Abandon) -> None:
        if words := self._processes.abandon(order.worker):
            self._warn(words)

    def _finish(self, order: orders.Finish) -> None:
        self.outcome = self._program.completed(order.outcome)

    def _warn(self, text: str) -> None:
        self._messages.notice(text, "warning")

    def __repr__(self) -> str:
        return f"<Node {self._agent!r}, {len(self._queue)} facts waiting>"


def _concerns(swept: events.Swept, worker: WorkerId) -> bool:
    return worker.round == swept.round and swept.local_rank in (ALL, worker.local_rank)


_HANDS: dict[type[Order], Callable[..., None]] = {
    **dict.fromkeys(ORDERS, Node._coordinate),
    orders.ServeWorkers: Node._serve_workers,
    orders.Spawn: Node._spawn,
    orders.Signal: Node._signal,
    orders.Prepare: Node._prepare,
    orders.DumpStacks: Node._dump_stacks,
    orders.Sweep: Node._sweep,
    orders.Abandon: Node._abandon,
    orders.Finish: Node._finish,
}
