"""How a run ended, in torch's words."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from rallypoint.elastic.multiprocessing import SignalException
from rallypoint.elastic.multiprocessing.errors import ProcessFailure
from rallypoint.elastic.rendezvous import RendezvousConnectionError, RendezvousError, RendezvousTimeoutError

if TYPE_CHECKING:
    from rallypoint.model.result import Failure, Outcome


def failures_of(outcome: Outcome) -> dict[int, ProcessFailure]:
    """Return the failures by global rank, the cause first; those of other nodes too."""
    found: dict[int, ProcessFailure] = {}
    for failure in outcome.failures:
        found.setdefault(failure.rank, process_failure(failure))
    return found


def process_failure(failure: Failure) -> ProcessFailure:
    """Return torch's form of ``failure``. Another node's error file is not here; what it said is."""
    code = -failure.signal if failure.signal else failure.status
    told = ProcessFailure(failure.local_rank, failure.pid, code, failure.error_file)
    error = failure.error
    if error is None:
        if not failure.signal:
            told.message = failure.words
    elif not os.path.isfile(failure.error_file):
        extra = {"py_callstack": error.traceback or error.headline, "timestamp": str(int(error.timestamp))}
        message = {"message": error.headline, "extraInfo": extra}
        told.error_file_data = {"message": message}
        told.message = message  # type: ignore[assignment]
        told.timestamp = int(error.timestamp) or told.timestamp
    return told


def error_of(outcome: Outcome) -> Exception:
    """Return the exception for an end that is neither success nor a worker's failure."""
    if outcome.status == "stopped":
        number = signal.Signals(outcome.signal or signal.SIGTERM)
        return SignalException(f"process {os.getpid()} got {number.name}", sigval=number)
    if outcome.status == "timeout":
        return RendezvousTimeoutError(outcome.reason)
    if outcome.status == "refused":
        return RendezvousConnectionError(outcome.reason)
    return RendezvousError(outcome.reason)
