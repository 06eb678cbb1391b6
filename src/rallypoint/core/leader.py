"""The leader's work: from what the nodes say, the next view of the run.

Laws:
1. A round is formed only of nodes that wait: whose workers of every earlier round are gone.
2. RUNNING r is followed by DRAINING r or CLOSED; a further round only after every node of the roster
   has either acknowledged (its workers of round r are gone) or lost its lease.
3. A restart costs exactly one of the budget, however many workers failed; a change of members nothing.
4. Only the view is written, only by swap: whoever was deposed writes nothing.

``Board.next_view`` is asked after every fact and answers None while nothing is to be changed.
"""

from __future__ import annotations

from rallypoint.core import policy, ranks
from rallypoint.model.node import CLOSED, DONE, DRAINING, FINISHING, FORMING, LEAVING, RUNNING, WAITING, NodeInfo, View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.model.event import FailureSeen, PeerLost, PeerSeen
    from rallypoint.model.result import Failure
    from rallypoint.model.spec import Spec

SAY_AFTER = 4.0
"""Seconds of waiting after which the nodes are told who is here (they say so after 5)."""
REUNION = 1.5
"""Seconds that a store which began anew waits for the nodes of the last round: each tries once a second."""
SAY_EVERY = 2.0
"""Seconds at least between two such views: joining must not cost the square of the nodes."""


