"""Somebody else's ``RendezvousHandler`` in the place of the coordinator: same orders in, same events out.

The handler decides who is in a round and who comes first. Here its answer becomes a view, so that core, driver
and rooms are the same. What handlers cannot tell is done as torch's agent does it: slots and roles are exchanged
over the handler's store, newcomers are asked for every ``monitor_interval``, each node counts its own restarts,
and nodes that are done wait for each other at a barrier in the store. The handler blocks, so it has a thread.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rallypoint.core import budget, policy
from rallypoint.elastic.rendezvous.api import RendezvousStateError
from rallypoint.model import event as events
from rallypoint.model import node
from rallypoint.model.node import Roster, View
from rallypoint.model.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.driver.loop import Loop
    from rallypoint.elastic.rendezvous.api import RendezvousHandler
    from rallypoint.model.event import Event
    from rallypoint.model.node import NodeInfo
    from rallypoint.model.order import Gather, Join, Lead, Leave, Propose, Publish
    from rallypoint.model.result import Failure
    from rallypoint.model.spec import Spec

SLOTS = "rallypoint/slots/"
ROSTER = "rallypoint/roster"
END = "torchelastic/agent/terminal_state"


class Meeting(Value):
    """How to meet by ``handler``; called by the driver to make the coordinator. Times are in seconds.

    ``master`` (address, port) overrides what the handler says of the workers' store, where it is not None.
    """

    handler: RendezvousHandler
    errors: list[BaseException]
    monitor_interval: float = 0.1
    barrier_timeout: float = 300.0
    master: tuple[str | None, int | None] = (None, None)

    def __call__(
        self, spec: Spec, name: str, loop: Loop, emit: Callable[[Event], None], warn: Callable[[str], None]
    ) -> ForeignCoordinator:
        return ForeignCoordinator(self, spec, name, loop, emit, warn)


class ForeignCoordinator:
    """The look-alike of ``driver.coordinator.Coordinator``. What the handler raises goes to ``meeting.errors``."""

    store: object = None
    """There is none of ours."""

    def __init__(
        self,
        meeting: Meeting,
        spec: Spec,
        name: str,
        loop: Loop,
        emit: Callable[[Event], None],
        warn: Callable[[str], None],
    ) -> None:
        self._spec = spec
        self._name = name
        self._emit = emit
        self._errors = meeting.errors
        self._view: View | None = None
        self._revision = 0
        self._restarts = 0
        self._failures: list[Failure] = []
        self._meeting_now = False
        self._open = True

        def tell(call: Callable[[], None]) -> None:
            loop.soon(lambda: call() if self._open else None)

        self._helper = _Helper(meeting, spec, name, tell, warn)

    def begin(self) -> None:
        """Be there at once: there is no store of ours to be found."""
        self._emit(events.StoreBack(True, self._spec.local_addr or os.uname().nodename))
        self._emit(events.LeaderSeen(self._helper.backend))
        self._emit(events.ViewSeen(None, 0))

    def close(self) -> None:
        self._open = False
        self._helper.close()

    # -- orders

    def join(self, order: Join) -> None:
        """Waiting: meet the others (or end, if the budget is spent). Done: wait for the others' end."""
        self._emit(events.Joined())
        info = order.info
        settled = self._view is None or info.round >= self._view.round
        if info.state == node.WAITING and settled and not self._meeting_now:
            self._next(info)
        elif info.state == node.DONE:
            self._helper.wait_for_others(self._all_done)

    def publish(self, order: Publish) -> None:
        """A worker failed: the round ends on this node; the others are told by the handler, if it can."""
        if self._view is None:
            return
        self._failures.append(order.failure.replace(order=len(self._failures)))
        cause = policy.sorted_by_cause(self._failures)
        reason = f"{cause[0].place}: {cause[0].headline}"
        self._show(self._view.replace(phase=node.DRAINING, failures=cause, reason=reason))

    def leave(self, _order: Leave) -> None:
        self._helper.rest()

    def lead(self, _order: Lead) -> None:
        """The handler leads."""

    def gather(self, _order: Gather) -> None:
        """The handler leads."""

    def propose(self, _order: Propose) -> None:
        """The handler leads."""

    # -- what follows

    def _next(self, info: NodeInfo) -> None:
        failures = policy.sorted_by_cause(self._failures)
        if failures and self._view is not None:
            view = self._view.replace(restarts=self._restarts)
            if budget.judge(self._spec, view, failures, node_lost=False, lasted=0.0, ages=[]).final:
                self._show(self._view.replace(phase=node.CLOSED, failures=failures))
                return
            self._restarts += 1
            self._failures.clear()
        self._meeting_now = True
        self._helper.meet(lambda found: self._met(found, info.round), self._failed)

    def _met(self, found: tuple[Roster, str, int], round_: int) -> None:
        self._meeting_now = False
        roster, host, port = found
        self._show(View(round_ + 1, node.RUNNING, roster, host, port, restarts=self._restarts))
        self._helper.watch(self._others_wait)

    def _others_wait(self, count: int) -> None:
        if self._view is not None and self._view.phase == node.RUNNING:
            self._show(self._view.replace(phase=node.DRAINING, reason=f"{count} more node(s) wait to join"))

    def _all_done(self) -> None:
        if self._view is not None:
            self._show(self._view.replace(phase=node.CLOSED, reason="all workers succeeded"))

    def _failed(self, error: BaseException) -> None:
        self._errors.append(error)
        self._emit(events.Refused(f"rendezvous {self._helper.backend}", "", f"{type(error).__name__}: {error}"))

    def _show(self, view: View) -> None:
        if view.phase != node.RUNNING:
            self._helper.rest()
        self._view = view
        self._revision += 1
        self._emit(events.ViewSeen(view, self._revision))

    def __repr__(self) -> str:
        return f"<ForeignCoordinator of {self._name} by {self._helper!r}, {self._view}>"


