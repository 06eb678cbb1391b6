"""An observer that keeps a ``WorkerGroup`` up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rallypoint.elastic.agent.server.api import Worker, WorkerState
from rallypoint.model import event as events
from rallypoint.model import node
from rallypoint.model import order as orders

if TYPE_CHECKING:
    from rallypoint.elastic.agent.server.api import WorkerGroup


class GroupWatch:
    """Call it with every decision."""

    def __init__(self, group: WorkerGroup) -> None:
        self._group = group

    def __call__(self, decision: orders.Decision) -> None:
        event, group = decision.event, self._group
        if isinstance(event, events.Spawned):
            group.workers[event.worker.local_rank].id = event.pid
            group.state = WorkerState.HEALTHY
        elif isinstance(event, events.Swept):
            group.state = WorkerState.STOPPED
        elif isinstance(event, events.ViewSeen) and self._running and event.view is not None:
            group.state = WorkerState.UNHEALTHY if event.view.phase == node.DRAINING else group.state
        for order in decision.orders:
            if isinstance(order, orders.Spawn):
                self._place(order)

    @property
    def _running(self) -> bool:
        return WorkerState.is_running(self._group.state)

    def _place(self, order: orders.Spawn) -> None:
        group, told = self._group, order.assignment
        group.group_rank, group.group_world_size = told.group_rank, told.group_world_size
        group.master_addr, group.master_port = told.master_addr, told.master_port
        group.workers[told.local_rank] = Worker(
            told.local_rank, told.rank, told.role_rank, told.world_size, told.role_world_size
        )

    def __repr__(self) -> str:
        return f"<GroupWatch of {self._group!r}>"
