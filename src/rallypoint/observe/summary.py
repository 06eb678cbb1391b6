"""The run as one node saw it: rounds, restarts and their causes, changes of membership; told at the end."""

from __future__ import annotations

from rallypoint.model.node import View
from rallypoint.model.result import Failure, Outcome
from rallypoint.model.value import Value
from rallypoint.observe.message import ALWAYS, MORE, Message
from rallypoint.observe.wording import count, headline, listed, one_line, short_place, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SPELLED_OUT = 5
"""As many restarts and changes are told one by one."""


class Restart(Value):
    """Restart ``number`` was announced at ``at``; ``cause`` None: this node never learned it."""

    number: int
    at: float
    cause: Failure | None = None


class Change(Value):
    """With round ``round`` the nodes were not those of the round before."""

    round: int
    at: float
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        parts = [f"{word}: {listed(nodes)}" for word, nodes in (("joined", self.joined), ("left", self.left)) if nodes]
        return "; ".join(parts)


class Story:
    """Collects what happened. Each method says whether that was news, so nothing is told twice."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.rounds = 0
        self.roster: tuple[str, ...] = ()
        self.world_size = 0
        self.restarts: list[Restart] = []
        self.changes: list[Change] = []
        self._failed_at: dict[tuple[int, str, str, int], float] = {}
        self._restarts_known = 0
        self._restarts_formed = 0
        self.again = False
        """The last round has the nodes of the one before, and no restart led to it: their store began anew, say."""

    def begin(self, at: float) -> None:
        if self.began is None:
            self.began = at

    def failed(self, failure: Failure, at: float) -> bool:
        """Take note of a failure; False if it was known. It may come from here, from the leader and in a view."""
        key = (failure.round, failure.node, failure.kind, failure.local_rank)
        if key in self._failed_at:
            return False
        self._failed_at[key] = at
        return True

    def failed_at(self, failure: Failure) -> float | None:
        """When this node first heard of ``failure`` (monotonic seconds)."""
        return self._failed_at.get((failure.round, failure.node, failure.kind, failure.local_rank))

    def restarted(self, view: View, cause: Failure | None, at: float) -> Restart | None:
        """Take note of the restarts that ``view`` counts; return the newest if it is news.

        What was paid before this node first saw a view is not its story.
        """
        if view.restarts <= self._restarts_known:
            return None
        newcomer = self.rounds == 0 and not self._failed_at
        self._restarts_known = view.restarts
        if newcomer:
            return None
        if cause is not None and cause.round < view.round - 1:
            cause = None  # an older restart's
        self.restarts.append(Restart(view.restarts, at, cause))
        return self.restarts[-1]

    def formed(self, view: View, at: float) -> Change | None:
        """Take note of a running round; return how its nodes differ from the round before, None if they do not."""
        before, self.roster = self.roster, view.roster.nodes
        self.world_size = view.roster.world_size
        self.rounds += 1
        self.again = self.rounds > 1 and view.restarts == self._restarts_formed
        self._restarts_formed = view.restarts
        if self.rounds == 1 or set(before) == set(self.roster):
            return None
        joined = tuple(n for n in self.roster if n not in before)
        left = tuple(n for n in before if n not in self.roster)
        self.changes.append(Change(view.round, at, joined, left))
        return self.changes[-1]

    @property
    def eventful(self) -> bool:
        """Whether there is anything to tell of a run that succeeded."""
        return bool(self.restarts or self.changes or self.rounds > 1 or len(self.roster) > 1)

    def elapsed(self, at: float) -> float:
        return at - self.began if self.began is not None else 0.0

    def facts(self, at: float) -> dict[str, Any]:
        """Return the same as ``words``, for machines."""
        return {
            "seconds": round(self.elapsed(at), 3),
            "rounds": self.rounds,
            "nodes": list(self.roster),
            "world_size": self.world_size,
            "restarts": [self._restart_facts(r) for r in self.restarts],
            "changes": [
                {
                    "round": c.round,
                    "seconds": round(self.elapsed(c.at), 3),
                    "joined": list(c.joined),
                    "left": list(c.left),
                }
                for c in self.changes
            ],
        }

    def words(self, outcome: Outcome, at: float) -> str:
        """Say on one line how the run ended and what happened on the way."""
        verb = {"succeeded": "finished", "stopped": "stopped"}.get(outcome.status, "failed")
        events = []
        if self.restarts:
            told = [self._restart_words(r) for r in self.restarts]
            events.append(f"{count(len(told), 'restart')} ({listed(told, SPELLED_OUT)})")
        if self.changes:
            told = [f"{c.words} at {span(self.elapsed(c.at))}" for c in self.changes]
            events.append(f"{count(len(told), 'membership change')} ({listed(told, SPELLED_OUT)})")
        size = [count(self.rounds, "round")] if events else []
        if len(self.roster) > 1:
            size.append(count(len(self.roster), "node"))
        if self.rounds:
            size.append(count(self.world_size, "worker"))
        size.append(span(self.elapsed(at)))
        if events:
            return f"{verb} after {' and '.join(events)}; {', '.join(size)}"
        return f"{verb}: {', '.join(size)}"

    def _restart_words(self, restart: Restart) -> str:
        if restart.cause is None:
            return f"at {span(self.elapsed(restart.at))}"
        return f"{short_place(restart.cause)}: {headline(restart.cause)} at {span(self._when(restart))}"

    def _restart_facts(self, restart: Restart) -> dict[str, Any]:
        return {
            "number": restart.number,
            "seconds": round(self._when(restart), 3),
            "place": short_place(restart.cause) if restart.cause else "",
            "headline": headline(restart.cause) if restart.cause else "",
        }

    def _when(self, restart: Restart) -> float:
        """Seconds from the start to the failure that was paid for, or to the restart if that is unknown."""
        first = self.failed_at(restart.cause) if restart.cause else None
        return self.elapsed(restart.at if first is None else first)

    def __repr__(self) -> str:
        return f"<Story {self.rounds} rounds, {len(self.restarts)} restarts, {len(self.changes)} changes>"


def size(view: View) -> str:
    """Return "2 nodes, 8 workers"."""
    return f"{count(len(view.roster), 'node')}, {count(view.roster.world_size, 'worker')}"


def formed(view: View, change: Change | None, seconds: float | None, news: bool) -> Message:
    """Say that a round runs; ``seconds``: how long it was waited for, None if nobody noticed."""
    place = f"{view.master_addr}:{view.master_port}" if view.master_port else ""
    who = f" ({one_line(change.words, 400)})" if change else ""
    took = f", formed in {span(seconds)}" if seconds is not None else ""
    fields = {
        "round": view.round,
        "nodes": list(view.roster.nodes),
        "world_size": view.roster.world_size,
        "restarts": view.restarts,
        "joined": list(change.joined) if change else [],
        "left": list(change.left) if change else [],
        "worker_store": place,
    }
    return Message(
        "formed", f"round {view.round}: {size(view)}{who}{took}", "info", ALWAYS if news else MORE, ALWAYS, fields
    )