class _Helper:
    """The thread that talks to the handler. ``tell`` brings a call back to the loop."""

    def __init__(
        self,
        meeting: Meeting,
        spec: Spec,
        name: str,
        tell: Callable[[Callable[[], None]], None],
        warn: Callable[[str], None],
    ) -> None:
        self._meeting = meeting
        self._spec = spec
        self._name = name
        self._tell = tell
        self._warn = warn
        self._info: Any = None
        self._watcher: Callable[[int], None] | None = None
        self.backend = meeting.handler.get_backend()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A handler that blocks cannot be told to stop: a daemon, lest it keep the program from ending.
        threading.Thread(target=self._run, name="rallypoint-handler", daemon=True).start()

    def meet(self, met: Callable[[tuple[Roster, str, int]], None], failed: Callable[[BaseException], None]) -> None:
        """Wait for the next round."""

        def job() -> None:
            try:
                found = self._meet()
            except Exception as error:
                problem = error
                self._tell(lambda: failed(problem))
            else:
                self._tell(lambda: met(found))

        self._jobs.put(job)

    def watch(self, seen: Callable[[int], None]) -> None:
        """Ask for newcomers again and again, until ``rest``."""
        self._watcher = seen
        self._jobs.put(lambda: None)

    def rest(self) -> None:
        self._watcher = None

    def wait_for_others(self, done: Callable[[], None]) -> None:
        """Wait until all nodes of the round have come so far."""
        self.rest()

        def job() -> None:
            try:
                self._barrier()
            except Exception as error:
                words = f"the other nodes did not end within {self._meeting.barrier_timeout:g} s: {error}"
                self._tell(lambda: self._warn(words))
            self._tell(done)

        self._jobs.put(job)

    def close(self) -> None:
        self.rest()
        self._jobs.put(None)

    def _run(self) -> None:
        while True:
            watcher = self._watcher
            try:
                job = self._jobs.get(timeout=self._meeting.monitor_interval if watcher else None)
            except queue.Empty:
                self._ask(watcher)
                continue
            if job is None:
                return
            job()

    def _ask(self, watcher: Callable[[int], None] | None) -> None:
        try:
            count = int(self._meeting.handler.num_nodes_waiting())
        except Exception as error:
            words = f"rendezvous {self.backend}: num_nodes_waiting() raised {type(error).__name__}: {error}"
            self._watcher = None
            self._tell(lambda: self._warn(words))
            return
        if count > 0 and watcher is not None and self._watcher is watcher:
            self._watcher = None
            self._tell(lambda: watcher(count))

    def _meet(self) -> tuple[Roster, str, int]:
        info = self._info = self._meeting.handler.next_rendezvous()
        if not 0 <= info.rank < info.world_size:
            raise RendezvousStateError(f"{self.backend} gave this node rank {info.rank} of {info.world_size}")
        host, port = self._meeting.master
        if told := info.bootstrap_store_info:
            host, port = host or told.master_addr, port or told.master_port
        names = tuple(self._name if rank == info.rank else f"node {rank}" for rank in range(info.world_size))
        slots, roles = self._exchange(info)
        return Roster(names, tuple(slots), tuple(roles)), str(host or ""), int(port or 0)

    def _exchange(self, info: Any) -> tuple[list[int], list[str]]:
        """Learn the slots and the role of every node: rank 0 reads them one by one and writes them as one."""
        own = (self._spec.nproc, self._spec.role)
        if os.environ.get("TORCH_ELASTIC_WORKER_IDENTICAL") == "1" or info.world_size == 1:
            return [own[0]] * info.world_size, [own[1]] * info.world_size
        info.store.set(f"{SLOTS}{info.rank}", json.dumps(own).encode())
        if info.rank == 0:
            columns = [json.loads(info.store.get(f"{SLOTS}{rank}")) for rank in range(info.world_size)]
            info.store.set(ROSTER, json.dumps(columns).encode())
        told = json.loads(info.store.get(ROSTER))
        return [int(slots) for slots, _ in told], [str(role) for _, role in told]

    def _barrier(self) -> None:
        """Meet torch's agents there too: the keys are theirs."""
        store, size = self._info.store, self._info.world_size
        if size == 1:
            return
        if store.add(f"{END}/num_members", 1) == size:
            store.set(f"{END}/last_member", b"-")
        store.wait([f"{END}/last_member"], timedelta(seconds=self._meeting.barrier_timeout))

    def __repr__(self) -> str:
        return f"<_Helper for {self.backend}, {'watching' if self._watcher else 'resting'}>"
