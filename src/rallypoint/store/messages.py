"""What a store's user and a store say to each other, whatever carries it.

The annotations are the schema: ``wire`` checks what came over the network against them.
"""

from __future__ import annotations

from rallypoint.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.store.api import Entry, Json

PROTOCOL = 1
"""Goes up with each change that an older peer would misread."""


TOKEN = "the run token"
"""The field of a ``Refusal`` for want of the right one."""


class Message(Value):
    """Base of all messages."""


class Hello(Message):
    """The first message of a connection.

    ``session`` is a secret name of the user's own making: a second connection with it takes over the
    leases of the first, if that one still lives. ``ttl``: seconds of silence after which the session
    ends. ``version`` (of Rallypoint) must be the same for all nodes of a run.
    ``attempt`` counts the connections of the session: one that a store which was stopped finds in its queue
    may be long dead, and must not take over from a later one. ``nonce``: the node has a token, and wants the
    store to prove that it knows it ("": it has none). ``endpoints``: all that the store may be served at, if there
    are several; ``seat``: which of them asks for votes here (-1: no seat does, a node wants the store).
    """

    protocol: int
    version: str
    run: str
    node: str
    ttl: float
    session: str
    attempt: int = 0
    nonce: str = ""
    endpoints: str = ""
    seat: int = -1


class Proof(Message):
    """Answers ``Challenge``: the node knows the token too."""

    proof: str


class Read(Message):
    """Asks for all keys below ``prefix``; answered by ``Answer``, as are ``Swap`` and ``Lease``."""

    id: int
    prefix: str


class Swap(Message):
    """Asks for a write at a revision."""

    id: int
    key: str
    expected: int
    value: Json


class Lease(Message):
    """Asks for a write under a lease, or (``ttl`` 0) gives it back."""

    id: int
    key: str
    ttl: float
    value: Json


class Watch(Message):
    """Asks for ``Changed`` from now on; answered by ``Listing``."""

    id: int
    prefix: str


class Ping(Message):
    """Says "I live"; answered by ``Pong``."""


class Ask(Message):
    """A seat asks another for its vote (see ``seats/election.py``). ``want``: LOOK, PROMISE, CLEAN or RELEASE.

    Answered by ``Vote``, but for RELEASE.
    """

    id: int
    want: str


LOOK = "look"
"""Would you promise yourself to me?"""
PROMISE = "promise"
"""Do; or, if you have, do so for longer."""
CLEAN = "clean"
"""As PROMISE, and nobody who lives has any promise of an earlier life of yours."""
RELEASE = "release"
"""I count on you no more."""


class Bye(Message):
    """Ends the session; its leases are given back."""


class Welcome(Message):
    """Answers ``Hello``. ``epoch`` names this life of the store; ``resumed``: leases of before were taken over.

    ``now``: the store's time of day (seconds since 1970; 0: not told).
    """

    revision: int
    epoch: int
    resumed: bool
    now: float = 0.0


class Challenge(Message):
    """Answers ``Hello`` if there is a token: the store proves that it knows it, and wants the node's proof."""

    nonce: str
    proof: str


class Refusal(Message):
    """Answers ``Hello``: ``field`` is ``mine`` at the one who asked, ``theirs`` in the store."""

    field: str
    mine: str
    theirs: str


class Answer(Message):
    """Answers the request ``id``. ``created`` (0: no key now) spares sending back a value just written."""

    id: int
    ok: bool
    revision: int
    entry: Entry | None = None
    entries: tuple[Entry, ...] = ()
    created: int = 0
    error: str = ""


class Listing(Message):
    """Answers the watch ``id``: all that is there."""

    id: int
    revision: int
    entries: tuple[Entry, ...]


class Changed(Message):
    """Tells every session with a matching watch of a change; the same for all, so it is encoded once."""

    entry: Entry


class Pong(Message):
    """Answers ``Ping``."""


class Vote(Message):
    """Answers ``Ask``. ``fresh``: has had no part in any election in its life.

    ``holder``: the seat that serves, or -1.
    """

    id: int
    yes: bool
    fresh: bool
    holder: int


class Elsewhere(Message):
    """Answers ``Hello``: the store is not served here but at seat ``holder`` (-1: nowhere yet); ``held`` seats are."""

    holder: int
    held: int


class Dropped(Message):
    """The store has ended the session, and says why; the connection closes.

    ``silent``: seconds for which what it said may not have been the truth.
    """

    reason: str
    silent: float = 0.0
