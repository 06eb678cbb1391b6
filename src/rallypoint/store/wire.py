"""Messages as bytes: framing and checking, without I/O.

Each side first sends the preface, ``RLY1`` (its first byte tells it from torch's TCPStore on a shared
port, which starts with 0), then messages: the length in 4 bytes, big-endian, and JSON, an object
whose ``op`` names the message. Never pickle. With a token (``store/token.py``) ``hello`` is answered by a challenge,
and that by a proof, before the ``welcome``.
"""

from __future__ import annotations

import json
from struct import Struct

from rallypoint.model.errors import ProtocolError
from rallypoint.store import messages
from rallypoint.store.api import MAX_KEY, Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from rallypoint.store.messages import Message

    Schema = Mapping[str, type[Message]]

PREFACE = b"RLY1"
STRANGER_LIMIT = 64 << 10
"""Bytes that one message may have before its sender has said hello."""
SESSION_LIMIT = 64 << 20
"""Bytes that one message to the store may have."""
ANSWER_LIMIT = 1 << 30
"""Bytes that one message from the store may have: many values may answer one read."""

_LENGTH = Struct(">I")

REQUESTS: Schema = {
    "hello": messages.Hello,
    "proof": messages.Proof,
    "read": messages.Read,
    "swap": messages.Swap,
    "lease": messages.Lease,
    "watch": messages.Watch,
    "ping": messages.Ping,
    "ask": messages.Ask,
    "bye": messages.Bye,
}
ANSWERS: Schema = {
    "welcome": messages.Welcome,
    "challenge": messages.Challenge,
    "refused": messages.Refusal,
    "answer": messages.Answer,
    "listing": messages.Listing,
    "changed": messages.Changed,
    "pong": messages.Pong,
    "vote": messages.Vote,
    "elsewhere": messages.Elsewhere,
    "dropped": messages.Dropped,
}
_NAMES = {kind: name for schema in (REQUESTS, ANSWERS) for name, kind in schema.items()}


def encode(message: Message) -> bytes:
    """Return the frame of ``message``. Raises ValueError for numbers that JSON does not have (NaN)."""
    body = _write({"op": _NAMES[type(message)], **message.as_dict()}).encode()
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes, schema: Schema) -> Message:
    """Read one message of ``schema``. Raises ProtocolError, naming what is wrong, for anything else.

    Unknown fields are left out: a newer version may have written them.
    """
    try:
        content = _read(body.decode())
    except RecursionError:
        raise ProtocolError("JSON nested too deeply") from None
    except ValueError as error:  # also UnicodeDecodeError and JSONDecodeError
        raise ProtocolError(f"no JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(name := content.get("op"), str) or name not in schema:
        raise ProtocolError(f"no message that is expected here: {body[:80]!r}")
    kind = schema[name]
    found: dict[str, Any] = {}
    for field in kind._fields:
        if field in content:
            found[field] = _checked(name, field, kind.__annotations__[field], content[field])
        elif field not in kind._defaults:
            raise ProtocolError(f"{name}: {field} is missing")
    return kind(**found)


class Framer:
    """Cuts a stream of bytes into messages, however it is split. ``limit`` may be changed between messages."""

    def __init__(self, schema: Schema, limit: int) -> None:
        self.limit = limit
        self._schema = schema
        self._buffer = bytearray()
        self._greeted = False

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that ``data`` completes. Raises ProtocolError; then the connection is of no more use."""
        self._buffer += data
        if not self._greeted and not self._greet():
            return
        while len(self._buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer)
            if size > self.limit:
                raise ProtocolError(f"a message of {size} bytes, at most {self.limit} are allowed")
            end = _LENGTH.size + size
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[_LENGTH.size : end])
            del self._buffer[:end]
            yield decode(body, self._schema)

    def _greet(self) -> bool:
        size = len(PREFACE)
        if self._buffer[:size] != PREFACE[: len(self._buffer)]:
            raise ProtocolError(f"no Rallypoint: it began with {bytes(self._buffer[:60])!r}")
        self._greeted = len(self._buffer) >= size
        if self._greeted:
            del self._buffer[:size]
        return self._greeted

    def __repr__(self) -> str:
        return f"<Framer {len(self._buffer)} bytes held, {'greeted' if self._greeted else 'no preface yet'}>"


def _entry_list(value: Any) -> list[Any]:
    """Write an Entry as a list: names would be most of a long listing."""
    if type(value) is not Entry:
        raise TypeError(f"{type(value).__name__} cannot be written in JSON")
    return [value.key, value.value, value.revision, value.created, value.left, value.reason]


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number in JSON")


def _checked(name: str, field: str, kind: str, value: Any) -> Any:
    check = _CHECKS[kind]
    if field in ("key", "prefix") and not (isinstance(value, str) and len(value) <= MAX_KEY):
        raise ProtocolError(f"{name}: {field} has to be a string of at most {MAX_KEY} characters")
    try:
        return check(value)
    except (TypeError, ValueError):
        raise ProtocolError(f"{name}: {field} is {repr(value)[:80]}, not {kind}") from None


def _exact(kind: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError
        return value

    return check


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e12:
        raise TypeError
    return float(value)


def _entry(value: Any) -> Entry:
    key, content, revision, created, left, reason = value
    if not [type(key), type(revision), type(created), type(left), type(reason)] == [str, int, int, bool, str]:
        raise TypeError
    return Entry(key, content, revision, created, left, reason)


def _entries(value: Any) -> tuple[Entry, ...]:
    return tuple([_entry(v) for v in value])


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "str": _exact(str),
    "int": _exact(int),
    "bool": _exact(bool),
    "float": _number,
    "Json": lambda value: value,
    "Entry": _entry,
    "Entry | None": lambda value: None if value is None else _entry(value),
    "tuple[Entry, ...]": _entries,
}
# ASCII output carries any string (also half surrogates from undecodable host names) through any split.
_write = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_entry_list).encode
_read = json.JSONDecoder(parse_constant=_no_number).decode
