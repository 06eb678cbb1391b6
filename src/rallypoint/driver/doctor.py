"""The checks of pre-flight by hand: this machine, and the way to the store."""

from __future__ import annotations

import os

from rallypoint.c10d.server import WorkerStore
from rallypoint.driver.loop import Loop
from rallypoint.driver.preflight import Preflight, clock
from rallypoint.driver.stores import open_store
from rallypoint.proc.checks import FAILED, OK, WARNING, Check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.model.spec import Spec

PATIENCE = 5.0
"""Seconds that the store may take to answer."""


class _Notes:
    """A ``StoreWatcher`` that keeps the last word."""

    def __init__(self) -> None:
        self.address: str | None = None
        self.refused = ""
        self.reason = ""
        self.attempts = 0

    def store_up(self, address: str, fresh: bool) -> None:
        self.address = address

    def store_tried(self, where: str, reason: str, attempt: int) -> None:
        self.reason, self.attempts = reason, attempt

    def store_lost(self, reason: str, silent: float) -> None:
        self.reason = reason

    def store_refused(self, field: str, mine: str, theirs: str) -> None:
        self.refused = f"{field} is {mine!r} here, {theirs!r} there"


def examine(spec: Spec) -> list[Check]:
    """Make all checks that ``spec`` concerns; nothing is left running."""
    with Loop() as loop:
        preflight = Preflight(spec, loop, _unheard)
        try:
            checks = preflight.look(lambda: False)
        finally:
            preflight.close()
        if spec.backend == "memory":
            return [*checks, Check("store", OK, "none is needed: one node alone")]
        return [*checks, *_store(spec, loop)]


def _store(spec: Spec, loop: Loop) -> list[Check]:
    """See whether the store answers, as a node that would not host it."""
    guest = spec.replace(is_host=False, backend="tcp" if spec.backend == "static" else spec.backend)
    notes = _Notes()
    workers = WorkerStore(loop, _unheard)
    store = open_store(guest, f"doctor:{os.getpid()}", loop, notes, workers=workers, warn=_unheard)
    try:
        loop.run_until(lambda: notes.address is not None or notes.refused or notes.attempts > 1, PATIENCE)
        return _judged(spec, notes, clock(store))
    finally:
        store.close()
        workers.close()


def _judged(spec: Spec, notes: _Notes, clocks: Check) -> list[Check]:
    where = spec.endpoint
    if notes.address is not None:
        at = f", which sees this node at {notes.address}" if notes.address else ""
        return [Check("store", OK, f"{where} answers{at}"), clocks]
    if notes.refused:
        mend = "give this node the options of the run that is there, or the run another port"
        return [Check("store", FAILED, f"{where} is reached and refuses: {notes.refused}", mend)]
    reason = notes.reason or f"no answer within {PATIENCE:g} s"
    if spec.backend in ("tcp", "static") and "refused" in reason:
        mend = "as it should be before the first launcher starts there; else see that it runs, at this address and port"
        return [Check("store", WARNING, f"nobody serves it at {where} now ({reason})", mend)]
    mend = "see to the address, the port, and firewalls in between"
    return [Check("store", FAILED, f"{where} cannot be reached: {reason}", mend)]


def _unheard(_text: str) -> None:
    """What would be a warning stands among the checks."""