class Board:
    """What the leader knows of the others: their own words, who was lost, what failed."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._peers: dict[str, NodeInfo] = {}
        self._joined: dict[str, int] = {}
        self._lost: dict[str, str] = {}
        self._done: set[str] = set()
        self._failures: list[Failure] = []
        self._round = 0
        self._enough_since: float | None = None
        self._waiting_since: float | None = None
        self._said_at = float("-inf")
        self._reunion_at: float | None = None
        self.complete = False
        self.renewed = False
        """The store began anew and has no view yet: whatever the nodes say there is younger than any round."""

    def forget(self) -> None:
        """We lead no longer, or anew: what we knew of the nodes may be out of date; the round is the view's."""
        round_ = self._round
        self.__init__(self._spec)  # type: ignore[misc]
        self._round = round_

    def peer_seen(self, event: PeerSeen) -> None:
        """A node spoke. One that joined anew under its old name has lost its workers in between."""
        node = event.info.id
        if self._joined.get(node, event.joined) != event.joined:
            self._lost.setdefault(node, "it joined anew")
        self._joined[node] = event.joined
        self._peers[node] = event.info
        if event.info.state == DONE and event.info.round == self._round:
            self._done.add(node)

    def peer_lost(self, event: PeerLost) -> None:
        if self._peers.pop(event.node, None):
            self._lost[event.node] = event.reason or ("it left" if event.left else "lost")

    def failure_seen(self, event: FailureSeen) -> None:
        """Note a failure, in the store's order."""
        self._failures.append(event.failure.replace(order=len(self._failures)))

    def view_seen(self, view: View) -> None:
        """A view was written: with a new round, what happened in the one before is settled."""
        if view.phase == RUNNING and view.round != self._round:
            self._round = view.round
            self._lost.clear()
            self._done = {n for n, i in self._peers.items() if i.state == DONE and i.round == view.round}
            self._failures = [f for f in self._failures if f.round >= view.round]
            self._enough_since = self._waiting_since = None
            self._said_at = float("-inf")

    def next_view(self, view: View, now: float) -> View | None:
        """Return the view that should follow ``view``, or None if it still holds.

        Before the first view, ``view`` is FORMING of round 0 (or of the last round that is remembered).
        """
        if not self.complete:
            return None
        if view.phase == FORMING:
            return self._form(view, now)
        if view.phase == RUNNING:
            return self._watch(view)
        return self._drain(view, now) if view.phase == DRAINING else None

    def wake_at(self, view: View) -> float | None:
        """When ``next_view`` may change its answer by time alone."""
        if not self.complete or view.phase != FORMING:
            return None
        times = []
        if self._enough_since is not None:
            times.append(self._enough_since + self._spec.timing.last_call_timeout)
            if self._reunion_at is not None:
                times.append(self._reunion_at)
        if self._waiting_since is not None and view.here != self._here():
            times.append(max(self._waiting_since + self._say_after, self._said_at + SAY_EVERY))
        return min(times) if times else None

    @property
    def _say_after(self) -> float:
        """Early enough that every node knows who is here when its time to join is over."""
        return min(SAY_AFTER, self._spec.timing.join_timeout / 2)

    def _form(self, view: View, now: float) -> View | None:
        """Form the next round if enough nodes wait; while they do not, now and then say who is here."""
        if self._waiting_since is None:
            self._waiting_since = now
        # Asked at each of many joins: sort them out only when there can be enough.
        ready = self._ready(view) if len(self._peers) >= self._spec.min_nodes else []
        if len(ready) < self._spec.min_nodes:
            self._enough_since = None
        elif self._enough_since is None:
            self._enough_since = now
        if self._enough_since is not None and self._is_time(view, ready, now):
            return self._formed(view, ready)
        due = max(self._waiting_since + self._say_after, self._said_at + SAY_EVERY)
        if now >= due and view.here != self._here():
            self._said_at = now
            return view.replace(here=self._here())
        return None

    def _is_time(self, view: View, ready: list[NodeInfo], now: float) -> bool:
        """All are there; or, after the first round, all who are left; or the last call has passed."""
        if len(ready) >= self._spec.max_nodes:
            return True
        since = now if self._enough_since is None else self._enough_since
        self._reunion_at = None
        waiting = {info.id for info in ready}
        expected = [n for n in view.roster.nodes if n in self._peers and self._peers[n].state != LEAVING]
        if view.round > 0 and expected and waiting.issuperset(expected):
            if not self.renewed or now >= since + REUNION or waiting.issuperset(view.roster.nodes):
                return True
            # Others of the last round may be on their way to a store that began anew.
            self._reunion_at = since + REUNION
        return now >= since + self._spec.timing.last_call_timeout

    def _formed(self, view: View, ready: list[NodeInfo]) -> View:
        previous = view.roster if len(view.roster) else ranks.remembered(ready, self._spec.max_nodes)
        order = ranks.arrange(ready, previous, self._spec.max_nodes)
        return View(
            round=max(view.round, *(info.round for info in order)) + 1,
            phase=RUNNING,
            roster=ranks.roster_of(order),
            master_addr=order[0].address,
            master_port=order[0].port,
            restarts=max(view.restarts, *(info.restarts for info in order)),
            reason=view.reason,
        )

    def _watch(self, view: View) -> View | None:
        """While a round runs: a failure, a loss, a leave or a newcomer ends it; so does success."""
        failures = self._of_round(view)
        if failures:
            cause = policy.sorted_by_cause(failures)
            return view.replace(phase=DRAINING, failures=cause, reason=f"{cause[0].place}: {cause[0].headline}")
        states = {n: self._peers[n].state if n in self._peers else None for n in view.roster.nodes}
        for node, state in states.items():
            if (state is None or node in self._lost) and node not in self._done:
                return view.replace(phase=DRAINING, reason=f"node {node}: {self._lost.get(node, 'lost')}")
        if len(self._done) == len(view.roster):
            return view.replace(phase=CLOSED, reason="all workers succeeded")
        return self._change(view, states)

    def _change(self, view: View, states: dict[str, str | None]) -> View | None:
        for node, state in states.items():
            if state == LEAVING:
                return view.replace(phase=DRAINING, reason=f"node {node} leaves")
            # It waits after this round's start: it has stopped its workers on its own.
            if state == WAITING and self._peers[node].round >= view.round:
                return view.replace(phase=DRAINING, reason=f"node {node} stopped its workers")
        ending = bool(self._done) or FINISHING in states.values()
        if ending and not view.finishing and self._spec.timing.success_timeout is not None:
            return view.replace(finishing=True)
        if ending or len(view.roster) >= self._spec.max_nodes:
            return None
        newcomers = [n for n, info in self._peers.items() if info.state == WAITING and n not in states]
        return view.replace(phase=DRAINING, reason=f"node {newcomers[0]} joins") if newcomers else None

    def _drain(self, view: View, now: float) -> View | None:
        """Wait until the workers of the round are gone everywhere; then end, or form the next round."""
        for node in view.roster.nodes:
            info = self._peers.get(node)
            if info is not None and node not in self._lost and not self._settled(info, view):
                return None
        failures = self._of_round(view)
        lost = any(n in self._lost or n not in self._peers for n in view.roster.nodes)
        restarts = view.restarts
        if policy.costs_restart(failures, lost):
            cause = policy.sorted_by_cause(failures)
            if policy.is_final(failures, restarts, self._spec.max_restarts):
                return view.replace(phase=CLOSED, failures=cause, reason=f"{cause[0].place}: {cause[0].headline}")
            restarts += 1
        self._waiting_since = now
        forming = view.replace(phase=FORMING, restarts=restarts, failures=(), here=(), finishing=False)
        # Usually everybody is back already, and the next round costs a single write.
        return self._form(forming, now) or forming

    @staticmethod
    def _settled(info: NodeInfo, view: View) -> bool:
        return info.round >= view.round and info.state == WAITING

    def _ready(self, view: View) -> list[NodeInfo]:
        """Return the nodes that can be in the next round, in the order of joining.

        None, while workers of an earlier round still run on a node whose lease lived (see law 1).
        """
        if any(info.state != WAITING and node not in self._lost for node, info in self._peers.items()):
            return []
        members = set() if self.renewed else set(view.roster.nodes)
        ready = [
            info
            for info in self._peers.values()
            if info.state == WAITING and (info.id not in members or info.id in self._lost or info.round >= view.round)
        ]
        return sorted(ready, key=lambda info: self._joined[info.id])

    def _here(self) -> tuple[str, ...]:
        return tuple(sorted(self._peers, key=self._joined.__getitem__))

    def _of_round(self, view: View) -> tuple[Failure, ...]:
        return tuple(f for f in self._failures if f.round == view.round)

    def __repr__(self) -> str:
        return f"<Board of {len(self._peers)} nodes, {len(self._lost)} lost, {len(self._failures)} failures>"
