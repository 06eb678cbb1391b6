"""An observer that keeps a ``WorkerGroup`` up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rallypoint.elastic.agent.server.api import Worker, WorkerState
from rallypoint.elastic.metrics.api import put_metric
from rallypoint.model import event as events
from rallypoint.model import node
from rallypoint.model import order as orders

if TYPE_CHECKING:
    from rallypoint.elastic.agent.server.api import WorkerGroup
    from rallypoint.model.node import View


class GroupWatch:
    """Call it with every decision."""

    def __init__(self, group: WorkerGroup) -> None:
        self._group = group
        self.restarts = 0
        """How many of the run's restarts have been used."""
        self._drained = 0  # the last round that was ended

    def __call__(self, decision: orders.Decision) -> None:
        event, group = decision.event, self._group
        if isinstance(event, events.Spawned):
            group.workers[event.worker.local_rank].id = event.pid
            if group.state != WorkerState.HEALTHY:
                group.state = WorkerState.HEALTHY
                self.measure(group.state)
        elif isinstance(event, events.Swept):
            group.state = WorkerState.STOPPED
        elif isinstance(event, events.ViewSeen) and event.view is not None:
            self._view_seen(event.view)
        for order in decision.orders:
            if isinstance(order, orders.Spawn):
                self._place(order)

    def measure(self, state: WorkerState) -> None:
        """Tell metrics what torch's agent tells at each look at its workers: here, when it changes."""
        role = self._group.spec.role
        put_metric(f"workers.{role}.remaining_restarts", self._group.spec.max_restarts - self.restarts)
        put_metric(f"workers.{role}.{state.name.lower()}", 1)

    def _view_seen(self, view: View) -> None:
        if view.phase != node.DRAINING or view.round == self._drained:
            return
        self._drained = view.round
        if WorkerState.is_running(self._group.state):
            self._group.state = WorkerState.UNHEALTHY
        if view.failures:
            self.measure(WorkerState.FAILED)

    def _place(self, order: orders.Spawn) -> None:
        group, told = self._group, order.assignment
        self.restarts = told.restart_count
        group.group_rank, group.group_world_size = told.group_rank, told.group_world_size
        group.master_addr, group.master_port = told.master_addr, told.master_port
        group.workers[told.local_rank] = Worker(
            told.local_rank, told.rank, told.role_rank, told.world_size, told.role_world_size
        )

    def __repr__(self) -> str:
        return f"<GroupWatch of {self._group!r}>"
