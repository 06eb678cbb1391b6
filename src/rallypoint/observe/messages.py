"""What the launcher says while it runs: few lines for people, the same as JSON for machines.

Laws: a line tells news, so nothing is said twice; one node whose workers succeed says nothing;
nothing here reads a clock but the injected wall clock of the JSON form.
"""

from __future__ import annotations

import time

from rallypoint.model import event as events
from rallypoint.model import node as nodes
from rallypoint.model import order as orders
from rallypoint.model.errors import RefusedError
from rallypoint.model.result import signal_name
from rallypoint.observe.changes import Changes
from rallypoint.observe.message import ALL, ALWAYS, MORE, Message, as_json, as_text
from rallypoint.observe.summary import Story, formed, size
from rallypoint.observe.waiting import Waiting, advice, peer_refused, waited
from rallypoint.observe.wording import NAMED, count, headline, one_line, short_place, span, told
from rallypoint.observe.workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rallypoint.model.node import View
    from rallypoint.model.order import Decision
    from rallypoint.model.result import Failure, Outcome
    from rallypoint.model.spec import Spec


class Messages:
    """An observer. Call it with every decision; call ``tick(now)`` when ``next_tick()`` is due.

    ``node`` is this node's id. ``write`` gets whole lines, line end included. A first ``tick`` before
    any decision starts the clock of the first wait. Times are monotonic seconds, the decisions' own;
    ``wall`` gives seconds since the epoch.
    """

    def __init__(
        self, spec: Spec, node: str, write: Callable[[str], None], wall: Callable[[], float] = time.time
    ) -> None:
        self._spec = spec
        self._node = node
        self._write = write
        self._wall = wall
        self._now = 0.0
        self._story = Story()
        self._changes = Changes(spec)
        self._waiting = Waiting(spec, node)
        self._workers = Workers()
        self._phase = (0, "")  # round and phase of the last view
        self._failures: tuple[Failure, ...] = ()  # of the last view that had any
        self._failures_said: dict[int, int] = {}  # round -> how many got a line
        self._store_lost_at: float | None = None
        self._stop_signals = 0
        self._joined_before = self._refused = self._over = False

    def __call__(self, decision: Decision) -> None:
        self._begin(decision.at)
        if self._spec.verbosity >= ALL:
            self._decision(decision)
        if self._over:
            return  # while the last connections close, facts come in that concern nobody any more
        for what in (decision.event, *decision.orders):
            if react := _REACT.get(type(what)):
                react(self, what)
            elif message := self._workers.tell(what):
                self._say(message)

    def next_tick(self) -> float | None:
        """When ``tick`` is wanted (monotonic seconds), or None."""
        return self._waiting.due

    def tick(self, now: float) -> None:
        """Say what is being waited for, if the time has come."""
        self._begin(now)
        due, since = self._waiting.due, self._waiting.since
        if due is None or since is None or now < due:
            return
        fields = self._waiting.facts(now) | {"workers": len(self._workers), "phase": self._phase[1]}
        self._say(Message("waiting", self._wait(now - since), "warning", fields=fields))
        self._waiting.line_said(now)

    def notice(self, text: str, level: str = "info") -> None:
        """Say a line that no decision leads to: a setting worth knowing, trouble with a log file."""
        self._say(Message("notice", text, level))

    def explain_timeout(self) -> str:
        """Say who was here, who was missing, what was tried, and (on a second line) why it probably failed."""
        since = self._waiting.since
        after = f" after {span(self._now - since)}" if since is not None else ""
        guess = self._waiting.guess()
        return f"gave up{after}: {self._waiting.words()}" + (f"\nlikely cause: {guess}" if guess else "")

    def _wait(self, seconds: float) -> str:
        """Say what has been waited for since ``seconds``: workers to end, the store, or nodes."""
        running, timing = len(self._workers), self._spec.timing
        draining = self._phase[1] == nodes.DRAINING
        if draining and running:
            return f"stopping {count(running, 'worker')}, {waited(seconds, timing.shutdown_timeout)}"
        if draining and self._waiting.connected:
            return f"waiting for the other nodes to stop their workers, {span(seconds)}"
        what = "nodes" if self._waiting.connected else "the store"
        time_waited = span(seconds) if running else waited(seconds, timing.join_timeout)
        return f"waiting for {what}, {time_waited}: {self._waiting.words()}"

    def _begin(self, at: float) -> None:
        self._now = at
        if self._story.began is None:
            self._story.begin(at)
            self._waiting.start(at)

    def _say(self, message: Message) -> None:
        machine = self._spec.log_format == "json"
        if not message.wanted(self._spec.verbosity, machine):
            return
        if machine:
            self._write(as_json(message, self._now, self._wall(), self._spec.run_id, self._node))
        else:
            self._write(as_text(message))

    def _detail(self, event: str, text: str, fields: dict[str, Any]) -> None:
        self._say(Message(event, text, "debug", MORE, fields=fields))

    def _decision(self, decision: Decision) -> None:
        made = [type(order).__name__ for order in decision.orders]
        text = f"{span(self._story.elapsed(decision.at))}: {decision.event!r} -> {list(decision.orders)!r}"
        fields = {"cause": type(decision.event).__name__, "orders": made, "detail": repr(decision)}
        self._say(Message("decision", one_line(text, 2000), "debug", ALL, fields=fields))

    # The store and the wait for a round.

    def _joined(self, _event: events.Joined) -> None:
        self._waiting.connected = True
        if not self._joined_before:
            at = f" the store at {self._waiting.where}" if self._waiting.where else ""
            self._detail("joined", f"node {self._node} joined{at}", {"store": self._waiting.where})
        self._joined_before = True

    def _refused_by_run(self, event: events.Refused) -> None:
        self._refused = True
        self._waiting.stop()
        error = RefusedError(self._waiting.where or "the store", event.field, event.mine, event.theirs)
        mend = advice(event.field)
        text = one_line(str(error), 400) + (f"; {mend}" if mend else "")
        fields = {"store": self._waiting.where, "advice": mend} | event.as_dict()
        self._say(Message("refused", text, "error", fields=fields))

    def _store_tried(self, event: events.StoreTried) -> None:
        news = (event.where, event.reason) != (self._waiting.where, self._waiting.reason)
        self._waiting.tried(event.where, event.reason, event.attempt)
        if news:
            text = f"store at {event.where}: {one_line(event.reason)}; trying again"
            self._detail("store_tried", text, event.as_dict())

    def _store_lost(self, event: events.StoreLost) -> None:
        # Once the run ends, the store's host may well be the first to go.
        if self._store_lost_at is not None or self._stop_signals or self._phase[1] == nodes.CLOSED:
            return
        self._store_lost_at = self._now
        if self._waiting.since is None:
            self._waiting.start(self._now)
        self._waiting.lost(event.reason)
        at = f" at {self._waiting.where}" if self._waiting.where else ""
        text = f"lost the store{at}: {one_line(event.reason)}; trying to reach it again"
        fields = {"store": self._waiting.where, "reason": event.reason}
        self._say(Message("store_lost", text, "warning", fields=fields))

    def _store_back(self, event: events.StoreBack) -> None:
        self._waiting.connected = True
        self._waiting.where = event.where or self._waiting.where
        lost_at, self._store_lost_at = self._store_lost_at, None
        if lost_at is None:
            return
        if self._phase[1] == nodes.RUNNING:
            self._waiting.stop()
        anew = ", this node joins anew" if event.fresh else ""
        at = f" at {event.where}" if event.where else ""
        text = f"the store is back{at} after {span(self._now - lost_at)}{anew}"
        fields = {"seconds": round(self._now - lost_at, 3), "fresh": event.fresh}
        self._say(Message("store_back", text, fields=fields))

    def _leader_seen(self, event: events.LeaderSeen) -> None:
        self._waiting.connected = True
        if event.node != self._node:
            self._waiting.peers.clear()
        self._detail("leader", f"leader: {one_line(event.node or 'nobody yet')}", {"leader": event.node})

    def _gather(self, _order: orders.Gather) -> None:
        self._waiting.peers.clear()

    def _peer_seen(self, event: events.PeerSeen) -> None:
        info = event.info
        news = info.id not in self._waiting.peers
        self._waiting.peers[info.id] = info
        if news:
            text = one_line(f"node {info.id} is here: {info.address}, {count(info.slots, 'worker')}")
            fields = {"peer": info.id, "host": info.host, "address": info.address, "slots": info.slots}
            self._detail("node_here", text, fields)

    def _peer_lost(self, event: events.PeerLost) -> None:
        self._waiting.peers.pop(event.node, None)
        text = f"node {one_line(event.node)} {'left' if event.left else 'is lost'}: {one_line(event.reason)}"
        self._detail("node_gone", text, {"peer": event.node, "left": event.left, "reason": event.reason})

    # The view.

    def _view_seen(self, event: events.ViewSeen) -> None:
        view = event.view
        self._waiting.connected = True
        if view is None:
            self._no_view()
            return
        for failure in view.failures:
            self._failure(failure)
        self._failures = view.failures or self._failures
        if view.phase != nodes.CLOSED:
            self._restart(view)
        for message in self._changes.told(view):
            self._say(message)
        if view.phase == nodes.FORMING:
            self._waiting.named = view.here
        known, self._phase = self._phase, (view.round, view.phase)
        if self._phase == known:
            return
        text = f"round {view.round}: {view.phase}" + (f" ({one_line(view.reason)})" if view.reason else "")
        if view.phase == nodes.RUNNING and view.master_port:
            text += f", worker store at {view.master_addr}:{view.master_port}"
        self._detail("phase", text, {"round": view.round, "phase": view.phase, "reason": view.reason})
        _ON_PHASE[view.phase](self, view)

    def _no_view(self) -> None:
        """A fresh store knows of no round: the nodes have to find each other again."""
        self._phase = (0, "")
        if self._waiting.since is None and not self._stop_signals:
            self._waiting.start(self._now)

    def _forming(self, _view: View) -> None:
        # The first wait began with the run; a later one begins when the last round is over everywhere.
        if (self._waiting.since is None or self._story.rounds) and not self._stop_signals:
            self._waiting.start(self._now)

    def _running(self, view: View) -> None:
        seconds = self._now - (self._waiting.since if self._waiting.since is not None else self._now)
        announced = self._waiting.lines > 0
        self._waiting.stop()
        if self._node in view.roster.nodes:
            change = self._story.formed(view, self._now)
            news = (
                announced
                or change is not None
                or self._story.again
                or (self._story.rounds == 1 and len(view.roster) > 1)
            )
            self._say(formed(view, change, seconds if announced else None, news))
        else:
            text = f"standing by: round {view.round} runs without this node ({size(view)})"
            self._say(Message("standby", text, fields={"round": view.round, "nodes": list(view.roster.nodes)}))

    def _draining(self, view: View) -> None:
        if self._stop_signals:
            return
        self._waiting.start(self._now)
        # With failures their own lines say why.
        if not view.failures:
            text = f"round {view.round} ends" + (f": {one_line(view.reason)}" if view.reason else "") + "; regrouping"
            self._say(Message("regroup", text, fields={"round": view.round, "reason": view.reason}))

    def _closed(self, _view: View) -> None:
        self._waiting.stop()

    def _restart(self, view: View) -> None:
        first = self._failures[0] if self._failures else None
        if restart := self._story.restarted(view, first, self._now):
            cause = restart.cause
            place, words = (short_place(cause), headline(cause)) if cause else ("", "")
            limit = self._spec.max_restarts
            window = self._spec.restart.window
            budget = f" of {limit}" if window is None else f" (at most {limit} within {span(window)})"
            text = f"restart {restart.number}{budget}{_ALONE[self._spec.restart.scope] if view.lives else ''}"
            text += f" ({place}: {words})" if cause else ""
            fields = {"restart": restart.number, "max_restarts": limit, "place": place, "headline": words}
            self._say(Message("restart", text, "warning", fields=fields))

    # Failures, signals, the end.

    def _failure(self, failure: Failure) -> None:
        if not self._story.failed(failure, self._now):
            return
        said = self._failures_said.get(failure.round, 0)
        # The report has them all; a thousand broken connections must not bury the line that matters.
        minor = failure.consequence or said >= NAMED or self._stop_signals > 0
        if not minor:
            self._failures_said[failure.round] = said + 1
        fields = failure.to_json() | {"place": failure.place, "headline": failure.headline}
        text = told(failure) + (" [consequence]" if failure.consequence else "")
        self._say(Message("failure", text, "error", MORE if minor else ALWAYS, fields=fields))

    def _published(self, order: orders.Publish) -> None:
        self._failure(order.failure)

    def _failure_seen(self, event: events.FailureSeen) -> None:
        self._failure(event.failure)

    def _signal(self, event: events.SignalReceived) -> None:
        name, number = signal_name(event.number), len(self._workers)
        fields = {"signal": name, "workers": number}
        if event.number in self._spec.forward_signals:
            self._detail("signal_forwarded", f"{name} passed on to {count(number, 'worker')}", fields)
            return
        if event.number in self._spec.membership.leave_signals:
            self._say(Message("leaving", f"{name}: this node leaves the run", "warning", fields=fields))
            return
        if event.number not in self._spec.signals:
            return  # one that the launcher only survives
        self._stop_signals += 1
        self._waiting.stop()
        text = f"{name}: stopping"
        if number:
            text += f" {count(number, 'worker')}, up to {span(self._spec.timing.shutdown_timeout)}"
        if self._stop_signals == 2:
            text = f"{name}: killing {count(number, 'worker')}"
        # A third signal finds them being killed already; without workers a second one changes nothing.
        if self._stop_signals == 1 or (self._stop_signals == 2 and number):
            self._say(Message("stopping", text, "warning", fields=fields))

    def _finish(self, order: orders.Finish) -> None:
        from rallypoint.observe.report import report_json  # a start does not need it

        outcome = order.outcome
        detail, level, text = self._ending(outcome)
        waited_for = self._waiting.facts(self._now) if outcome.status == "timeout" else None
        self._waiting.stop()
        self._over = True
        ended = self._wall()
        started = ended - self._story.elapsed(self._now)
        fields = {
            "outcome": report_json(outcome, self._spec, started, ended),
            "story": self._story.facts(self._now),
            "waiting": waited_for,
        }
        # Machines are always told of the end, people only where it is news.
        self._say(Message("finished", text, level, detail, ALWAYS, fields))

    def _ending(self, outcome: Outcome) -> tuple[int, str, str]:
        """Return from which verbosity on, how loud and in which words the end is told."""
        after = f"after {span(self._story.elapsed(self._now))}, exit code {outcome.exit_code}"
        reason = one_line(outcome.reason, 400)
        if outcome.status == "succeeded":
            return (ALWAYS if self._story.eventful else MORE), "info", self._story.words(outcome, self._now)
        if outcome.status == "failed":
            # The failure report, written after this, is the last word.
            return MORE, "error", self._story.words(outcome, self._now)
        if outcome.status == "stopped":
            by = f" by {signal_name(outcome.signal)}" if outcome.signal else (f" ({reason})" if reason else "")
            return ALWAYS, "warning", f"stopped{by} {after}"
        if outcome.status == "timeout":
            return ALWAYS, "error", f"{self.explain_timeout()}\nexit code {outcome.exit_code}"
        if outcome.status == "refused":
            return (MORE if self._refused else ALWAYS), "error", f"refused: {reason}; {after}"
        return ALWAYS, "error", f"the launcher failed: {reason or 'no reason is known'}; {after}"

    def __repr__(self) -> str:
        return f"<Messages of {self._node}, {self._waiting!r}, {self._story!r}>"


_REACT: dict[type, Callable[[Messages, Any], None]] = {
    events.Joined: Messages._joined,
    events.Refused: Messages._refused_by_run,
    events.LeaderSeen: Messages._leader_seen,
    events.ViewSeen: Messages._view_seen,
    events.PeerSeen: Messages._peer_seen,
    events.PeerLost: Messages._peer_lost,
    events.PeerRefused: lambda messages, refused: messages.notice(peer_refused(refused), "warning"),
    events.FailureSeen: Messages._failure_seen,
    events.StoreTried: Messages._store_tried,
    events.StoreLost: Messages._store_lost,
    events.StoreBack: Messages._store_back,
    events.SignalReceived: Messages._signal,
    orders.Gather: Messages._gather,
    orders.Publish: Messages._published,
    orders.Finish: Messages._finish,
}
_ALONE = {"job": "", "node": ", of one node", "worker": ", of one worker"}
_ON_PHASE: dict[str, Callable[[Messages, View], None]] = {
    nodes.FORMING: Messages._forming,
    nodes.RUNNING: Messages._running,
    nodes.DRAINING: Messages._draining,
    nodes.CLOSED: Messages._closed,
}
