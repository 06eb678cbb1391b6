"""Judgements: what is a failure, whose, and which one is the cause.

All pure functions (what follows for the budget: ``core/budget.py``). The rules, in order:

1. A worker that ends badly before it was asked to stop has failed.
2. A worker that was asked to stop and dies of it has not failed; if it wrote down an exception all
   the same, that is told, as a consequence unless the exception is its own.
3. Exceptions and output that speak of a broken connection to a peer are consequences: the peer's end
   came first. So are exceptions that a stop signal raises.
4. The cause is the first failure, in the store's order, that is no consequence; if all are
   consequences, the first of all. A lost node is a cause that costs nothing.
"""

from __future__ import annotations

import signal

from rallypoint.model.result import Failure, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from rallypoint.core.worker import Worker
    from rallypoint.model.node import NodeInfo
    from rallypoint.model.result import Exit
    from rallypoint.model.spec import ExitRule

SPAWN_STATUS = 127
"""The shell's "command not found": a worker could not be started."""
RAISED_STATUS = 1
"""Python's status after an exception that nobody caught."""

_PEER_LOSS = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "connection was likely closed",
    "failed to recv, got 0 bytes",
    "connection aborted",
    "socket closed",
    "remote process exited",
    "disterror: connection",
    "distnetworkerror",
    "connectionreseterror",
    "brokenpipeerror",
    "ncclremoteerror",
)
"""What gloo, NCCL, TCPStore and Python say when the other side of a connection has gone."""

_STOP_TYPES = ("SignalException", "KeyboardInterrupt", "SystemExit")


def worker_failure(worker: Worker, info: NodeInfo, serial: int) -> Failure | None:
    """Return the failure that the end of ``worker`` on node ``info`` is, or None if it is none (rules 1 and 2)."""
    how = worker.exit
    if how is None or how.succeeded or (worker.stopped and how.error is None):
        return None
    return Failure(
        kind="worker",
        words=how.words,
        # The signal that ended it after its exception was ours: that is not the status of the run.
        status=RAISED_STATUS if worker.stopped and how.signal is not None else how.status,
        pid=how.pid,
        signal=how.signal,
        error=how.error,
        last_lines=how.last_lines,
        error_file=how.error_file,
        progress=how.progress,
        consequence=speaks_of_peer(how) or (worker.stopped and _raised_by_stop(how)),
        **_place(worker, info, serial),
    )


def spawn_failure(worker: Worker, info: NodeInfo, reason: str, serial: int) -> Failure:
    """Return the failure that a worker which could not be started is."""
    words = f"could not be started: {reason}"
    return Failure(kind="spawn", words=words, status=SPAWN_STATUS, **_place(worker, info, serial))


def overdue_failure(worker: Worker, info: NodeInfo, limit: float, status: int, serial: int) -> Failure:
    """Return the failure that a worker is which did not end ``limit`` seconds after another's success."""
    words = f"still running {limit:g} s after the first worker succeeded (--success-timeout)"
    return Failure(kind="overdue", words=words, status=status, pid=worker.pid, **_place(worker, info, serial))


def _place(worker: Worker, info: NodeInfo, serial: int) -> dict[str, Any]:
    """Return what every failure of a worker says: which one, where, in which order."""
    return {
        "round": worker.id.round,
        "node": info.id,
        "host": info.host,
        "rank": worker.assignment.rank,
        "local_rank": worker.assignment.local_rank,
        "order": serial,
        "life": worker.id.life,
    }


def speaks_of_peer(how: Exit) -> bool:
    """Whether the evidence of this end speaks of a peer that had gone before (rule 3)."""
    if how.error is not None:
        text = f"{how.error.type}: {how.error.message}"
    elif how.signal in (None, signal.SIGABRT):
        # Native code (NCCL's watchdog, a C++ terminate) leaves no error file, only its last words.
        text = "\n".join(how.last_lines[-8:])
    else:
        return False
    text = text.lower()
    return any(phrase in text for phrase in _PEER_LOSS)


def sorted_by_cause(failures: Iterable[Failure]) -> tuple[Failure, ...]:
    """Return the failures, the cause first (rule 4), the others in the store's order; consequences last."""
    return tuple(sorted(failures, key=lambda f: (f.consequence, f.order)))


def costs_restart(failures: Iterable[Failure], node_lost: bool) -> bool:
    """Whether these failures are paid from the budget: not if they only follow from a lost node."""
    return any(not (f.consequence and node_lost) for f in failures)


def rule_for(failure: Failure, rules: Iterable[ExitRule]) -> ExitRule | None:
    """Return the first rule that fits: by exit status, by signal, or by the exception's type (or its last name)."""
    names = {str(failure.status)} if failure.signal is None else {signal_name(failure.signal)}
    if failure.error is not None:
        names |= {failure.error.type, failure.error.type.rpartition(".")[2]}
    return next((rule for rule in rules if rule.what in names), None)


def _raised_by_stop(how: Exit) -> bool:
    return how.error is not None and how.error.type.rpartition(".")[2] in _STOP_TYPES
