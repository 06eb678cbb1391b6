"""The agent of one node: membership in the run, its workers, and (when it leads) the leader's work.

    handle(event, now) -> orders          wake_at() -> when to be asked again

Laws:
1. Facts are noted first (TABLE says which facts are possible in which state); then ``_advance``, and
   nothing else, changes the state and gives orders.
2. Workers run only under a RUNNING view that names this node, seen through a store that was heard of
   within the lease. Whoever loses touch for longer stops its workers before anything else (fencing).
3. A node waits for a round only when nothing of any earlier round is left on it.
4. Precedence: shutdown > failure > membership > progress.
"""

from __future__ import annotations

import signal

from rallypoint.core import worker
from rallypoint.core.crew import Crew
from rallypoint.core.ending import outcome_of_view, put_aside, refused, stopped, store_gone, timed_out
from rallypoint.core.group import EVENTS as GROUP_EVENTS
from rallypoint.core.leader import Board
from rallypoint.core.membership import CLOSED, IGNORE, ILLEGAL, IN, JOINING, OUT, STANDBY, TABLE
from rallypoint.core.ranks import assignments
from rallypoint.model import node
from rallypoint.model.errors import IllegalTransitionError
from rallypoint.model.event import (
    Event,
    FailureSeen,
    Gathered,
    LeaderSeen,
    PeerLost,
    PeerSeen,
    Prepared,
    Refused,
    Serving,
    SignalReceived,
    Started,
    StoreBack,
    StoreLost,
    ViewSeen,
)
from rallypoint.model.node import View
from rallypoint.model.order import Finish, Gather, Join, Lead, Leave, Order, Prepare, Propose, ServeWorkers, Signal
from rallypoint.model.spec import WHEN_READY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.model.event import DeadlinePassed
    from rallypoint.model.node import NodeInfo
    from rallypoint.model.result import Outcome
    from rallypoint.model.spec import Spec


LEADER_PATIENCE = 5.0
"""Seconds beyond --notice-grace that a node which is to leave waits for the leader to stop the round."""


