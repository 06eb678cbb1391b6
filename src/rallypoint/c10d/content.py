"""What the clients of one worker store share: values, queues, and who waits for what."""

from __future__ import annotations

from rallypoint.model.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque

    from rallypoint.c10d.codec import Session

STOP_WAITING = b"\x00"
"""The reply to a WAIT or BARRIER that is fulfilled."""
_LOWEST, _HIGHEST = -(1 << 63), (1 << 63) - 1


class Content:
    """Keys and values, queues, and the sessions that wait.

    A value is kept as what is cheapest to change: an ``int`` after ADD, a ``bytearray`` after
    APPEND; ``read`` turns it into the bytes that it stands for. ``woken`` lists sessions that have
    new replies in ``out`` because of another one's request.
    """

    def __init__(self) -> None:
        self.values: dict[bytes, bytes | bytearray | int] = {}
        self.queues: dict[bytes, deque[bytes]] = {}
        self.waiters: dict[bytes, dict[Session, None]] = {}  # a dict keeps the order of arrival
        self.woken: list[Session] = []

    def has(self, key: bytes) -> bool:
        return key in self.values or key in self.queues

    def read(self, key: bytes) -> bytes:
        """The value of ``key``, empty if it is absent; the result never changes, and is one object for all readers."""
        value = self.values.get(key, b"")
        if type(value) is not bytes:
            value = self.values[key] = b"%d" % value if isinstance(value, int) else bytes(value)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        """Set ``key`` and wake those who wait for it."""
        self.values[key] = value
        if key in self.waiters:
            self.wake(key)

    def append(self, key: bytes, value: bytes) -> None:
        """Add to the end of the value of ``key``, in place: a long value may be built of many pieces."""
        found = self.values.get(key)
        if not isinstance(found, bytearray):
            found = self.values[key] = bytearray(self.read(key))
        found += value
        if key in self.waiters:
            self.wake(key)

    def add(self, key: bytes, delta: int) -> int:
        """Add to a decimal number (an absent one is 0), in 64 bits, and wake those who wait for ``key``.

        Raises ProtocolError if the value is no number.
        """
        number = self.values.get(key, 0)
        total = delta + (number if type(number) is int else _number(key, self.read(key)))
        if not _LOWEST <= total <= _HIGHEST:
            total = (total - _LOWEST) % (1 << 64) + _LOWEST  # wraps, as in C++
        self.values[key] = total
        if key in self.waiters:
            self.wake(key)
        return total

    def wake(self, key: bytes, one: bool = False) -> None:
        """Tell those who wait for ``key`` that it is there; with ``one``, stop at the first one set free."""
        waiting = self.waiters.get(key)
        while waiting:
            session = next(iter(waiting))
            if session.arrived(key):
                session.out.append(STOP_WAITING)
                self.woken.append(session)
                if one:
                    return

    def deliver(self) -> None:
        """Have the replies of those who were woken sent."""
        woken, self.woken = self.woken, []
        for session in woken:
            session.flush()

    def __repr__(self) -> str:
        return f"<Content {len(self.values)} keys, {len(self.queues)} queues, {len(self.waiters)} keys awaited>"


def _number(key: bytes, value: bytes) -> int:
    """Read a decimal number as C++'s ``stoll`` does: what follows the digits is ignored."""
    import re

    digits = re.match(rb"\s*[+-]?\d{1,20}", value)
    number = int(digits[0]) if digits else _HIGHEST + 1
    if not _LOWEST <= number <= _HIGHEST:
        raise ProtocolError(f"add to {key!r}, whose value {value[:32]!r} is not a 64-bit number")
    return number
