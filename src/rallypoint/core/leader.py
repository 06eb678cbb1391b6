"""The leader's work: from what the nodes say, the next view of the run.

Laws:
1. A round is formed only of nodes that wait: whose workers of every earlier round are gone.
2. RUNNING r is followed by DRAINING r or CLOSED; a further round only after every node of the roster
   has either acknowledged (its workers of round r are gone) or lost its lease.
3. A restart costs exactly one of the budget, however many workers failed; a change of members nothing.
   (Who may come, and how many run: ``admission``. What follows from a failure: ``budget``.)
4. Only the view is written, only by swap: whoever was deposed writes nothing.

``Board.next_view`` is asked after every fact and answers None while nothing is to be changed.
"""

from __future__ import annotations

from rallypoint.core import admission, budget, policy, ranks
from rallypoint.core.apart import Apart
from rallypoint.model.node import CLOSED, DONE, DRAINING, FINISHING, FORMING, LEAVING, RUNNING, WAITING, NodeInfo, View
from rallypoint.model.spec import AT_RESTART, JOB, WHEN_READY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.model.event import FailureSeen, PeerLost, PeerSeen
    from rallypoint.model.result import Failure
    from rallypoint.model.spec import Spec

SAY_AFTER = 4.0
"""Seconds of waiting after which the nodes are told who is here (they say so after 5)."""
REUNION = (0.5, 1.5)
"""Seconds, at least and at most, that a store which began anew waits for the nodes of the last round. They try again
after pauses that double, up to one second: who was without a store for long may be long in coming."""
SAY_EVERY = 2.0
"""Seconds at least between two such views: joining must not cost the square of the nodes."""


class Chronicle:
    """When things happened, by this node's own clock: every node keeps it, for any may lead next."""

    def __init__(self) -> None:
        self.round = 0
        self.began = 0.0
        self.restarts: list[float] = []
        self._known = 0
        self.pending_since: float | None = None
        self.not_before = 0.0
        self.reunion = REUNION[1]
        self._delayed = 0  # the round after which a delay was noted

    def apart(self, seconds: float) -> None:
        """Note for how long there was no store."""
        self.reunion = min(REUNION[1], max(REUNION[0], 1.5 * seconds))

    def ages(self, now: float) -> list[float]:
        """Return how many seconds ago each restart was."""
        return [now - at for at in self.restarts]

    def view_seen(self, view: View, now: float) -> None:
        """Note what ``view`` tells that is new."""
        if view.restarts > self._known:
            # Of those from before this node came it knows no more than that they were before.
            self.restarts += [now] if view.restarts == self._known + 1 else [float("-inf")]
            self._known = view.restarts
        if view.phase == RUNNING and view.round != self.round:
            self.round, self.began = view.round, now
        if view.phase != RUNNING or not view.pending:
            self.pending_since = None
        elif self.pending_since is None:
            self.pending_since = now
        if view.phase == FORMING and view.history.delay and self._delayed != view.round:
            self._delayed = view.round
            self.not_before = now + view.history.delay

    def __repr__(self) -> str:
        return f"<Chronicle of round {self.round}, {len(self.restarts)} restarts>"


