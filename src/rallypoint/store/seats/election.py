"""Which of several endpoints serves the store: one seat's part in the election. No I/O and no clock.

Every endpoint that somebody listens at is a seat, and has a vote. A seat serves while a majority of all
endpoints that are listed, itself counted, has promised it not to serve another. Promises run out, so nobody has to
be reached for one to end (as leases do: Gray and Cheriton, SOSP 1989). That there are never two that serve at
a time is proven in docs/design.md, from these rules:

1. A seat promises itself to one holder at a time, for ``tenure`` seconds from when it was asked; the holder counts
   on ``SAFE * tenure`` from before it asked. So clocks may differ in what they show, and a little in speed.
2. A seat that has just begun may have promised itself in an earlier life. It promises nothing for a tenure, unless
   there was a moment at which all seats were held and none had promised or asked for anything in its life.
3. A promise ends early when its holder says so, or when the holder's end closes the connection that it was
   given over: then the holder has died, or has struck it off before. Connections of one process are numbered, and
   nothing that is still under way over an earlier one counts once a later one was heard.
"""

from __future__ import annotations

from rallypoint.model.value import Value
from rallypoint.store.messages import CLEAN, LOOK, PROMISE, RELEASE, Ask, Vote

TYPE_CHECKING = False
if TYPE_CHECKING:
    Asks = list[tuple[int, Ask]]

SAFE = 0.9
"""The part of a promise that its holder counts on: one clock may go up to a tenth faster than another."""
PATIENCE = 0.5
"""Seconds that the answers to one question may take."""
RETRY = (0.05, 1.0)
"""Seconds until a seat looks again: doubled from the first to the second."""
STAGGER = 0.2
"""Seconds that a seat gives to each linked one before it in the list: the next listed takes over."""
NOBODY = -1
IDLE, LOOKING, ASKING, SERVING = "idle", "looking", "asking", "serving"


class Promise(Value):
    """To which seat and process, until when; ``way`` is the number of the connection that it was given over last."""

    seat: int
    holder: str
    until: float
    way: int


