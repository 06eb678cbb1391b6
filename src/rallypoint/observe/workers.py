"""The workers of this node as messages: started, ended, left behind. Mostly for ``-v``."""

from __future__ import annotations

from rallypoint.model import event as events
from rallypoint.model import order as orders
from rallypoint.model.value import Value
from rallypoint.observe.message import MORE, Message
from rallypoint.observe.wording import listed, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rallypoint.model.result import WorkerId


class Workers:
    """Remembers which worker has which rank and pid. ``tell`` turns an event or an order into a message."""

    def __init__(self) -> None:
        self._running: dict[WorkerId, tuple[int, int]] = {}  # rank and pid
        self._ranks: dict[WorkerId, int] = {}  # of those ordered, not yet there

    def __len__(self) -> int:
        """How many run here now."""
        return len(self._running)

    def tell(self, what: Value) -> Message | None:
        """Return what is to be said of it; None for nothing, or for what does not concern workers."""
        react = _REACT.get(type(what))
        return react(self, what) if react else None

    def _spawn(self, order: orders.Spawn) -> None:
        self._ranks[order.worker] = order.assignment.rank

    def _spawned(self, event: events.Spawned) -> Message:
        rank = self._ranks.pop(event.worker, -1)
        self._running[event.worker] = (rank, event.pid)
        text = f"{_name(event.worker, rank)} started, pid {event.pid}"
        return _detail("spawned", text, _fields(event.worker, rank) | {"pid": event.pid})

    def _spawn_failed(self, event: events.SpawnFailed) -> Message:
        rank = self._ranks.pop(event.worker, -1)
        text = f"{_name(event.worker, rank)} could not be started: {one_line(event.reason)}"
        return _detail("spawn_failed", text, _fields(event.worker, rank) | {"reason": event.reason})

    def _exited(self, event: events.Exited) -> Message:
        rank, _pid = self._running.pop(event.worker, (-1, 0))
        end = event.exit
        text = f"{_name(event.worker, rank)} ended, pid {end.pid}: {one_line(end.words)}"
        fields = {"pid": end.pid, "words": end.words, "exit_code": end.status}
        return _detail("exited", text, _fields(event.worker, rank) | fields)

    def _serving(self, event: events.Serving) -> Message:
        text = f"worker store of round {event.round} listens on port {event.port}"
        return _detail("serving", text, event.as_dict())

    def _abandon(self, order: orders.Abandon) -> Message:
        rank, pid = self._running.pop(order.worker, (-1, 0))
        text = f"{_name(order.worker, rank)}, pid {pid}, does not end even on SIGKILL: left behind"
        return Message("abandoned", text, "warning", fields=_fields(order.worker, rank) | {"pid": pid})

    def _swept(self, event: events.Swept) -> Message | None:
        if not event.stuck:
            return None
        text = f"pids {listed(event.stuck)} of round {event.round} do not end even on SIGKILL: left behind"
        return Message("stuck", text, "warning", fields={"round": event.round, "pids": list(event.stuck)})

    def __repr__(self) -> str:
        return f"<Workers {len(self._running)} running, {len(self._ranks)} ordered>"


_REACT: dict[type, Callable[[Workers, Any], Message | None]] = {
    orders.Spawn: Workers._spawn,
    orders.Abandon: Workers._abandon,
    events.Spawned: Workers._spawned,
    events.SpawnFailed: Workers._spawn_failed,
    events.Exited: Workers._exited,
    events.Serving: Workers._serving,
    events.Swept: Workers._swept,
}


def _detail(event: str, text: str, fields: dict[str, Any]) -> Message:
    return Message(event, text, "debug", MORE, fields=fields)


def _name(worker: WorkerId, rank: int) -> str:
    return f"rank {rank} (local {worker.local_rank})" if rank >= 0 else str(worker)


def _fields(worker: WorkerId, rank: int) -> dict[str, Any]:
    return {"round": worker.round, "rank": rank, "local_rank": worker.local_rank}
