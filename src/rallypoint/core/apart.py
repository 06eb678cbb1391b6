"""``--restart-scope node`` and ``worker``: who failed starts again within the round, and the others run on.

A *unit* starts again together: a node, or one worker. The view says how often each did (``View.lives``), and with that
which failures are paid: those of an earlier life. So a leader that comes new to it pays nothing twice, and a node
starts again exactly when it is told to. What is judged final, and what puts a node aside, ends the round for all, as
with the scope ``job``; so does a change of members.
"""

from __future__ import annotations

from rallypoint.core import budget, policy
from rallypoint.model.node import DRAINING, unit
from rallypoint.model.result import ALL
from rallypoint.model.spec import NODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from rallypoint.model.node import View
    from rallypoint.model.result import Failure
    from rallypoint.model.spec import Spec


class Apart:
    """The part of the leader's work that concerns units. ``due``: when a delayed start is to be told."""

    def __init__(self, spec: Spec) -> None:
        self.due: float | None = None
        self._spec = spec
        self._seen: dict[tuple[str, int], float] = {}

    def unpaid(self, view: View, failures: Iterable[Failure]) -> tuple[Failure, ...]:
        """Return those failures of present lives. (Later ones are from a round of the same number in another store.)"""
        lives = dict(view.lives)
        return tuple(f for f in failures if f.life == lives.get(self._unit(f), 0))

    def next_view(
        self, view: View, failures: tuple[Failure, ...], now: float, lasted: float, ages: list[float]
    ) -> View | None:
        """Return the view that follows these (unpaid) failures; None: a unit's start is delayed until ``due``.

        ``lasted``: seconds for which the round has run; ``ages``: how many seconds ago each restart of the run was.
        """
        self.due = None
        for name in dict.fromkeys(self._unit(f) for f in failures):
            own = policy.sorted_by_cause(f for f in failures if self._unit(f) == name)
            judged = budget.judge(self._spec, view, own, False, min([lasted, *ages]), ages)
            reason = own[0].summary
            if judged.final or judged.aside != view.aside:
                return view.replace(phase=DRAINING, failures=self.first(own[0], failures), reason=reason)
            life = own[0].life
            due = self._seen.setdefault((name, life), now) + judged.history.delay
            if now >= due:
                lives = dict(view.lives) | {name: life + 1}
                return view.replace(
                    restarts=view.restarts + judged.cost,
                    history=judged.history,
                    lives=tuple(lives.items()),
                    failures=own,
                    reason=reason,
                )
            self.due = due if self.due is None else min(self.due, due)
        return None

    def first(self, cause: Failure, failures: tuple[Failure, ...]) -> tuple[Failure, ...]:
        """Return the failures, those of the unit of ``cause`` first."""
        name = self._unit(cause)
        return tuple(sorted(policy.sorted_by_cause(failures), key=lambda f: self._unit(f) != name))

    def _unit(self, failure: Failure) -> str:
        return unit(failure.node, ALL if self._spec.restart.scope == NODE else failure.local_rank)

    def __repr__(self) -> str:
        return f"<Apart by {self._spec.restart.scope}, {len(self._seen)} failures seen>"