class Election:
    """Seat number ``seat`` of ``count``, in the process that is called ``name`` (a secret of its own).

    ``answer`` is the voter. ``linked`` and ``unlinked`` say whom this seat can ask, ``voted`` takes their answers;
    ``step`` returns what to ask whom, and is due after every other call and at ``wake_at``. ``now`` is in seconds, of
    a clock that also counts while the machine is suspended.
    """

    def __init__(self, seat: int, count: int, name: str, tenure: float, now: float) -> None:
        self.seat = seat
        self.majority = count // 2 + 1
        self._count = count
        self._name = name
        self._tenure = tenure
        self._state = IDLE
        self._due: float | None = now
        self._retry = RETRY[0]
        self._promise: Promise | None = None
        self._quiet_until = now + tenure
        self._fresh = True  # has promised and asked for nothing in its life
        self._hint = (NOBODY, 0.0)  # who asked last, and until when it may serve
        self._links: set[int] = set()
        self._unasked: set[int] = set()
        self._question = Ask(0, RELEASE)  # an answer to an earlier one counts for nothing
        self._asked_at = now
        self._votes: dict[int, Vote] = {}
        self._grants: dict[int, float] = {}  # seat -> when the promise that it gave was asked for

    # What others want to know

    @property
    def held(self) -> int:
        """How many seats are held, as far as this one sees."""
        return len(self._links) + 1

    def active(self, now: float) -> bool:
        """Say whether this seat serves."""
        return self._state == SERVING and now < self._end

    def holder(self, now: float) -> int:
        """Return the number of the seat that probably serves, or NOBODY."""
        if self.active(now):
            return self.seat
        if self._promise is not None and now < self._promise.until and self._promise.holder != self._name:
            return self._promise.seat
        return self._hint[0] if now < self._hint[1] else NOBODY

    def wake_at(self) -> float | None:
        if self._state == SERVING:
            return min(self._asked_at + self._tenure / 3, self._end)
        return self._due

    # The voter

    def answer(self, seat: int, holder: str, ask: Ask, now: float, way: int = 0) -> Vote | None:
        """Answer what the process ``holder`` at ``seat`` asks over its connection number ``way``."""
        if ask.want == RELEASE:
            self.closed(seat, holder, now, way)
        if ask.want == RELEASE or self._late(holder, way):
            return None
        yes = self._free_for(holder, now)
        if ask.want != LOOK:
            if ask.want == CLEAN and self._fresh:
                yes, self._quiet_until = True, now
            if yes:
                self._promise = Promise(seat, holder, now + self._tenure, way)
                self._fresh = False
            if seat != self.seat:
                self._hint = (seat, now + self._tenure)
        return Vote(ask.id, yes, self._fresh, self.holder(now))

    def closed(self, seat: int, holder: str, now: float, way: int) -> None:
        """The other end has closed connection number ``way``, over which ``holder`` at ``seat`` asked."""
        if self._late(holder, way):
            return
        if self._promise is not None and self._promise.holder == holder:
            self._promise = None
        if self._hint[0] == seat:
            self._hint = (NOBODY, 0.0)
        if self._state == IDLE:
            self._retry = RETRY[0]
            self._due = now + self._turn()

    def _late(self, holder: str, way: int) -> bool:
        """Whether this was sent over an earlier connection than the one that our promise was given over."""
        return self._promise is not None and self._promise.holder == holder and way < self._promise.way

    def _free_for(self, holder: str, now: float) -> bool:
        if self._promise is not None and now < self._promise.until:
            return self._promise.holder == holder
        return now >= self._quiet_until

    # The candidate

    def linked(self, seat: int, now: float) -> None:
        """Questions reach ``seat`` now, a process that was not linked before."""
        self._links.add(seat)
        if self._state in (ASKING, SERVING):
            self._unasked.add(seat)
        else:
            self._state = IDLE
            self._due = now + self._turn()

    def unlinked(self, seat: int, now: float) -> None:
        """The connection to ``seat`` is about to be closed, or is gone: what it promised over it counts no more."""
        self._links.discard(seat)
        self._unasked.discard(seat)
        self._votes.pop(seat, None)
        self._grants.pop(seat, None)
        if self._hint[0] == seat:
            self._hint = (NOBODY, 0.0)
        if self._state == IDLE:
            self._due = now + self._turn()

    def voted(self, seat: int, vote: Vote, now: float) -> None:
        """Take in an answer of ``seat``."""
        if self._state == IDLE or vote.id != self._question.id or seat not in self._links:
            return
        self._votes[seat] = vote
        if self._state == LOOKING:
            if self._votes.keys() >= self._links:
                self._due = now
            return
        if vote.yes:
            self._grants[seat] = self._asked_at
        else:
            self._grants.pop(seat, None)
        if self._state == ASKING:
            if len(self._grants) >= self.majority:
                self._state, self._due, self._retry = SERVING, None, RETRY[0]
            elif self._votes.keys() >= self._links:
                self._due = now

    def step(self, now: float) -> Asks:
        """Return what to ask which seat now."""
        if self._state == SERVING:
            return self._hold(now)
        if self._due is None or now < self._due:
            return []
        if self._state == LOOKING:
            return self._looked(now)
        if self._state == ASKING:
            return self._give_up(now)
        wait = self._others_time(now)
        if self.held >= self.majority and wait <= now:
            self._state = LOOKING
            return self._put(LOOK, now)
        self._due = None if self.held < self.majority else wait + self._turn()
        return []

    def _hold(self, now: float) -> Asks:
        if now >= self._end:
            return self._give_up(now)
        if now >= self._asked_at + self._tenure / 3:
            return self._put(PROMISE, now)
        late, self._unasked = self._unasked, set()
        # Counted from when it was first put. Never as CLEAN: who came later had no part in that moment.
        question = self._question.replace(want=PROMISE)
        return [(seat, question) for seat in sorted(late)]

    def _looked(self, now: float) -> Asks:
        votes = self._votes
        clean = self._fresh and len(votes) == self._count - 1 and all(vote.fresh for vote in votes.values())
        free = self._free_for(self._name, now) + sum(vote.yes for vote in votes.values())
        for vote in votes.values():
            if 0 <= vote.holder < self._count and vote.holder != self.seat and not clean:
                self._hint = (vote.holder, now + self._retry)
        self._state = IDLE
        if not clean and free < self.majority:
            return self._pause(now)
        self._state = ASKING
        self._fresh = self._fresh and clean  # else our own vote, which is the first, could not be clean
        return self._put(CLEAN if clean else PROMISE, now)

    def _put(self, want: str, now: float) -> Asks:
        self._question = Ask(self._question.id + 1, want)
        self._asked_at = now
        self._votes.clear()
        self._unasked.clear()
        if want != LOOK:
            if self._state == ASKING:
                self._grants.clear()
            own = self.answer(self.seat, self._name, self._question, now)
            self._fresh = False
            if own is not None and own.yes:
                self._grants[self.seat] = now
        self._due = now + PATIENCE
        return [(seat, self._question) for seat in sorted(self._links)]

    def _give_up(self, now: float) -> Asks:
        """Stop serving, or trying to: first forget what was promised to us, then say so."""
        self._state = IDLE
        self._grants.clear()
        self._question = Ask(self._question.id + 1, RELEASE)
        if self._promise is not None and self._promise.holder == self._name:
            self._promise = None
        self._pause(now)
        return [(seat, self._question) for seat in sorted(self._links)]

    def _pause(self, now: float) -> Asks:
        self._due = now + self._retry * (1 + self._turn())
        self._retry = min(2 * self._retry, RETRY[1])
        return []

    def _turn(self) -> float:
        return STAGGER * sum(seat < self.seat for seat in self._links)

    def _others_time(self, now: float) -> float:
        """Return until when another seat may serve, as far as this one knows."""
        promise = self._promise
        promised = promise.until if promise is not None and promise.holder != self._name else now
        return max(promised, self._hint[1] if self._hint[0] != NOBODY else now)

    @property
    def _end(self) -> float:
        """Until when this seat serves: as long as the last promise counts that makes up a majority."""
        if len(self._grants) < self.majority:
            return 0.0
        return sorted(self._grants.values(), reverse=True)[self.majority - 1] + SAFE * self._tenure

    def __repr__(self) -> str:
        return f"<Election seat {self.seat} of {self._count}, {self._state}, {len(self._grants)} promises>"
