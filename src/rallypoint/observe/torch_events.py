"""The events that torch's agent records, made from decisions: an observer, for ``--event-log-handler``."""

from __future__ import annotations

import json
import os
import time

from rallypoint.model import event as events
from rallypoint.model import order as orders
from rallypoint.model.node import FORMING, RUNNING
from rallypoint.observe.handlers import events_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.node import Assignment
    from rallypoint.model.order import Decision
    from rallypoint.model.result import Exit, Outcome, WorkerId
    from rallypoint.model.spec import Spec

_BACKENDS = {"tcp": "c10d"}


class TorchEvents:
    """Records, each as one line of JSON: RENDEZVOUS and its duration, the START and end of workers, the agent's end.

    ``destination`` names the handler. ``wall`` gives seconds since the epoch.
    """

    def __init__(self, spec: Spec, destination: str, wall: Callable[[], float] = time.time) -> None:
        self._spec = spec
        self._logger = events_logger(destination)
        self._wall = wall
        self._began: float | None = None
        self._waiting_since: float | None = None
        self._restarts = 0
        self._phase = ""
        self._workers: dict[WorkerId, Assignment] = {}
        self._pids: dict[WorkerId, int] = {}
        self._exits: dict[WorkerId, Exit] = {}

    def __call__(self, decision: Decision) -> None:
        if self._began is None:
            self._began = self._waiting_since = decision.at
        event = decision.event
        if isinstance(event, events.ViewSeen) and event.view is not None:
            self._restarts = event.view.restarts
            self._turned(event.view.phase, decision.at)
        elif isinstance(event, events.Spawned) and event.worker in self._workers:
            self._pids[event.worker] = event.pid
            self._worker(event.worker, "START", 0)
        elif isinstance(event, events.Exited):
            self._exits[event.worker] = event.exit
        for order in decision.orders:
            if isinstance(order, orders.Spawn):
                self._spawn(order)
            elif isinstance(order, orders.Finish):
                self._finish(order.outcome, int(decision.at - self._began))

    def _turned(self, phase: str, now: float) -> None:
        if phase == self._phase:
            return
        self._phase = phase
        if phase == FORMING and self._waiting_since is None:
            self._waiting_since = now
        elif phase == RUNNING and self._waiting_since is not None:
            self._record("RENDEZVOUS", "AGENT", {}, duration_ms=(now - self._waiting_since) * 1000)
            self._waiting_since = None

    def _spawn(self, order: orders.Spawn) -> None:
        if any(known.round != order.worker.round for known in self._workers):
            for facts in (self._workers, self._pids, self._exits):
                facts.clear()  # torch tells of the end of the last incarnation only
        self._workers[order.worker] = order.assignment

    def _finish(self, outcome: Outcome, seconds: int) -> None:
        culprits = {failure.pid for failure in outcome.failures if failure.pid}
        for worker in self._workers:
            exit = self._exits.get(worker)
            if outcome.status == "succeeded":
                state = "SUCCEEDED"
            else:  # also for one that succeeded before: torch says the same
                state = "FAILED" if exit and not exit.succeeded and exit.pid in culprits else "TERMINATED"
            self._worker(worker, state, seconds)
        ended = outcome.status == "succeeded"
        raw = None if ended else outcome.reason or outcome.status
        self._record("SUCCEEDED" if ended else "FAILED", "AGENT", {"raw_error": raw, "total_run_time": seconds})

    def _worker(self, worker: WorkerId, state: str, seconds: int) -> None:
        assignment = self._workers[worker]
        exit = self._exits.get(worker) if state == "FAILED" else None
        facts = {
            "global_rank": assignment.rank,
            "worker_id": str(self._pids.get(worker)),
            "total_run_time": seconds,
            "raw_error": _raw_error(exit) if exit else None,
        }
        status = exit.code if exit and exit.code is not None else (-(exit.signal or 0) if exit else None)
        # Lists of one: so torch writes them, and so its readers read them.
        details = {
            "local_rank": [assignment.local_rank],
            "role_rank": [assignment.role_rank],
            "role_world_size": [assignment.role_world_size],
            "exit_code": [status],
            "worker_pid": [exit.pid if exit else None],
        }
        self._record(state, "WORKER", facts, details)

    def _record(
        self,
        state: str,
        source: str,
        facts: dict[str, object],
        details: dict[str, object] | None = None,
        duration_ms: float | None = None,
    ) -> None:
        group = next(iter(self._workers.values()), None)
        spec = self._spec
        about = {"group_world_size": group.group_world_size if group else None, "entry_point": _entry_point(spec)}
        metadata = {
            "run_id": spec.run_id,
            "global_rank": None,
            "group_rank": group.group_rank if group else None,
            "worker_id": None,
            "role": spec.role,
            "hostname": os.uname().nodename,
            "state": state,
            "total_run_time": 0,
            "rdzv_backend": _BACKENDS.get(spec.backend, spec.backend),
            "raw_error": None,
            "metadata": json.dumps(about | (details or {})),
            "agent_restarts": self._restarts,
            "duration_ms": duration_ms,
        }
        name = f"torchelastic.worker.status.{state}"
        content = {"name": name, "source": source, "timestamp": int(self._wall() * 1000), "metadata": metadata | facts}
        self._logger.info(json.dumps(content))

    def __repr__(self) -> str:
        return f"<TorchEvents to {self._logger.name}, {len(self._workers)} workers, {self._phase or 'no round yet'}>"


def _entry_point(spec: Spec) -> str:
    """Return the function's name, or the program's (torch: the interpreter's)."""
    return getattr(spec.call.function, "__qualname__", "?") if spec.call else spec.argv[0]


def _raw_error(exit: Exit) -> str:
    """Return the content of torch's error file, as JSON; "{}" if the worker wrote none."""
    if exit.error is None:
        return "{}"
    extra = {"py_callstack": exit.error.traceback, "timestamp": str(int(exit.error.timestamp))}
    return json.dumps({"message": {"message": exit.error.headline, "extraInfo": extra}})
