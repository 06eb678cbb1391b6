"""The ways a run ends on a node, as outcomes. Pure functions."""

from __future__ import annotations

from rallypoint.model import exits
from rallypoint.model.result import Failure, Outcome, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rallypoint.model.event import Refused
    from rallypoint.model.node import View


def outcome_of_view(view: View) -> Outcome:
    """A closed view: everybody ends the same way, with the culprit's exit status."""
    if not view.failures:
        return _outcome("succeeded", exits.SUCCESS, view.reason, view)
    return _outcome("failed", view.failures[0].status or exits.LAUNCHER_ERROR, view.reason, view)


def stopped(number: int, view: View) -> Outcome:
    """The launcher was told to end by signal ``number``."""
    outcome = _outcome("stopped", exits.SIGNAL_BASE + number, f"stopped by {signal_name(number)}", view)
    return outcome.replace(signal=number, failures=())


def refused(event: Refused) -> Outcome:
    """The run would not have this node."""
    reason = f"refused: {event.field} is {event.mine!r} here, {event.theirs!r} in the run"
    if not event.theirs:
        reason = f"kept out: {event.field}: {event.mine}"
    return Outcome(status="refused", exit_code=exits.REFUSED, reason=reason)


def put_aside(view: View, failures: Sequence[Failure]) -> Outcome:
    """The run goes on without this node; ``failures`` are those of its own workers."""
    code = next((f.status for f in failures if f.status), exits.REFUSED)
    return _outcome("failed", code, view.reason, view).replace(failures=tuple(failures))


def timed_out(limit: float, view: View) -> Outcome:
    """Not enough nodes came in time."""
    reason = f"not enough nodes within {limit:g} s (join_timeout)"
    return _outcome("timeout", exits.RENDEZVOUS_TIMEOUT, reason, view).replace(failures=())


def store_gone(view: View) -> Outcome:
    """Our workers had all succeeded, and the store died before the others' end was known."""
    return _outcome("succeeded", exits.SUCCESS, "all workers here succeeded; the store was lost after that", view)


def _outcome(status: str, code: int, reason: str, view: View) -> Outcome:
    return Outcome(
        status=status,
        exit_code=code,
        reason=reason,
        failures=view.failures,
        rounds=view.round,
        restarts=view.restarts,
    )
