"""The handler of Rallypoint's own backends: c10d, tcp, static, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rallypoint.elastic.rendezvous.api import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    RendezvousTimeoutError,
)
from rallypoint.elastic.rendezvous.terms import meeting

if TYPE_CHECKING:
    from rallypoint.elastic.rendezvous.seat import Seat
    from rallypoint.elastic.rendezvous.store import NodeStore
    from rallypoint.model.result import Outcome

__all__ = ["OwnRendezvousHandler"]


class OwnRendezvousHandler(RendezvousHandler):
    """Meets the other nodes by Rallypoint's own core.

    An elastic agent only takes ``parameters`` from it and lets the driver do the rest. Called by anybody
    else, the first ``next_rendezvous`` opens the store (in a thread) and takes this node's seat in the run;
    ``shutdown`` gives it back. Raises ValueError for parameters that cannot work.
    """

    def __init__(self, params: RendezvousParameters) -> None:
        self.parameters = params
        self.fields = meeting(params)
        self._seat: Seat | None = None
        self._store: NodeStore | None = None
        self._closed = False

    def get_backend(self) -> str:
        return self.parameters.backend

    @property
    def use_agent_store(self) -> bool:
        return True

    def get_run_id(self) -> str:
        return self.parameters.run_id

    def next_rendezvous(self) -> RendezvousInfo:
        """Leave the round of before, if there was one, and wait for the next."""
        from rallypoint.elastic.rendezvous.seat import Seat
        from rallypoint.elastic.rendezvous.store import NodeStore

        if self._closed:
            raise RendezvousClosedError(f"the rendezvous {self.get_run_id()!r} is closed")
        if self._seat is None:
            self._seat = Seat(self.fields)
        self._hang_up()
        found = self._seat.next_round()
        if found.assignment is None:
            raise _error_of(found.outcome, self.get_run_id())
        place = found.assignment
        prefix = f"rallypoint/nodes/{self.get_run_id()}/{found.round}/"
        self._store = NodeStore(place.master_addr, place.master_port, prefix, self.fields["timing"].read_timeout)
        info = RendezvousStoreInfo(place.master_addr, place.master_port)
        return RendezvousInfo(self._store, place.group_rank, place.group_world_size, info)

    def is_closed(self) -> bool:
        return self._closed or (self._seat is not None and self._seat.closed)

    def set_closed(self) -> None:
        self._closed = True
        if self._seat is not None:
            self._seat.close_run()

    def num_nodes_waiting(self) -> int:
        return self._seat.waiting if self._seat is not None else 0

    def shutdown(self) -> bool:
        self._closed = True
        self._hang_up()
        if self._seat is not None:
            self._seat.leave()
            self._seat = None
        return True

    def _hang_up(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def __repr__(self) -> str:
        return f"<OwnRendezvousHandler {self.parameters!r}, {self._seat or 'no seat taken'}>"


def _error_of(outcome: Outcome | None, run_id: str) -> RendezvousError:
    reason = f"the rendezvous {run_id!r}: {outcome.reason if outcome else 'it is over'}"
    if outcome is not None and outcome.status == "timeout":
        return RendezvousTimeoutError(reason)
    if outcome is not None and outcome.status in ("refused", "error"):
        return RendezvousError(reason)
    return RendezvousClosedError(reason)
