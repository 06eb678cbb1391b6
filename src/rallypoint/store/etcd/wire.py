"""etcd's v3 requests and answers in JSON, as its gRPC gateway maps them. No I/O.

Format: https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/ and etcd's rpc.proto. Bytes are base64, 64-bit numbers
are strings, and what has its default (0, false, empty) is left out.

One run's keys, below ``PREFIX/RUN/``:

    keep        under the run's lease, which lives as long as anybody is in the run and ``KEEP`` seconds longer
    s/SESSION   the version of Rallypoint, under the session's lease
    k/KEY       the keys of ``store.api``: under their owner's lease, or under the run's
    k/KEY 0xff  why KEY was taken away last, written in the same transaction as its end; a key that goes without
                was lost with its owner. (No key ends so: 0xff is not UTF-8.)
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from urllib.parse import quote

from rallypoint.model.errors import ProtocolError
from rallypoint.store.api import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rallypoint.store.api import Json

    Part = dict[str, Any]

KEEP = 60
"""Seconds that a run's keys stay when the last node of it was lost."""
FAREWELL = b"\xff"
DEFAULT_PREFIX = "/rallypoint"


class Names:
    """The names of one run's keys in etcd."""

    def __init__(self, prefix: str, run: str) -> None:
        self.base = f"{prefix.rstrip('/')}/{quote(run, safe='', errors='surrogatepass')}/".encode()
        self.keep = self.base + b"keep"
        self.sessions = self.base + b"s/"
        self.keys = self.base + b"k/"

    def of(self, key: str) -> bytes:
        return self.keys + key.encode("utf-8", "surrogatepass")

    def leased(self, answer: Part) -> list[str]:
        """Return the keys (of ``store.api``) among those of a lease."""
        found = [b64decode(name) for name in answer.get("keys", [])]
        return [self.back(name) for name in found if name.startswith(self.keys)]

    def back(self, name: bytes) -> str:
        return name[len(self.keys) :].decode("utf-8", "surrogatepass")


def end_of(prefix: bytes) -> bytes:
    """Return the first name after all that begin with ``prefix`` (which does not end with 0xff)."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def text(data: bytes) -> str:
    """Write bytes as etcd wants them."""
    return b64encode(data).decode()


def dumps(value: object) -> bytes:
    """Write JSON, in ASCII alone (so lone surrogates survive)."""
    return json.dumps(value, separators=(",", ":")).encode()


# Parts of a transaction


def is_absent(name: bytes) -> Part:
    """Compare: there is no such key."""
    return {"key": text(name), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}


def is_at(name: bytes, revision: int) -> Part:
    """Compare: the key was written last at ``revision``."""
    return {"key": text(name), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def is_leased(name: bytes, lease: int) -> Part:
    """Compare: the key is there, under ``lease``."""
    return {"key": text(name), "target": "LEASE", "result": "EQUAL", "lease": str(lease)}


def none_below(prefix: bytes) -> Part:
    """Compare: there is no key below ``prefix``."""
    return is_absent(prefix) | {"range_end": text(end_of(prefix))}


def put(name: bytes, value: Json, lease: int | None) -> Part:
    """Write ``value`` under ``lease`` (None: the one that it is under)."""
    part: Part = {"key": text(name), "value": text(dumps(value)), "prev_kv": True}
    part |= {"ignore_lease": True} if lease is None else {"lease": str(lease)}
    return {"request_put": part}


def get(name: bytes) -> Part:
    """Read one key."""
    return {"request_range": {"key": text(name)}}


def below(prefix: bytes, **more: object) -> Part:
    """Return a range (of a read, or a watch): all keys below ``prefix``."""
    return {"key": text(prefix), "range_end": text(end_of(prefix)), **more}


def delete(name: bytes, end: bytes = b"") -> Part:
    """Delete a key, or all from ``name`` to before ``end``."""
    return {"request_delete_range": {"key": text(name)} | ({"range_end": text(end)} if end else {})}


def farewell(name: bytes, reason: str, lease: int) -> list[Part]:
    """Take a key away, saying why."""
    return [put(name + FAREWELL, reason, lease), delete(name)]


def either(compare: list[Part], success: list[Part], failure: list[Part]) -> Part:
    """Return a transaction."""
    return {"compare": compare, "success": success, "failure": failure}


def first_of(cases: list[tuple[list[Part], list[Part]]], otherwise: list[Part]) -> Part:
    """Return the transaction that does what stands with the first condition that holds."""
    (compare, success), *rest = cases
    return either(compare, success, [{"request_txn": first_of(rest, otherwise)}] if rest else otherwise)


# The three writes


def swap(names: Names, key: str, expected: int, value: Json, mine: int, run: int) -> Part:
    """Return law 2 as a transaction; ``mine`` and ``run`` are the leases of the session and of the run."""
    name = names.of(key)
    if expected == 0:
        return either([is_absent(name)], [put(name, value, run)] if value is not None else [], [get(name)])
    ours = [put(name, value, None)] if value is not None else farewell(name, "", run)
    cases = [([is_at(name, expected), is_leased(name, lease)], ours) for lease in (run, mine)]
    return first_of(cases, [get(name)])


def lease(names: Names, key: str, value: Json, mine: int, run: int) -> Part:
    """Return law 3 as a transaction: write a key that is free, ours, or under nobody's lease."""
    name = names.of(key)
    free = ([is_absent(name)], [is_leased(name, mine)], [is_leased(name, run)])
    return first_of([(list(case), [put(name, value, mine)]) for case in free], [get(name)])


