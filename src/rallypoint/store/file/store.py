"""The five verbs on a shared folder: requests wait for the lock, changes come from the journal."""

from __future__ import annotations

import os
import time
from urllib.parse import quote

from rallypoint import __version__
from rallypoint.model.errors import ProtocolError
from rallypoint.store.file.alive import Alive
from rallypoint.store.file.inotify import CLOSED, MOVED, REMOVED, WRITTEN, Inotify, is_shared
from rallypoint.store.file.journal import Journal
from rallypoint.store.front import Front
from rallypoint.store.messages import Changed, Welcome
from rallypoint.store.pause import Pause
from rallypoint.store.resolve import way_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.reactor import Reactor, Timer
    from rallypoint.store.api import Entry, StoreWatcher
    from rallypoint.store.client import Member
    from rallypoint.store.file.alive import Verdict
    from rallypoint.store.messages import Message

KEEP = 60.0
"""Seconds that a run's keys stay when the last node of it was lost."""
RETRY = 0.005
"""Seconds until the lock is tried again while another has it: for a write, that is about a millisecond."""
SHARED_LOOK = 0.25
"""Seconds between looks at a folder in which other machines may write: no kernel tells of them."""
LATE = 1.0
"""A look that comes so many seconds late says that we slept."""
GOODBYE = 2.0
"""Seconds that ``close`` waits for the lock."""
GIVEN_UP = "the others gave this node up"
ANYWHERE = "192.0.2.1"
"""An address of nobody (RFC 5737): the way there is the way out."""