class Agent:
    """The composition of the three machines. ``info`` is what this node says of itself."""

    def __init__(self, spec: Spec, info: NodeInfo) -> None:
        self.state = OUT
        self.info = info
        self.group = Crew(spec.timing, spec.restart.rules, spec.restart.scope)
        self.view = View(round=0, phase=node.FORMING)
        self._place = -1  # in the view's roster
        self._spec = spec
        self._board = Board(spec)
        self._revision = -1  # of the view; -1: not told yet
        self._view_there = False  # the store has a view (a fresh store has none)
        self._connected = False
        self._announced: NodeInfo | None = None
        self._leader: str | None = None
        self._leader_known = False
        self._proposing = False
        self._serving = 0  # the round for which a worker store was asked for
        self._served = 0  # ... and is open
        self._join_by: float | None = None
        self._lost_at: float | None = None
        self._fence_at: float | None = None
        self._fenced = False
        self._outcome: Outcome | None = None
        self._signal: int = signal.SIGTERM
        self._leave_by: float | None = None  # told to leave, with notice for the workers
        self._leave_signal: int = signal.SIGTERM
        self._noticed = 0  # the last round whose workers were told of a planned stop
        self._remembered: dict[str, int] = {}  # of the last round here, for a store that knows nothing of it

    def handle(self, event: Event, now: float) -> list[Order]:
        """Take in one fact, told at ``now`` (monotonic seconds), and return what is to be done.

        Raises IllegalTransitionError, changing nothing, for a fact that cannot be in this state.
        """
        action = TABLE[self.state, type(event)]
        if action is ILLEGAL:
            raise IllegalTransitionError("agent", self.state, event)
        orders: list[Order] = []
        if self.state == CLOSED:
            return orders
        if isinstance(event, GROUP_EVENTS):
            orders += self.group.handle(event, now)
        if action is not IGNORE:
            orders += getattr(self, action)(event, now) or []
        return orders + self._advance(now)

    def wake_at(self) -> float | None:
        """When ``handle(DeadlinePassed(), ...)`` is wanted, in monotonic seconds; None: not by time alone."""
        if self.state == CLOSED:
            return None
        times = [self.group.wake_at(), self._fence_at, self._leave_by]
        if self.state in (OUT, JOINING) and not self.group.active:
            times.append(self._join_by)
        if self._may_propose:
            times.append(self._board.wake_at(self.view))
        return min((t for t in times if t is not None), default=None)

    # -- facts: each handler notes one, and orders only what needs no decision

    def _started(self, _event: Started, now: float) -> None:
        self._join_by = now + self._spec.timing.join_timeout

    def _store_back(self, event: StoreBack, now: float) -> None:
        self._connected = True
        if self._lost_at is not None:
            self._board.apart(now - self._lost_at)
            self._lost_at = None
        self._fence_at = None
        if self._leads and event.fresh:
            # Our lease is gone and somebody else may have taken it: lead no more until that is known.
            self._leader_known = False
            self._proposing = False
        if event.fresh or not self.info.address:
            self._announced = None
            if event.address != self.info.address and not self.group.active and not self._finished_well:
                self._serving = self._served = self.info.round  # the worker store is to be where we are
            self.info = self.info.replace(address=event.address, **self._remembered)

    def _store_lost(self, event: StoreLost, now: float) -> None:
        self._connected = False
        self._lost_at = now if self._lost_at is None else self._lost_at
        if self._fence_at is None and not self._fenced:
            self._fence_at = now + max(0.0, self._spec.timing.lease - event.silent)

    def _serving_seen(self, event: Serving, _now: float) -> None:
        self._served = event.round
        self.info = self.info.replace(port=event.port)

    def _refused(self, event: Refused, _now: float) -> None:
        self._end(refused(event))

    def _leader_seen(self, event: LeaderSeen, _now: float) -> list[Order]:
        led = self._leads
        self._leader, self._leader_known = event.node, True
        if self._leads != led:
            self._board.forget()
            self._proposing = False
        return [Gather()] if self._leads and not led else []

    def _view_seen(self, event: ViewSeen, now: float) -> None:
        self._proposing = False
        self._revision = event.revision
        self._view_there = event.view is not None
        if event.view is not None:
            self.view, roster = event.view, event.view.roster
            self._place = roster.nodes.index(self.info.id) if self.info.id in roster.nodes else -1
            self._board.view_seen(event.view, now)
        elif self.view.phase != node.FORMING:
            # A fresh store: what we remember of the run goes on from its last round.
            again = "the store began anew"
            self.view = self.view.replace(phase=node.FORMING, reason=again, here=(), failures=(), finishing=False)

    def _peer_seen(self, event: PeerSeen, _now: float) -> None:
        self._board.peer_seen(event)

    def _peer_lost(self, event: PeerLost, _now: float) -> None:
        self._board.peer_lost(event)

    def _failure_seen(self, event: FailureSeen, _now: float) -> None:
        self._board.failure_seen(event)

    def _gathered(self, _event: Gathered, _now: float) -> None:
        self._board.complete = self._leads

    def _signal_received(self, event: SignalReceived, now: float) -> list[Order]:
        number = event.number
        if number in self._spec.forward_signals:
            return [Signal(w.id, number, group=False) for w in self.group.workers if w.state == worker.RUNNING]
        if number in self._spec.membership.leave_signals:
            return self._told_to_leave(number, now)
        if number not in self._spec.signals:
            return []
        if self._outcome is not None and self._outcome.status == "stopped":
            return self.group.kill(now)  # asked twice: no more grace
        self._signal = number
        self._outcome = stopped(number, self.view)
        return []

    def _told_to_leave(self, number: int, now: float) -> list[Order]:
        """Go, as at SIGTERM; but where workers get notice of a planned stop, let the others plan it first."""
        self._signal = signal.SIGTERM
        members = self._spec.membership
        planned = members.notice_signal is not None or members.admit == WHEN_READY
        if planned and self.group.active and self._outcome is None:
            self.info = self.info.replace(leaving=True)
            # The leader plans with the same grace; should there be none, this node goes by itself.
            self._leave_by = now + members.notice_grace + LEADER_PATIENCE
            self._leave_signal = number
        else:
            self._end(stopped(number, self.view))
        return []

    def _prepared(self, event: Prepared, _now: float) -> None:
        self.info = self.info.replace(ready=event.round)

    def _deadline(self, _event: DeadlinePassed, now: float) -> None:
        if self._leave_by is not None and now >= self._leave_by:
            self._leave_by = None
            self._end(stopped(self._leave_signal, self.view))
        if self._fence_at is not None and now >= self._fence_at:
            self._fence(now)
        waiting = self.state in (OUT, JOINING) and self._join_by is not None
        if waiting and now >= (self._join_by or now) and not self.group.active:
            self._end(timed_out(self._spec.timing.join_timeout, self.view))

    def _fence(self, now: float) -> None:
        """Out of touch for so long that the others may go on without us: whatever runs here is to stop."""
        self._fence_at = None
        if self._finished_well:
            self._end(store_gone(self.view))
        self._fenced = self.group.active
        self._join_by = now + self._spec.timing.join_timeout
        if self.state == STANDBY:
            self.state = JOINING  # nobody tells us that a round runs which is worth standing by for

    # -- decisions

    def _advance(self, now: float) -> list[Order]:
        """Compare what is with what should be, and order the difference."""
        closed = self._view_there and self.view.phase == node.CLOSED
        if closed and self._outcome is None:
            self._outcome = outcome_of_view(self.view)
        orders: list[Order] = []
        if not self.group.active:
            self._go_if_unwanted()
        if self.group.active:
            orders += self._hold_or_stop(now)
        elif self._outcome is not None:
            return [*orders, *self._finish(self._outcome)]
        elif self.group.round > self.info.round:
            self._acknowledge(now)
        elif self._missed:
            self.info = self.info.replace(round=self.view.round)
        if self._needs_worker_store:
            self._serving = max(self.group.round, self.info.round) + 1
            orders.append(ServeWorkers(self._serving))
        if not self._connected or self._served <= self.info.round:
            return orders
        orders += self._announce()
        orders += self._take_place(now)
        return orders + self._lead(now)

    def _go_if_unwanted(self) -> None:
        """Nothing runs here: a node that was told to leave goes, and so does one that was put aside."""
        if self.info.leaving:
            self._leave_by = None
            self._end(stopped(self._leave_signal, self.view))
        elif self._view_there and self.info.id in self.view.aside:
            self._end(put_aside(self.view, self.group.failures))

    @property
    def _needs_worker_store(self) -> bool:
        """The next round wants a fresh one, at an address that is known, before we say that we wait."""
        idle = not self.group.active and not self._finished_well
        return idle and self._serving <= max(self.group.round, self.info.round) and bool(self.info.address)

    @property
    def _missed(self) -> bool:
        """A round named us and was over before we knew: nothing of it is here, and the leader waits to hear so."""
        over = self._view_there and self.view.phase in (node.DRAINING, node.FORMING)
        return over and self.view.round > self.info.round and self._place >= 0

    def _hold_or_stop(self, now: float) -> list[Order]:
        """Workers of a round are there: let them run while the view says so."""
        view = self.view
        if self._outcome is not None:
            return self.group.stop(self._signal, now)
        mine = self._view_there and view.phase == node.RUNNING and view.round == self.group.round
        # In a store that began anew, others may have formed a round of the same number without us.
        if self._fenced or not mine or self._place < 0:
            return self.group.stop(signal.SIGTERM, now)
        if view.finishing or self.group.some_succeeded:
            self.group.expect_success(now)
        again = self.group.resume(view, assignments(view, self.info.id), self.info) if view.lives else []
        return again + (self._give_notice() if view.pending and self._noticed != view.round else [])

    def _give_notice(self) -> list[Order]:
        """A planned stop is near: the workers are told, once a round, and may save."""
        self._noticed = self.view.round
        number = self._spec.membership.notice_signal
        running = [w.id for w in self.group.workers if w.state == worker.RUNNING]
        signals = [] if number is None else [Signal(w, number, group=False) for w in running]
        return [*signals, Prepare(self.view.round)]

    @property
    def _finished_well(self) -> bool:
        """All our workers succeeded and the round is still on: we wait for the others."""
        on = self._view_there and self.view.phase == node.RUNNING and self.view.round == self.group.round
        return self.group.succeeded and on and not self._fenced

    def _acknowledge(self, now: float) -> None:
        """Nothing of our last round is left here; unless it ended well, we are ready for the next."""
        if not self._finished_well:
            self.info = self.info.replace(round=self.group.round, state=node.WAITING)
            self.state = JOINING if self._announced else OUT
            self._join_by = now + self._spec.timing.join_timeout
            self._fenced = False

    def _announce(self) -> list[Order]:
        """Tell the others what we are, if it has changed."""
        told = self._told()
        if told == self._announced:
            return []
        self._announced = told
        if self.state == OUT:
            self.state = JOINING
        return [Join(told)]

    def _told(self) -> NodeInfo:
        """What this node should be saying of itself now."""
        if not self.group.active:
            return self.info.replace(round=self.group.round, state=node.DONE) if self._finished_well else self.info
        stopped = self._outcome is not None and self._outcome.status == "stopped"
        some_done = self._spec.timing.success_timeout is not None and self.group.some_succeeded
        state = node.LEAVING if stopped else node.FINISHING if some_done else node.WORKING
        told = self.info.replace(round=self.group.round, state=state)
        # The view says already that we work; only a store that knows nothing of us must be told.
        known = self._announced if state == node.WORKING else None
        return told if known is None else known.replace(ready=self.info.ready, leaving=self.info.leaving)

    def _take_place(self, now: float) -> list[Order]:
        """A round runs or forms: start our workers in it, stand by, or wait."""
        view = self.view
        if self.group.active or not self._view_there or self._finished_well:
            return []
        if view.phase != node.RUNNING:
            if self.state == STANDBY:
                self.state, self._join_by = JOINING, now + self._spec.timing.join_timeout
            return []
        if self._place < 0:
            self.state = STANDBY
            return []
        if view.round <= self.info.round:
            return []
        self.state = IN
        self._remembered = {"place": self._place, "restarts": view.restarts}
        return self.group.start(view.round, assignments(view, self.info.id), self.info)

    @property
    def _leads(self) -> bool:
        return self._leader_known and self._leader == self.info.id

    @property
    def _may_lead(self) -> bool:
        """With ``static`` only rank 0's node leads: it has to empty its worker store before each round."""
        return self._spec.backend != "static" or self.info.node_rank == 0

    @property
    def _may_propose(self) -> bool:
        """We lead, know the view, and no proposal of ours is under way."""
        in_touch = self._connected and self._served > self.info.round and self._announced is not None
        return self._leads and in_touch and self._revision >= 0 and not self._proposing

    def _lead(self, now: float) -> list[Order]:
        if self._leader_known and self._leader is None and self._may_lead:
            self._leader_known = False  # until we are told who got it
            return [Lead()]
        if not self._may_propose:
            return []
        self._board.renewed = not self._view_there
        view = self._board.next_view(self.view, now)
        if view is None:
            return []
        self._proposing = True
        orders: list[Order] = [Propose(view, self._revision)]
        if view.phase == node.RUNNING and view.round > self.view.round and self._spec.backend == "static":
            # The port of the worker store is fixed: empty it once all old workers are gone.
            orders.insert(0, ServeWorkers(view.round))
        return orders

    def _end(self, outcome: Outcome) -> None:
        if self._outcome is None:
            self._outcome = outcome

    def _finish(self, outcome: Outcome) -> list[Order]:
        self.state = CLOSED
        return [Leave(outcome.reason), Finish(outcome)]

    def __repr__(self) -> str:
        return f"<Agent {self.info.id}: {self.state}, view {self.view.phase} {self.view.round}, {self.group!r}>"
