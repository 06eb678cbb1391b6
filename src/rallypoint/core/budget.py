"""What follows from a failed round: another try, when, with whom, or the end. Pure functions.

The rules, in order:

1. What only follows from a lost node costs nothing, and nothing is judged.
2. A worker that cannot be started ends the run: trying again cannot help.
3. ``--on-exit``: the first rule that fits the cause. fail ends the run. replace-node puts the node aside, and costs
   nothing: another node takes its place. (ignore has made a success of it before it came here.)
4. ``--max-node-failures``: a node that was the cause so often is put aside.
5. The budget: ``--max-restarts`` restarts, or as many within ``--restart-window``, is all that there is.
6. The same failure, at the same point of the work, three times in a row: the run makes no progress and ends. That
   needs workers that tell how far they are (``rallypoint.worker.safe_point``); of others nothing is known.
7. ``--restart-delay``: the first restart waits FIRST seconds; each that follows a round which failed soon, twice as
   long as the one before, up to MAX. Soon is within 10 s, or twice the last delay if that is longer.
"""

from __future__ import annotations

from rallypoint.core import policy
from rallypoint.model.node import History
from rallypoint.model.spec import FAIL, REPLACE_NODE
from rallypoint.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.model.node import View
    from rallypoint.model.result import Failure
    from rallypoint.model.spec import RestartPolicy, Spec

SOON = 10.0
"""Seconds: a round that lasted less long failed at once."""
RETURNS = 2
"""How often the same failure at the same point may come back: the next time ends the run."""


class Judgement(Value):
    """``final``: the run ends. ``why``: by which rule, or why a node is put ``aside`` ("": the plain budget).

    ``cost``: restarts paid. ``aside``: who may not go on.
    """

    final: bool = False
    why: str = ""
    cost: int = 0
    aside: tuple[str, ...] = ()
    history: History = History()


def judge(
    spec: Spec, view: View, failures: tuple[Failure, ...], node_lost: bool, lasted: float, ages: list[float]
) -> Judgement:
    """Judge the round of ``view``; ``failures`` have the cause first.

    ``lasted``: seconds for which it ran; ``ages``: how many seconds ago each restart of the run was.
    """
    if not policy.costs_restart(failures, node_lost):
        return Judgement(aside=view.aside, history=view.history.replace(delay=0.0))
    cause = failures[0]
    rule = policy.rule_for(cause, spec.restart.rules)
    said = f"--on-exit {rule.what}={rule.action}" if rule else ""
    history = _noted(spec, view.history, cause)
    if cause.kind == "spawn" or (rule is not None and rule.action == FAIL):
        return Judgement(final=True, why=said)
    if rule is not None and rule.action == REPLACE_NODE:
        return Judgement(why=said, aside=_with(view.aside, cause.node), history=history.replace(delay=0.0))
    judged = _spent(spec, view, history, ages)
    return judged or _again(spec, view, cause, _delayed(spec.restart, history, lasted))


def _again(spec: Spec, view: View, cause: Failure, history: History) -> Judgement:
    limit, blamed = spec.membership.max_node_failures, history.blame.count(cause.node)
    if limit is None or blamed < limit:
        return Judgement(cost=1, aside=view.aside, history=history)
    why = f"the cause of {blamed} failures (--max-node-failures {limit})"
    return Judgement(cost=1, why=why, aside=_with(view.aside, cause.node), history=history)


def _spent(spec: Spec, view: View, history: History, ages: list[float]) -> Judgement | None:
    """Return the end, if there is no other try."""
    window = spec.restart.window
    if window is None and view.restarts >= spec.max_restarts:
        return Judgement(final=True)
    recent = sum(age < window for age in ages) if window is not None else 0
    if window is not None and recent >= spec.max_restarts:
        return Judgement(final=True, why=f"{recent} restarts within {window:g} s (--restart-window)")
    if history.repeats >= RETURNS:
        times = history.repeats + 1
        return Judgement(final=True, why=f"the same failure {times} times at the same point, without progress")
    return None


def _noted(spec: Spec, history: History, cause: Failure) -> History:
    """Remember whose failure it was, and whether it is the last one come back at the same point of the work."""
    error = cause.error.headline if cause.error else ""
    last = f"{cause.rank} {cause.words} {error} at {cause.progress}"[:200]
    again = cause.progress >= 0 and last == history.last
    blame = history.blame if spec.membership.max_node_failures is None else (*history.blame, cause.node)
    return history.replace(last=last, repeats=history.repeats + 1 if again else 0, blame=blame)


def _delayed(restart: RestartPolicy, history: History, lasted: float) -> History:
    soon = lasted < max(SOON, 2 * history.delay)
    streak = history.streak + 1 if soon else 1
    delay = min(restart.max_delay, restart.delay * 2.0 ** min(streak - 1, 40))
    return history.replace(streak=streak, delay=delay)


def _with(aside: tuple[str, ...], node: str) -> tuple[str, ...]:
    return aside if node in aside else (*aside, node)