class Board:
    """What the leader knows of the others: their own words, who was lost, what failed."""

    def __init__(self, spec: Spec, times: Chronicle | None = None) -> None:
        self._spec = spec
        self._peers: dict[str, NodeInfo] = {}
        self._joined: dict[str, int] = {}
        self._lost: dict[str, str] = {}
        self._done: set[str] = set()
        self._failures: list[Failure] = []
        self._times = Chronicle() if times is None else times
        self._newcomer_since: float | None = None
        self._enough_since: float | None = None
        self._waiting_since: float | None = None
        self._said_at = float("-inf")
        self._form_at: float | None = None
        self._drained = 0  # how many of the roster, from its beginning, are known to be settled
        self._apart = None if spec.restart.scope == JOB else Apart(spec)
        self.complete = False
        self.renewed = False
        """The store began anew and has no view yet: whatever the nodes say there is younger than any round."""

    def forget(self) -> None:
        """We lead no longer, or anew: what we knew of the nodes may be out of date; the round is the view's."""
        self.__init__(self._spec, self._times)  # type: ignore[misc]

    def apart(self, seconds: float) -> None:
        """This node was without a store for so long."""
        self._times.apart(seconds)

    def peer_seen(self, event: PeerSeen) -> None:
        """A node spoke. One that joined anew under its old name has lost its workers in between."""
        node = event.info.id
        if self._joined.get(node, event.joined) != event.joined:
            self._lost.setdefault(node, "it joined anew")
        self._joined[node] = event.joined
        self._peers[node] = event.info
        if event.info.state == DONE and event.info.round == self._times.round:
            self._done.add(node)

    def peer_lost(self, event: PeerLost) -> None:
        if self._peers.pop(event.node, None):
            self._lost[event.node] = event.reason or ("it left" if event.left else "lost")

    def failure_seen(self, event: FailureSeen) -> None:
        """Note a failure, in the store's order."""
        self._failures.append(event.failure.replace(order=len(self._failures)))

    def view_seen(self, view: View, now: float) -> None:
        """A view was written: with a new round, what happened in the one before is settled."""
        new = view.phase == RUNNING and view.round != self._times.round
        self._times.view_seen(view, now)
        if new:
            self._newcomer_since = None
            self._lost.clear()
            self._done = {n for n, i in self._peers.items() if i.state == DONE and i.round == view.round}
            self._failures = [f for f in self._failures if f.round >= view.round]
            self._enough_since = self._waiting_since = self._form_at = None
            self._said_at = float("-inf")
            self._drained = 0

    def next_view(self, view: View, now: float) -> View | None:
        """Return the view that should follow ``view``, or None if it still holds.

        Before the first view, ``view`` is FORMING of round 0 (or of the last round that is remembered).
        """
        if not self.complete:
            return None
        if view.phase == FORMING:
            return self._form(view, now)
        if view.phase == RUNNING:
            return self._watch(view, now)
        return self._drain(view, now) if view.phase == DRAINING else None

    def wake_at(self, view: View) -> float | None:
        """When ``next_view`` may change its answer by time alone."""
        if not self.complete:
            return None
        if view.phase == RUNNING:
            dues = (self._change_at(view), self._apart.due if self._apart is not None else None)
            return min((at for at in dues if at is not None), default=None)
        if view.phase != FORMING:
            return None
        times = [] if self._form_at is None else [self._form_at]
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
            self._enough_since = self._form_at = None
        else:
            self._enough_since = now if self._enough_since is None else self._enough_since
            self._form_at = self._time_to_form(view, ready, self._enough_since)
            if now >= self._form_at:
                return self._formed(view, ready)
        due = max(self._waiting_since + self._say_after, self._said_at + SAY_EVERY)
        if now >= due and view.here != self._here():
            self._said_at = now
            return view.replace(here=self._here())
        return None

    def _time_to_form(self, view: View, ready: list[NodeInfo], since: float) -> float:
        """All are there: at once. After the first round, all who are left: soon. Else when the last call has passed."""
        earliest = self._times.not_before if view.round else since
        if admission.size(self._spec, len(ready), len(view.roster)) == self._spec.max_nodes:
            return max(earliest, since)
        waiting = {info.id for info in ready}
        expected = [n for n in view.roster.nodes if n in self._peers and self._comes_back(view, self._peers[n])]
        if view.round == 0 or not expected or not waiting.issuperset(expected):
            return max(earliest, since + self._spec.timing.last_call_timeout)
        if self.renewed and not waiting.issuperset(view.roster.nodes):
            since += self._times.reunion  # others of the last round may be on their way to a store that began anew
        if len(ready) < len(view.roster) and self._waiting_since is not None:
            since = max(since, self._waiting_since + self._spec.timing.regroup_grace)
        return max(earliest, since)

    @staticmethod
    def _comes_back(view: View, info: NodeInfo) -> bool:
        return info.state != LEAVING and not info.leaving and info.id not in view.aside

    def _formed(self, view: View, ready: list[NodeInfo]) -> View:
        limit = admission.size(self._spec, len(ready), len(view.roster))
        previous = view.roster if len(view.roster) else ranks.remembered(ready, self._spec.max_nodes)
        order = ranks.arrange(ready, previous, limit)
        return View(
            round=max(view.round, *(info.round for info in order)) + 1,
            phase=RUNNING,
            roster=ranks.roster_of(order),
            master_addr=order[0].address,
            master_port=order[0].port,
            restarts=max(view.restarts, *(info.restarts for info in order)),
            reason=view.reason,
            aside=view.aside,
            history=view.history,
        )

    def _watch(self, view: View, now: float) -> View | None:
        """While a round runs: a failure, a loss, a leave or a newcomer ends it; so does success."""
        failures = self._of_round(view)
        if failures and self._apart is None:
            cause = policy.sorted_by_cause(failures)
            return view.replace(phase=DRAINING, failures=cause, reason=cause[0].summary)
        if self._apart is not None:
            ages = self._times.ages(now)
            if (after := self._apart.next_view(view, failures, now, now - self._times.began, ages)) is not None:
                return after
            view = view.replace(failures=())  # of a unit that has started again since
        states = {n: self._peers[n].state if n in self._peers else None for n in view.roster.nodes}
        for node, state in states.items():
            if (state is None or node in self._lost) and node not in self._done:
                return view.replace(phase=DRAINING, reason=f"node {node}: {self._lost.get(node, 'lost')}")
        if len(self._done) == len(view.roster):
            return view.replace(phase=CLOSED, reason="all workers succeeded")
        return self._change(view, states, now)

    def _change(self, view: View, states: dict[str, str | None], now: float) -> View | None:
        for node, state in states.items():
            if state == LEAVING:
                return view.replace(phase=DRAINING, reason=f"node {node} leaves")
            # It waits after this round's start: it has stopped its workers on its own.
            if state == WAITING and self._peers[node].round >= view.round:
                return view.replace(phase=DRAINING, reason=f"node {node} stopped its workers")
        ending = self._ending(view)
        if ending and not view.finishing and self._spec.timing.success_timeout is not None:
            return view.replace(finishing=True)
        return self._plan(view, ending, now)

    def _ending(self, view: View) -> bool:
        """Some workers have succeeded: nobody is stopped for a newcomer any more."""
        return bool(self._done) or any(
            self._peers[name].state == FINISHING for name in view.roster.nodes if name in self._peers
        )

    def _plan(self, view: View, ending: bool, now: float) -> View | None:
        """Stop the round as planned, for a node that leaves or newcomers: at once, or after notice."""
        if view.pending:
            return view.replace(phase=DRAINING, reason=view.pending) if self._is_prepared(view, now) else None
        reason = self._planned(view, ending, now)
        if not reason:
            return None
        members = self._spec.membership
        if members.notice_signal is None and members.admit != WHEN_READY:
            return view.replace(phase=DRAINING, reason=reason)
        return view.replace(pending=reason)

    def _planned(self, view: View, ending: bool, now: float) -> str:
        """Return why the round is to be stopped as planned; "" if it is not."""
        if going := admission.leaving(view, self._peers):
            return f"node {going[0]} leaves"
        waiting = [] if ending else admission.newcomers(view, self._peers)
        if not waiting:
            self._newcomer_since = None
            return ""
        if self._newcomer_since is None:
            self._newcomer_since = now
        if not admission.grows(self._spec, view, len(waiting), self._newcomer_since, now):
            return ""
        return f"node {waiting[0]} joins" if len(waiting) == 1 else f"{len(waiting)} nodes join: {', '.join(waiting)}"

    def _is_prepared(self, view: View, now: float) -> bool:
        """The workers have passed a safe point, or have had their time (without end, if newcomers wait for that)."""
        if admission.all_ready(view, self._peers, view.roster.nodes) and not self._ending(view):
            return True
        at = self._change_at(view)
        return at is not None and now >= at

    def _change_at(self, view: View) -> float | None:
        """When a running round may be stopped as planned, by time alone."""
        members = self._spec.membership
        if view.pending and self._times.pending_since is not None:
            goes = bool(admission.leaving(view, self._peers))
            patient = not goes and (members.admit == WHEN_READY or self._ending(view))
            return None if patient else self._times.pending_since + members.notice_grace
        if self._newcomer_since is None or members.admit == AT_RESTART:
            return None
        waiting = len(admission.newcomers(view, self._peers))
        at = self._newcomer_since + members.join_interval
        return at if admission.grows(self._spec, view, waiting, self._newcomer_since, at) else None

    def _drain(self, view: View, now: float) -> View | None:
        """Wait until the workers of the round are gone everywhere; then end, or form the next round."""
        nodes = view.roster.nodes
        # Asked at each acknowledgement: who has been seen settled, or lost, stays so until the next round.
        while self._drained < len(nodes):
            info = self._peers.get(node := nodes[self._drained])
            if info is not None and node not in self._lost and not self._settled(info, view):
                return None
            self._drained += 1
        failures = policy.sorted_by_cause(self._of_round(view))
        if self._apart is not None and view.failures:
            failures = self._apart.first(view.failures[0], failures)
        lost = any(n in self._lost or n not in self._peers for n in nodes)
        judged = budget.judge(self._spec, view, failures, lost, now - self._times.began, self._times.ages(now))
        if judged.final:
            reason = failures[0].summary + (f" ({judged.why})" if judged.why else "")
            return view.replace(phase=CLOSED, failures=failures, reason=reason)
        self._waiting_since = now
        forming = view.replace(
            phase=FORMING,
            restarts=view.restarts + judged.cost,
            failures=(),
            here=(),
            finishing=False,
            pending="",
            lives=(),
            aside=judged.aside,
            history=judged.history,
        )
        if judged.aside != view.aside:
            forming = forming.replace(reason=f"{view.reason}; node {judged.aside[-1]} is put aside: {judged.why}")
        if judged.history.delay:
            return forming  # everybody is told of the delay, and counts it
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
            if info.state == WAITING
            and self._comes_back(view, info)
            and (info.id not in members or info.id in self._lost or info.round >= view.round)
        ]
        return sorted(ready, key=lambda info: self._joined[info.id])

    def _here(self) -> tuple[str, ...]:
        return tuple(sorted(self._peers, key=self._joined.__getitem__))

    def _of_round(self, view: View) -> tuple[Failure, ...]:
        failures = tuple(f for f in self._failures if f.round == view.round)
        return failures if self._apart is None else self._apart.unpaid(view, failures)

    def __repr__(self) -> str:
        return f"<Board of {len(self._peers)} nodes, {len(self._lost)} lost, {len(self._failures)} failures>"