def give_back(names: Names, key: str, reason: str, mine: int, run: int) -> Part:
    """Return the end of a lease as a transaction."""
    name = names.of(key)
    nothing = either([is_absent(name)], [], [get(name)])
    return either([is_leased(name, mine)], farewell(name, reason, run), [{"request_txn": nothing}])


# Answers


class Done:
    """What a transaction did. ``written``: a put or delete was carried out; ``there``: what was there instead."""

    def __init__(self, names: Names, answer: Part, *, writes: bool) -> None:
        self.revision = revision_of(answer)
        taken, parts = bool(answer.get("succeeded")), answer.get("responses", [])
        while not taken and parts and "response_txn" in parts[0]:
            inner = parts[0]["response_txn"]
            taken, parts = bool(inner.get("succeeded")), inner.get("responses", [])
        self.ok = taken
        self.there: Entry | None = None
        self.created = 0
        if not taken:
            found = [kv for part in parts for kv in part.get("response_range", {}).get("kvs", [])]
            self.there = entry(names, found[0]) if found else None
        elif writes and parts:
            before = parts[0].get("response_put", {}).get("prev_kv", {})
            self.created = int(before.get("create_revision", 0)) or self.revision


def revision_of(answer: Part) -> int:
    """Return the store's revision when it answered."""
    return int(answer.get("header", {}).get("revision", 0))


def value(kv: Part) -> Json:
    """Read the value of a key."""
    found: Json = json.loads(b64decode(kv.get("value", "")))
    return found


def entry(names: Names, kv: Part) -> Entry:
    """Read a key and its value."""
    name, created = b64decode(kv["key"]), int(kv.get("create_revision", 0))
    return Entry(names.back(name), value(kv), int(kv["mod_revision"]), created)


def entries(names: Names, kvs: list[Part]) -> tuple[Entry, ...]:
    """Read what a range holds, but for the farewells."""
    return tuple(entry(names, kv) for kv in kvs if not b64decode(kv["key"]).endswith(FAREWELL))


def changes(names: Names, told: list[Part], ttl: float) -> list[Entry]:
    """Read the events of a watch. A key's farewell, if it has one, is among them: it was written with its end."""
    reasons: dict[tuple[bytes, int], str] = {}
    found: list[Entry] = []
    for event in told:
        kv = event["kv"]
        name, revision = b64decode(kv["key"]), int(kv["mod_revision"])
        gone = event.get("type") == "DELETE"
        if name.endswith(FAREWELL):
            if not gone:
                reasons[name[: -len(FAREWELL)], revision] = str(value(kv))
        elif gone:
            reason = reasons.get((name, revision))
            created = int(event.get("prev_kv", {}).get("create_revision", 0))
            words = f"unheard of for {ttl:g} s" if reason is None else reason
            found.append(Entry(names.back(name), None, revision, created, reason is not None, words))
        else:
            found.append(entry(names, kv))
    return found


def loads(body: bytes) -> Part:
    """Read an answer. Raises ProtocolError for what is none."""
    try:
        answer = json.loads(body)
    except ValueError:
        raise ProtocolError(f"it answers no JSON: {body[:60]!r}") from None
    if not isinstance(answer, dict):
        raise ProtocolError(f"it answers no JSON object: {body[:60]!r}")
    return answer


def error_of(status: int, body: bytes) -> str:
    """Say what a refused request was answered with."""
    try:
        answer = loads(body)
    except ProtocolError:
        return f"HTTP status {status}"
    error = answer.get("error") or answer.get("message")
    if isinstance(error, dict):
        error = error.get("message")
    return str(error or answer.get("message") or f"HTTP status {status}")


def time_of(date: str) -> float:
    """Return the seconds since 1970 that an HTTP date means, in the middle of its second; 0.0 if it is none."""
    import datetime

    try:
        day, name, year, clock = date.split(" ")[1:5]
        hours, minutes, seconds = (int(part) for part in clock.split(":"))
        month = _MONTHS.index(name) + 1
    except ValueError:
        return 0.0
    at = datetime.datetime(int(year), month, int(day), hours, minutes, seconds, 500_000, datetime.UTC)
    return at.timestamp()


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
