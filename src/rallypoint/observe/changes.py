"""What people are told of a view beside its phase: a planned stop, a delay, a node put aside."""

from __future__ import annotations

from rallypoint.model import node as nodes
from rallypoint.observe.message import Message
from rallypoint.observe.wording import one_line, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.model.node import View
    from rallypoint.model.spec import Spec


class Changes:
    """Compares each view with the one before."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._pending = (0, "")
        self._aside: frozenset[str] = frozenset()
        self._delayed = 0

    def told(self, view: View) -> list[Message]:
        """Return what is news in ``view``."""
        news = []
        if view.phase == nodes.RUNNING and view.pending and self._pending != (view.round, view.pending):
            self._pending = (view.round, view.pending)
            text = f"round {view.round} is to end: {one_line(view.pending)}; {self._how()}"
            news.append(Message("change_pending", text, fields={"round": view.round, "reason": view.pending}))
        for node in view.aside:
            if node not in self._aside:
                text = f"node {one_line(node)} is put aside: {one_line(view.reason)}"
                news.append(Message("put_aside", text, "warning", fields={"peer": node, "reason": view.reason}))
        self._aside = frozenset(view.aside)
        if view.phase == nodes.FORMING and view.history.delay and self._delayed != view.round:
            self._delayed = view.round
            text = f"the next start is in {span(view.history.delay)} (--restart-delay)"
            news.append(Message("delayed", text, fields={"round": view.round, "seconds": view.history.delay}))
        return news

    def _how(self) -> str:
        members = self._spec.membership
        if members.admit == "when-ready":
            return "the workers are waited for until they have passed a safe point"
        return f"the workers have {span(members.notice_grace)} to prepare"

    def __repr__(self) -> str:
        return f"<Changes after {self._pending}>"
