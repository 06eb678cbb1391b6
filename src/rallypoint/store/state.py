"""What a store knows: keys, revisions, leases and watches of many runs. No I/O and no clock.

Facts go in with the time they are told; what comes out is a list of (session, message), in the
order in which it must be told. Runs are apart: each has keys of its own, revisions are common.
A run's keys stay as long as somebody is in it, and ``KEEP`` seconds longer if the last one was lost.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort

from rallypoint.model.errors import RefusedError
from rallypoint.store.api import Entry
from rallypoint.store.messages import Answer, Changed, Dropped, Lease, Listing, Read, Swap, Watch, Welcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.store.api import Json
    from rallypoint.store.messages import Hello, Message

KEEP = 60.0
FOREVER = float("inf")


class StaleError(Exception):
    """A connection that its node has given up for a later one, which is here already."""


class Session:
    """One user of one run. ``tell`` is whoever delivers messages to it; the state never calls it."""

    __slots__ = ("attempt", "due", "heard", "leases", "node", "prefixes", "run", "tell", "token", "ttl")

    def __init__(self, run: Run, hello: Hello, now: float) -> None:
        self.run = run
        self.node = hello.node
        self.attempt = hello.attempt
        self.token = hello.session
        self.ttl = hello.ttl
        self.heard = now
        self.due = FOREVER
        self.leases: dict[str, float] = {}
        self.prefixes: set[str] = set()
        self.tell: Callable[[Message], None] = _nobody

    @property
    def live(self) -> bool:
        return self.run.sessions.get(self.token) is self

    def __repr__(self) -> str:
        return f"<Session of {self.node!r}, {len(self.leases)} leases{'' if self.live else ', ended'}>"


class Run:
    """The keys, owners and watches of one run. ``order`` holds the keys sorted, so a prefix is a slice."""

    __slots__ = ("entries", "id", "order", "owners", "sessions", "version", "watches")

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self.version = ""
        self.entries: dict[str, Entry] = {}
        self.order: list[str] = []
        self.owners: dict[str, Session] = {}
        self.sessions: dict[str, Session] = {}
        self.watches: dict[str, dict[Session, None]] = {}

    def below(self, prefix: str) -> tuple[Entry, ...]:
        start = end = bisect_left(self.order, prefix)
        while end < len(self.order) and self.order[end].startswith(prefix):
            end += 1
        return tuple(self.entries[key] for key in self.order[start:end])

    def put(self, entry: Entry) -> None:
        if entry.key not in self.entries:
            insort(self.order, entry.key)
        self.entries[entry.key] = entry

    def drop(self, key: str) -> Entry:
        if (owner := self.owners.pop(key, None)) is not None:
            del owner.leases[key]
        del self.order[bisect_left(self.order, key)]
        return self.entries.pop(key)

    def watchers(self, key: str) -> dict[Session, None]:
        """Return who watches any prefix of ``key``: as many look-ups as the key is long, however many watch."""
        found: dict[Session, None] = {}
        for end in range(len(key) + 1):
            if at := self.watches.get(key[:end]):
                found |= at
        return found

    def __repr__(self) -> str:
        return f"<Run {self.id!r}: {len(self.entries)} keys, {len(self.sessions)} sessions>"


if TYPE_CHECKING:
    Out = list[tuple[Session, Message]]


class State:
    """The whole store. ``epoch`` names this life of it, and its revisions start there.

    A server starts at a random epoch, so that a revision from before it was lost fits no key after.
    """

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch
        self.revision = epoch
        self.runs: dict[str, Run] = {}
        self._empty: dict[str, float] = {}
        self._due: list[tuple[float, int, Session]] = []
        self._armed = 0

    # Facts

    def join(self, hello: Hello, now: float) -> tuple[Session, Out]:
        """Open a session.

        Raises RefusedError if others are there and have another version of Rallypoint, StaleError if a later connection
        of this session is there.
        """
        run = self.runs.get(hello.run)
        if run is not None and run.sessions and run.version != hello.version:
            raise RefusedError(f"run {run.id!r}", "the version of Rallypoint", hello.version, run.version)
        if run is None:
            run = self.runs[hello.run] = Run(hello.run)
        run.version = hello.version
        self._empty.pop(run.id, None)
        before = run.sessions.get(hello.session)
        if before is not None and hello.attempt < before.attempt:
            raise StaleError(hello.node)
        session = run.sessions[hello.session] = Session(run, hello, now)
        out: Out = [(session, Welcome(self.revision, self.epoch, before is not None))]
        if before is not None:
            self._forget_watches(before)
            session.leases, before.leases = before.leases, {}
            run.owners.update(dict.fromkeys(session.leases, session))
            out.append((before, Dropped("this node came back on another connection")))
        self._arm(session, now)
        return session, out

    def handle(self, session: Session, request: Message, now: float) -> Out:
        """Carry out a Read, Swap, Lease or Watch."""
        if not session.live:
            return []
        session.heard = now
        if type(request) is Swap:
            return self._swap(session, request)
        if type(request) is Lease:
            return self._lease(session, request)
        if type(request) is Watch:
            session.run.watches.setdefault(request.prefix, {})[session] = None
            session.prefixes.add(request.prefix)
            return [(session, Listing(request.id, self.revision, session.run.below(request.prefix)))]
        assert type(request) is Read
        return [(session, Answer(request.id, True, self.revision, entries=session.run.below(request.prefix)))]

    def leave(self, session: Session, left: bool, reason: str, now: float) -> Out:
        """End a session: its leases go, given back (``left``) or lost. An ended session changes nothing."""
        if not session.live:
            return []
        run = session.run
        self._forget_watches(session)
        del run.sessions[session.token]
        out: Out = []
        for key in tuple(session.leases):
            out += self._delete(run, key, left, reason)
        if not run.sessions:
            if left:
                del self.runs[run.id]
            else:
                self._empty[run.id] = now + KEEP
        return out

    def expire(self, now: float) -> Out:
        """Take what is over by ``now``: leases and sessions of those unheard of, runs with nobody in them."""
        out: Out = []
        while self._due and self._due[0][0] <= now:
            due, _, session = heapq.heappop(self._due)
            if session.live and session.due == due:
                out += self._silent(session, now)
        for run_id in [r for r, end in self._empty.items() if end <= now]:
            del self._empty[run_id], self.runs[run_id]
        return out

    def next_deadline(self) -> float | None:
        """Return when ``expire`` may have something to do (it may also find nothing), None: never."""
        times = [*self._empty.values(), *(due for due, _, _ in self._due[:1])]
        return min(times, default=None)

    def excuse(self, now: float) -> None:
        """Take everybody as heard just now: it was the store itself that slept."""
        for run in self.runs.values():
            for session in run.sessions.values():
                session.heard = now

    def __repr__(self) -> str:
        return f"<State at revision {self.revision}, {len(self.runs)} runs>"

    # Writes

    def _swap(self, session: Session, request: Swap) -> Out:
        run, key = session.run, request.key
        there = run.entries.get(key)
        if (there.revision if there else 0) != request.expected or run.owners.get(key, session) is not session:
            return [(session, Answer(request.id, False, self.revision, there))]
        if request.value is not None:
            return self._write(session, request.id, key, request.value)
        changes = self._delete(run, key, True, "") if there else []
        return [(session, Answer(request.id, True, self.revision)), *changes]

    def _lease(self, session: Session, request: Lease) -> Out:
        run, key = session.run, request.key
        there = run.entries.get(key)
        owner = run.owners.get(key)
        if request.ttl > 0 and request.value is None:
            return [(session, Answer(request.id, False, self.revision, error="a lease needs a value"))]
        if request.ttl > 0 and owner in (None, session):
            session.leases[key] = request.ttl
            run.owners[key] = session
            self._arm(session, session.heard)
            return self._write(session, request.id, key, request.value)
        if request.ttl > 0 or (there is not None and owner is not session):
            return [(session, Answer(request.id, False, self.revision, there))]
        reason = request.value if isinstance(request.value, str) else ""
        changes = self._delete(run, key, True, reason) if there else []
        return [(session, Answer(request.id, True, self.revision)), *changes]

    def _write(self, session: Session, number: int, key: str, value: Json) -> Out:
        run = session.run
        self.revision += 1
        there = run.entries.get(key)
        entry = Entry(key, value, self.revision, there.created if there else self.revision)
        run.put(entry)
        answer = Answer(number, True, self.revision, created=entry.created)
        return [(session, answer), *_told(run, entry)]

    def _delete(self, run: Run, key: str, left: bool, reason: str) -> Out:
        self.revision += 1
        return _told(run, Entry(key, None, self.revision, run.drop(key).created, left, reason))

    # Time

    def _arm(self, session: Session, now: float) -> None:
        """See to it that ``expire`` looks at ``session`` when its next lease, or itself, would be over."""
        if session.ttl == FOREVER:
            return
        spans = (session.ttl, *session.leases.values())
        due = min(end for span in spans if (end := session.heard + span) > now)
        if due < session.due:
            session.due = due
            self._armed += 1
            heapq.heappush(self._due, (due, self._armed, session))

    def _silent(self, session: Session, now: float) -> Out:
        """Look at a session whose time may be over: it may have been heard of since."""
        out: Out = []
        reason = f"unheard of for {now - session.heard:.1f} s"
        over = session.heard + max((session.ttl, *session.leases.values())) <= now
        for key, ttl in tuple(session.leases.items()):
            if session.heard + ttl <= now:
                out += self._delete(session.run, key, False, reason)
        if over:
            # It may hear us though we do not hear it: the others go on without it from now, so it has no time left.
            last = Dropped(reason, now - session.heard)
            return [*out, (session, last), *self.leave(session, False, reason, now)]
        session.due = FOREVER
        self._arm(session, now)
        return out

    def _forget_watches(self, session: Session) -> None:
        watches = session.run.watches
        for prefix in session.prefixes:
            del watches[prefix][session]
            if not watches[prefix]:
                del watches[prefix]
        session.prefixes.clear()


def _told(run: Run, entry: Entry) -> Out:
    message = Changed(entry)
    return [(session, message) for session in run.watchers(entry.key)]


def _nobody(_message: Message) -> None:
    """Deliver nothing: nobody has taken the session up yet."""
