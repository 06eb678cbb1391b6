"""The wire protocol of torch 2.13's TCPStore, without I/O: bytes in, replies out.

``Session`` is one client: ``feed`` takes its bytes, cut anywhere, and leaves the replies in ``out``.
A request that wakes other clients leaves a reply in their ``out`` too and names them in
``Content.woken``.

Laws:
- A client first sends VALIDATE and the magic number. Anything else is no client of ours.
- A request is one byte of operation, then its fields: a 64-bit count before a list, a 64-bit
  length before each key and value, little-endian. Replies come in the order of the requests,
  except that WAIT and BARRIER answer when they are fulfilled.
- SET, APPEND, MULTI_SET and QUEUE_PUSH have no reply.
- WAIT answers once each of its keys has been there at some moment since; a queue that is not
  empty counts as a key, and a push wakes one client only. CANCEL_WAIT ends a wait and always
  has a reply, even if the wait was answered just before.
- The semantics are those of torch's own (libuv) server: an absent key reads as empty;
  COMPARE_SET on an absent key answers with the expected value; numbers of keys include
  torch's own ``init/``, but not queues.
"""

from __future__ import annotations

from collections import deque
from struct import Struct, error

from rallypoint.c10d.content import STOP_WAITING, Content
from rallypoint.model.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    Reading = Generator[int, bytes, Any]
    """Yields how many bytes it needs next and is sent exactly those."""

MAX_KEY = 1 << 20
"""Longest key in bytes."""
MAX_VALUE = 1 << 30
"""Longest value in bytes."""
MAX_KEYS = 128 * 1024
"""Most keys in one request (torch's own limit)."""
MAX_PIECES = 16 * 1024
"""With so many pieces of replies unread, no further list may be asked for: what one client can pile up is bounded."""
GREETING = b"\x00\xce\xf7\x85\x3c"
"""VALIDATE and its magic number: the first bytes of every client."""

_SET, _GET, _ADD, _WAIT = 1, 3, 4, 6
_READY, _NOT_READY = b"\x00", b"\x01"
_WAIT_CANCELED = b"\x01"
_SIZE = Struct("<Q")
_NUMBER = Struct("<q")
_size_at, _number_at, _pack_number = _SIZE.unpack_from, _NUMBER.unpack_from, _NUMBER.pack
_CUT = (error, OverflowError)
"""What unpacking raises beyond the end of the bytes, or at an absurd place."""
_COPIED = 4096
"""Values up to this size are copied behind their length; longer ones are sent from where they are."""


