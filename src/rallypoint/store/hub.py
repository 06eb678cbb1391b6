"""A state at work: it is given the time, woken at its deadlines, and its messages are delivered."""

from __future__ import annotations

from rallypoint.store.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.reactor import Reactor, Timer
    from rallypoint.store.messages import Hello, Message
    from rallypoint.store.state import Out, Session

LATE = 1.0
"""Woken later than this after a deadline, the store takes it that itself was asleep (stopped, suspended)."""


class Hub:
    """What all users of one store share, whether they sit in this process or behind sockets.

    ``may_serve`` is asked before anything is done or told: a store that is one of several may have lost the right to
    while its process was stopped.
    """

    def __init__(
        self, reactor: Reactor, state: State | None = None, may_serve: Callable[[], bool] = lambda: True
    ) -> None:
        self.state = State() if state is None else state
        self._may_serve = may_serve
        self._reactor = reactor
        self._timer: Timer | None = None
        self._due = 0.0

    def join(self, hello: Hello, tell: Callable[[Message], None]) -> Session:
        """Open a session whose messages, the welcome first, go to ``tell``. Raises RefusedError.

        ``tell`` must not call back into the hub.
        """
        session, out = self.state.join(hello, self._reactor.now())
        session.tell = tell
        self._deliver(out)
        return session

    def handle(self, session: Session, request: Message) -> None:
        if self._may_serve():
            self._deliver(self.state.handle(session, request, self._reactor.now()))

    def heard(self, session: Session) -> None:
        session.heard = self._reactor.now()

    def leave(self, session: Session, left: bool, reason: str) -> None:
        if self._may_serve():
            self._deliver(self.state.leave(session, left, reason, self._reactor.now()))

    def retire(self) -> None:
        """Do and tell nothing any more: another store is the one that counts."""
        self._may_serve = lambda: False
        self.close()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __repr__(self) -> str:
        return f"<Hub of {self.state!r}>"

    def _deliver(self, out: Out) -> None:
        for session, message in out:
            session.tell(message)
        due = self.state.next_deadline()
        # A deadline that moved away is left standing: waking once for nothing is cheaper than moving it.
        if due is not None and (self._timer is None or due < self._due):
            self.close()
            self._due = due
            self._timer = self._reactor.call_at(due, self._expire)

    def _expire(self) -> None:
        now = self._reactor.now()
        self._timer = None
        if not self._may_serve():
            return
        if now > self._due + LATE:
            self.state.excuse(now)
        self._deliver(self.state.expire(now))
