"""The last word on a failed run: for people (``failure_report``) and for machines (``report_json``).

Both are made from the same facts: the text is a rendering of the JSON form and of nothing else.
The cause comes first, in one line; then the other failures, a line each; then the cause once
more with its traceback, so that the last lines of any terminal or log show what to mend.
"""

from __future__ import annotations

from rallypoint.model.result import Failure, Outcome, signal_name
from rallypoint.model.spec import Spec
from rallypoint.observe.wording import NAMED, PREFIX, headline, moment, one_line, safe, short_place, span, told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEAD, TAIL = 20, 30
"""Lines kept of a longer traceback: where the program was, and what it died of."""
_SIGKILL = 9
_KILLED = "nothing on this node says who sent SIGKILL (a person, another program, or the kernel for want of memory)"


def report_json(outcome: Outcome, spec: Spec, started: float, ended: float) -> dict[str, Any]:
    """Return all facts about the end of a run. ``started`` and ``ended`` are seconds since the epoch.

    ``cause`` is the first failure (None: there is none), ``others`` the rest in their order. ``rule`` is what ended
    the run although there was budget left ("": nothing did).
    """
    failures = [_facts(f) for f in outcome.failures]
    return {
        "run_id": spec.run_id,
        "status": outcome.status,
        "exit_code": outcome.exit_code,
        "reason": outcome.reason,
        "rule": _rule(outcome),
        "signal": None if outcome.signal is None else signal_name(outcome.signal),
        "rounds": outcome.rounds,
        "restarts": outcome.restarts,
        "max_restarts": spec.max_restarts,
        "started": moment(started),
        "ended": moment(ended),
        "seconds": round(max(0.0, ended - started), 3),
        "cause": failures[0] if failures else None,
        "others": failures[1:],
    }


def failure_report(outcome: Outcome, spec: Spec, started: float, ended: float) -> str:
    """Return the report for people, its last line end included; "" if there is no failure to report.

    ``started`` and ``ended`` are seconds since the epoch.
    """
    if not outcome.failures and outcome.status != "failed":
        return ""
    facts = report_json(outcome, spec, started, ended)
    cause = facts["cause"]
    if cause is None:
        why = one_line(facts["reason"]) or "no reason is known"
        lines = [f"{PREFIX}the run failed: {why}", f"{PREFIX}exit code {facts['exit_code']}"]
    else:
        lines = [f"{PREFIX}the run {_verb(facts)}: {cause['summary']}"]
        lines += _others(facts["others"])
        lines += _circumstances(facts)
        lines += _evidence(cause)
        lines.append(f"{PREFIX}exit code {facts['exit_code']}, from {cause['short_place']}")
    return "\n".join(lines) + "\n"


def _rule(outcome: Outcome) -> str:
    """Return what the reason says beyond the cause: the rule that ended the run; "" if that was the plain budget."""
    if not outcome.failures:
        return ""
    cause = outcome.failures[0]
    rest = outcome.reason.removeprefix(cause.summary).strip()
    return rest[1:-1] if rest.startswith("(") and rest != outcome.reason else ""


def _facts(failure: Failure) -> dict[str, Any]:
    error = failure.error
    return {
        "summary": told(failure),
        "place": failure.place,
        "short_place": short_place(failure),
        "headline": headline(failure),
        "kind": failure.kind,
        "round": failure.round,
        "node": failure.node,
        "host": failure.host,
        "rank": failure.rank,
        "local_rank": failure.local_rank,
        "pid": failure.pid,
        "words": failure.words,
        "exit_code": failure.status,
        "signal": None if failure.signal is None else signal_name(failure.signal),
        "type": error.type if error else "",
        "message": error.message if error else "",
        "traceback": error.traceback if error else "",
        "last_lines": list(failure.last_lines),
        "error_file": failure.error_file,
        "note": _KILLED if failure.signal == _SIGKILL and failure.words == "SIGKILL" else "",
        "consequence": failure.consequence,
    }


def _verb(facts: dict[str, Any]) -> str:
    ends = {"stopped": "was stopped after a failure", "timeout": "gave up after a failure"}
    verb: str = ends.get(facts["status"], "failed")
    return verb


def _others(others: list[dict[str, Any]]) -> list[str]:
    """Other causes before consequences, so that what is cut off is the less telling part."""
    ordered = sorted(others, key=lambda other: bool(other["consequence"]))
    marks = {False: "", True: " [consequence]"}
    lines = [f"  {other['summary']}{marks[bool(other['consequence'])]}" for other in ordered[:NAMED]]
    if len(ordered) > NAMED:
        lines.append(f"  and {len(ordered) - NAMED} more")
    return [f"{PREFIX}failed as well:", *lines] if lines else []


def _circumstances(facts: dict[str, Any]) -> list[str]:
    cause = facts["cause"]
    lines = [
        f"{PREFIX}run {safe(facts['run_id'])}, round {cause['round']}, "
        f"{facts['restarts']} of {facts['max_restarts']} restarts used, {span(facts['seconds'])} after the start"
    ]
    if facts["rule"]:
        lines.append(f"{PREFIX}no further restart: {safe(facts['rule'])}")
    if cause["note"]:
        lines.append(f"{PREFIX}{cause['note']}")
    if cause["error_file"]:
        lines.append(f"{PREFIX}error file: {safe(cause['error_file'])}")
    return lines


def _evidence(cause: dict[str, Any]) -> list[str]:
    """Return the cause's traceback; without one, its whole message and the last lines of its output."""
    if cause["traceback"].strip():
        title = f"{PREFIX}traceback of {cause['place']}:"
        return [safe(title), *_cut(cause["traceback"].strip("\n").splitlines(), cause["error_file"])]
    lines: list[str] = []
    message = cause["message"].splitlines()
    if len(message) > 1:
        lines += [safe(f"{PREFIX}message of {cause['place']}:"), *_cut(message, cause["error_file"])]
    if cause["last_lines"]:
        lines.append(safe(f"{PREFIX}last lines of {cause['place']}:"))
        lines += [f"  {safe(line)}" for line in cause["last_lines"]]
    return lines


def _cut(lines: list[str], error_file: str) -> list[str]:
    """Keep the beginning and the end. Not indented: a traceback must be found and copied as it is."""
    lines = [safe(line) for line in lines]
    left_out = len(lines) - HEAD - TAIL
    # A note in place of a line or two would only cost what it saves.
    if left_out <= 2:
        return lines
    where = f" (all of it: {safe(error_file)})" if error_file else ""
    return [*lines[:HEAD], f"... {left_out} lines left out{where} ...", *lines[-TAIL:]]