class FileStore(Front):
    """The store in ``folder`` for ``member``; each run has a folder of its own in it, made by who comes first."""

    def __init__(self, reactor: Reactor, watcher: StoreWatcher, folder: str, member: Member) -> None:
        super().__init__(reactor, watcher, folder)
        self._member = member
        self._folder = os.path.join(folder, quote(member.run_id, safe="", errors="surrogatepass")[:200])
        self._session = os.urandom(16).hex()
        self._interval = min(member.keep_alive_interval, member.ttl / 3)
        self._pause = Pause(reactor)
        self._attempts = 0
        self._journal: Journal | None = None
        self._alive: Alive | None = None
        self._inotify: Inotify | None = None
        self._look = self._interval
        self._work: list[Callable[[], list[Message]]] = []
        self._retry: Timer | None = None
        self._timer: Timer | None = None
        self._due = 0.0
        self._beaten = reactor.now()
        reactor.soon(self._start)

    def close(self) -> None:
        """Give back all leases; the lock is waited for, ``GOODBYE`` seconds at most."""
        if self._closed:
            return
        super().close()
        if self._journal is not None and self._session in self._journal.replica.sessions:
            end = time.monotonic() + GOODBYE
            try:
                while not (mine := self._journal.lock()) and time.monotonic() < end:
                    time.sleep(RETRY)
                if mine:
                    self._finish()
            except (OSError, ProtocolError):
                pass  # the others will miss us
        self._release()

    def lose(self) -> None:
        """Vanish without a goodbye, as a node that dies (for tests)."""
        super().close()
        self._release()

    # Coming up

    def _start(self) -> None:
        if self._closed:
            return
        try:
            alive = os.path.join(self._folder, "alive")
            os.makedirs(alive, mode=0o700, exist_ok=True)
            self._journal = Journal(self._folder)
            if self._alive is None or self._alive.removed:
                self._alive = Alive(alive, self._session)
            self._listen(alive)
        except OSError as error:
            self._down(error)
            return
        self._do(self._enter)

    def _listen(self, alive: str) -> None:
        self._look = min(self._interval, SHARED_LOOK) if is_shared(self._folder) else self._interval
        try:
            folders = {self._folder: WRITTEN | MOVED, alive: CLOSED | REMOVED}
            self._inotify = Inotify(self._reactor, folders, self._stir)
        except OSError:
            self._look = min(self._interval, SHARED_LOOK)  # the kernel has none to spare

    def _enter(self) -> list[Message]:
        """Open our session, or find it still open; the dead are cleared away first."""
        assert self._journal is not None and self._alive is not None
        journal, alive = self._journal, self._alive
        journal.catch_up()
        now = alive.beat()
        age = journal.age(now)
        self._beaten = self._reactor.now()
        resumed = self._session in journal.replica.sessions
        for verdict in alive.look(journal.replica.sessions, self._beaten):
            self._bury(verdict.session, verdict.reason)
        others = [m for s, m in journal.replica.sessions.items() if s != self._session]
        if versions := [m.version for m in others if m.version != __version__]:
            self._reactor.soon(lambda: self._refused(versions[0]))
            return []
        if not resumed:
            stale = not others and age > KEEP
            here = ["in", self._session, self._member.node, __version__, self._member.ttl]
            journal.append([*(journal.replica.empty() if stale else []), here])
        return [Welcome(journal.replica.revision, journal.replica.epoch, resumed, now)]

    def _refused(self, theirs: str) -> None:
        self._release()
        self._refuse("the version of Rallypoint", __version__, theirs)

    # Work under the lock

    def _do(self, work: Callable[[], list[Message]] | None = None) -> None:
        """Carry out ``work`` when the lock is ours; then tell what it answers, after what was written before."""
        if work is not None:
            self._work.append(work)
        if self._retry is None and self._work:
            self._retry = self._reactor.call_at(self._reactor.now(), self._turn)

    def _turn(self) -> None:
        self._retry = None
        if self._journal is None or not self._work:
            return
        try:
            if not self._journal.lock():
                self._retry = self._reactor.call_at(self._reactor.now() + RETRY, self._turn)
                return
            messages: list[Message] = []
            try:
                messages += map(Changed, self._journal.catch_up())
                while self._work:
                    messages += self._work.pop(0)()
            finally:
                self._journal.unlock()
        except (OSError, ProtocolError) as error:
            self._down(error)
            return
        self._tell(messages)

    def _carry_out(self, message: Message) -> None:
        self._do(lambda: self._request(message))

    def _request(self, message: Message) -> list[Message]:
        assert self._journal is not None
        if self._session not in self._journal.replica.sessions:
            raise ProtocolError(GIVEN_UP)
        answer, changes = self._journal.replica.request(self._session, message)
        told = self._journal.append(changes) if changes else []
        return [answer, *map(Changed, told)]

    def _tell(self, messages: list[Message]) -> None:
        for message in messages:
            if self._closed:
                return
            if isinstance(message, Welcome):
                self._attempts = 0
                self._pause.reset()
                address = self._member.local_addr or way_to(ANYWHERE)
                self._opened(self._carry_out, message, address)
                self._schedule()
            else:
                self._receive(message)
        if self._journal is not None and self._carry is not None:
            self._check()

    def _check(self) -> None:
        """See whether the others still have us."""
        assert self._journal is not None
        if self._session not in self._journal.replica.sessions:
            self._down(ProtocolError(GIVEN_UP))

    # Looking and being seen

    def _schedule(self) -> None:
        self._due = self._reactor.now() + self._look
        self._timer = self._reactor.call_at(self._due, self._tick)

    def _tick(self) -> None:
        assert self._alive is not None
        now = self._reactor.now()
        try:
            if now > self._due + LATE:
                self._alive.excuse(now)
            if now >= self._beaten + self._interval - self._look / 2:
                self._alive.beat()
                self._beaten = now
        except OSError as error:
            self._down(error)
            return
        self._schedule()
        self._stir()

    def _stir(self) -> None:
        """Something may have happened: read the journal, and see who is gone."""
        if self._journal is None or self._alive is None or self._carry is None:
            return
        try:
            told = self._journal.catch_up()
            verdicts = self._alive.look(self._journal.replica.sessions, self._reactor.now())
        except (OSError, ProtocolError) as error:
            self._down(error)
            return
        for verdict in verdicts:
            self._do(lambda v=verdict: self._give_up(v))  # type: ignore[misc]
        self._tell([Changed(entry) for entry in told])

    def _give_up(self, verdict: Verdict) -> list[Message]:
        assert self._alive is not None
        if not self._alive.still(verdict):
            return []
        return [Changed(entry) for entry in self._bury(verdict.session, verdict.reason)]

    def _bury(self, session: str, reason: str) -> list[Entry]:
        assert self._journal is not None and self._alive is not None
        changes = self._journal.replica.leave(session, False, reason)
        told = self._journal.append(changes) if changes else []
        self._alive.forget(session)
        return told

    # The end

    def _finish(self) -> None:
        """Write what still waits to be written, then that we leave; the lock is ours."""
        assert self._journal is not None and self._alive is not None
        self._journal.catch_up()
        for work in self._work:
            work()
        if changes := self._journal.replica.leave(self._session, True, "closed"):
            self._journal.append(changes)
        if not self._journal.replica.sessions:
            self._journal.shorten()
        self._alive.forget(self._session)

    def _down(self, error: Exception) -> None:
        """The folder does not serve: say so, and begin again after a pause."""
        reason = str(error) if isinstance(error, ProtocolError) else getattr(error, "strerror", None) or str(error)
        was_up = self._carry is not None
        self._work.clear()
        self._let_go()
        if was_up:
            self._lost(reason, self._reactor.now() - self._beaten)
        else:
            self._attempts += 1
            self._watcher.store_tried(self.where, reason, self._attempts)
        if not self._closed:
            self._pause.then(self._start)

    def _release(self) -> None:
        self._let_go()
        self._pause.cancel()
        if self._alive is not None:
            self._alive.close()
            self._alive = None

    def _let_go(self) -> None:
        """Close all but our sign of life: as long as that is locked, nobody takes us for dead."""
        for timer in (self._retry, self._timer):
            if timer is not None:
                timer.cancel()
        self._retry = self._timer = None
        for part in (self._inotify, self._journal):
            if part is not None:
                part.close()
        self._inotify = self._journal = None