class Session:
    """One client of ``content``. ``out`` holds its replies, in pieces; whoever sends them removes them."""

    __slots__ = ("_awaited", "_content", "_have", "_need", "_pieces", "_reading", "flush", "out")

    def __init__(self, content: Content, flush: Callable[[], object]) -> None:
        self._content = content
        self.flush = flush
        """How the driver sends ``out`` of a session that another one woke."""
        self.out: list[bytes | memoryview] = []
        self._awaited: set[bytes] | None = None
        self._reading: Reading | None = None  # the request being read; None before the greeting
        self._need = len(GREETING)  # bytes that it needs next; 0 between requests
        self._have = 0
        self._pieces: list[bytes] | None = None  # of those, what has come so far

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of this client, cut anywhere. Raises ProtocolError: then ``drop`` the session."""
        # What training loops call most is done here, in few steps, if it lies whole in the chunk; the
        # rest, and whatever is cut, by a Reading. The two must agree (tests compare them).
        end = len(chunk)
        if end > MAX_KEY:  # in parts, so that no key below can be too long
            self._feed_parts(chunk)
            return
        content, out = self._content, self.out
        at = self._resume(chunk, 0) if self._need else 0
        while at < end:
            operation = chunk[at]
            try:
                if operation == _ADD:
                    key_end = at + 9 + _size_at(chunk, at + 1)[0]
                    out.append(_pack_number(content.add(chunk[at + 9 : key_end], _number_at(chunk, key_end)[0])))
                    at = key_end + 8
                    continue
                if operation == _WAIT:
                    key_end = at + 17 + _size_at(chunk, at + 9)[0]
                    if (
                        chunk[at + 17 : key_end] in content.values
                        and key_end <= end
                        and _size_at(chunk, at + 1)[0] == 1
                    ):
                        out.append(STOP_WAITING)
                        at = key_end
                        continue
                elif operation == _GET:
                    if (key_end := at + 9 + _size_at(chunk, at + 1)[0]) <= end:
                        self._say(content.read(chunk[at + 9 : key_end]))
                        at = key_end
                        continue
                elif operation == _SET and (after := self._sets(chunk, at, end)) > at:
                    at = after
                    continue
            except _CUT:
                pass
            self._begin(operation)
            at = self._resume(chunk, at + 1)

    def _feed_parts(self, chunk: bytes) -> None:
        for at in range(0, len(chunk), MAX_KEY):
            self.feed(chunk[at : at + MAX_KEY])

    def _sets(self, chunk: bytes, at: int, end: int) -> int:
        """Do the SETs that lie whole at ``at``; return where they end. They come in bulk, for they have no reply."""
        size_at, values, waiters = _size_at, self._content.values, self._content.waiters
        while at + 17 <= end and chunk[at] == _SET:
            key_at = at + 9
            key_end = key_at + size_at(chunk, at + 1)[0]
            value_at = key_end + 8
            if value_at > end:
                break
            value_end = value_at + size_at(chunk, key_end)[0]
            if value_end > end:
                break
            at = value_end
            key = chunk[key_at:key_end]
            values[key] = chunk[value_at:value_end]
            if waiters and key in waiters:
                self._content.wake(key)
        return at

    @property
    def missing(self) -> int:
        """Bytes still needed to get on with a request that has begun; 0 if none has."""
        return self._need - self._have

    def drop(self) -> None:
        """Forget this client: it waits for nothing any more."""
        self._stop_waiting()
        self.out.clear()
        self._reading = self._pieces = None

    def arrived(self, key: bytes) -> bool:
        """``key`` is there: stop waiting for it. True if it was the last one."""
        waiting = self._content.waiters[key]
        del waiting[self]
        if not waiting:
            del self._content.waiters[key]
        awaited = self._awaited
        if awaited is not None:
            awaited.discard(key)
            if not awaited:
                self._awaited = None
        return not awaited

    def __repr__(self) -> str:
        state = f"waits for {len(self._awaited)} keys" if self._awaited else "idle"
        if self._need:
            state = f"has sent {self._have} of {self._need} bytes" if self._reading else "not greeted"
        return f"<Session {state}, {len(self.out)} pieces to send>"

    def _resume(self, chunk: bytes, at: int) -> int:
        """Give the request being read what it needs from ``chunk[at:]``; return where the next request begins."""
        end = len(chunk)
        while True:
            missing = self._need - self._have
            if at + missing > end:
                # Pieces are joined once, when all have come: a long value costs one copy.
                if self._pieces is None:
                    self._pieces = []
                self._pieces.append(chunk[at:])
                self._have += end - at
                return end
            data = chunk[at : at + missing]
            at += missing
            if self._pieces is not None:
                self._pieces.append(data)
                data = b"".join(self._pieces)
                self._pieces = None
            self._have = 0
            try:
                if self._reading is not None:
                    self._need = self._reading.send(data)
                    continue
                if data != GREETING:
                    raise ProtocolError(f"{data!r} instead of the greeting of a TCPStore client")
            except StopIteration:
                self._reading = None
            self._need = 0
            return at

    def _begin(self, operation: int) -> None:
        reading = _OPERATIONS.get(operation)
        if reading is None:
            raise ProtocolError(f"{operation} is no operation of a TCPStore")
        if len(self.out) > MAX_PIECES:
            raise ProtocolError(f"more requests while {len(self.out)} pieces of replies wait to be read")
        self._reading = reading(self)
        self._need = next(self._reading)

    def _say(self, value: bytes) -> None:
        """Reply with a value (or key) behind its length."""
        if len(value) <= _COPIED:
            self.out.append(_SIZE.pack(len(value)) + value)
        else:
            self.out += (_SIZE.pack(len(value)), value)

    def _count(self, number: int) -> None:
        self.out.append(_NUMBER.pack(number))

    def _stop_waiting(self) -> None:
        for key in self._awaited or ():
            waiting = self._content.waiters[key]
            del waiting[self]
            if not waiting:
                del self._content.waiters[key]
        self._awaited = None

    def _wait_for(self, keys: set[bytes]) -> None:
        # A client waits for one thing at a time: a new wait follows one that it gave up.
        self._stop_waiting()
        self._awaited = keys
        for key in keys:
            self._content.waiters.setdefault(key, {})[self] = None

    # Fields, as Readings.

    def _key(self) -> Reading:
        size = _SIZE.unpack((yield 8))[0]
        if size > MAX_KEY:
            raise ProtocolError(f"a key of {size} bytes (at most {MAX_KEY})")
        return (yield size)

    def _value(self) -> Reading:
        size = _SIZE.unpack((yield 8))[0]
        if size > MAX_VALUE:
            raise ProtocolError(f"a value of {size} bytes (at most {MAX_VALUE})")
        return (yield size)

    def _size_of_list(self) -> Reading:
        size = _SIZE.unpack((yield 8))[0]
        if size > MAX_KEYS:
            raise ProtocolError(f"a list of {size} keys (at most {MAX_KEYS})")
        return size

    def _keys(self) -> Reading:
        keys = []
        for _ in range((yield from self._size_of_list())):
            keys.append((yield from self._key()))
        return keys

    # Operations, as Readings: read the fields, then act.

    def _set(self) -> Reading:
        key = yield from self._key()
        self._content.put(key, (yield from self._value()))

    def _compare_set(self) -> Reading:
        key = yield from self._key()
        expected = yield from self._value()
        desired = yield from self._value()
        if self._content.read(key) == expected:
            self._content.put(key, desired)
        if key in self._content.values:
            self._say(self._content.read(key))
        else:
            self._say(expected)  # torch's answer for an absent key, which its users rely on

    def _get(self) -> Reading:
        key = yield from self._key()
        self._say(self._content.read(key))

    def _add_number(self) -> Reading:
        key = yield from self._key()
        self._count(self._content.add(key, _NUMBER.unpack((yield 8))[0]))

    def _check(self) -> Reading:
        keys = yield from self._keys()
        self.out.append(_READY if all(map(self._content.has, keys)) else _NOT_READY)

    def _wait(self) -> Reading:
        keys = yield from self._keys()
        missing = {key for key in keys if not self._content.has(key)}
        if missing:
            self._wait_for(missing)
        else:
            self.out.append(STOP_WAITING)

    def _num_keys(self) -> Reading:
        yield 0
        self._count(len(self._content.values))

    def _delete_key(self) -> Reading:
        key = yield from self._key()
        self._count(0 if self._content.values.pop(key, None) is None else 1)

    def _append(self) -> Reading:
        key = yield from self._key()
        value = yield from self._value()
        self._content.append(key, value)

    def _multi_get(self) -> Reading:
        for key in (yield from self._keys()):
            self._say(self._content.read(key))

    def _multi_set(self) -> Reading:
        pairs = []
        for _ in range((yield from self._size_of_list())):
            key = yield from self._key()
            pairs.append((key, (yield from self._value())))
        for key, value in pairs:
            self._content.put(key, value)

    def _cancel_wait(self) -> Reading:
        yield 0
        self._stop_waiting()
        self.out.append(_WAIT_CANCELED)

    def _ping(self) -> Reading:
        self.out.append((yield 4))

    def _queue_push(self) -> Reading:
        key = yield from self._key()
        value = yield from self._value()
        self._content.queues.setdefault(key, deque()).append(value)
        self._content.wake(key, one=True)

    def _queue_pop(self) -> Reading:
        key = yield from self._key()
        queue = self._content.queues.get(key)
        self._count(len(queue) if queue else 0)
        if queue:
            self._say(queue.popleft())
            if not queue:
                del self._content.queues[key]

    def _queue_len(self) -> Reading:
        key = yield from self._key()
        self._count(len(self._content.queues.get(key, ())))

    def _list_keys(self) -> Reading:
        yield 0
        self._count(len(self._content.values))
        for key in self._content.values:
            self._say(key)

    def _barrier(self) -> Reading:
        key = yield from self._key()
        expected = _NUMBER.unpack((yield 8))[0]
        if self._content.add(key, 1) >= expected:
            self._content.wake(key)
            self.out.append(STOP_WAITING)
        else:
            self._wait_for({key})


_OPERATIONS: dict[int, Callable[[Session], Reading]] = {
    _SET: Session._set,
    2: Session._compare_set,
    _GET: Session._get,
    _ADD: Session._add_number,
    5: Session._check,
    _WAIT: Session._wait,
    7: Session._num_keys,
    8: Session._delete_key,
    9: Session._append,
    10: Session._multi_get,
    11: Session._multi_set,
    12: Session._cancel_wait,
    13: Session._ping,
    14: Session._queue_push,
    15: Session._queue_pop,
    16: Session._queue_len,
    17: Session._list_keys,
    18: Session._barrier,
}
