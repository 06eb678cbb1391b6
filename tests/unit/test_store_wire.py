"""Messages as bytes: any split, any garbage, any size."""

from __future__ import annotations

import json
import pickle
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rallypoint.model.errors import ProtocolError
from rallypoint.store import messages, wire
from rallypoint.store.api import MAX_KEY, Entry

EVERY = (
    (wire.REQUESTS, messages.Hello(1, "0.1", "run", "n1", 15.0, "secret")),
    (wire.REQUESTS, messages.Read(1, "nodes/")),
    (wire.REQUESTS, messages.Swap(2, "view", 7, {"a": [1, None, "\ud800"]})),
    (wire.REQUESTS, messages.Lease(3, "nodes/a", 15.0, "x")),
    (wire.REQUESTS, messages.Watch(4, "")),
    (wire.REQUESTS, messages.Proof("ab12")),
    (wire.REQUESTS, messages.Ping()),
    (wire.REQUESTS, messages.Ask(7, messages.LOOK)),
    (wire.REQUESTS, messages.Bye()),
    (wire.ANSWERS, messages.Welcome(5, 1, True)),
    (wire.ANSWERS, messages.Challenge("12ab", "ab12")),
    (wire.ANSWERS, messages.Refusal("run id", "a", "b")),
    (wire.ANSWERS, messages.Answer(1, True, 9, Entry("k", 1, 9, 9), (Entry("k", None, 1, 1, True, "bye"),), 9, "e")),
    (wire.ANSWERS, messages.Listing(4, 9, (Entry("k", [1], 9, 9),))),
    (wire.ANSWERS, messages.Changed(Entry("k", {"x": 1.5}, 9, 9))),
    (wire.ANSWERS, messages.Pong()),
    (wire.ANSWERS, messages.Vote(7, True, False, -1)),
    (wire.ANSWERS, messages.Elsewhere(2, 3)),
    (wire.ANSWERS, messages.Dropped("unheard of")),
)


def frame(content):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack(">I", len(body)) + body


def test_every_message_is_covered():
    assert {type(m) for _, m in EVERY} == set(wire.REQUESTS.values()) | set(wire.ANSWERS.values())


@pytest.mark.parametrize(("schema", "message"), EVERY, ids=lambda v: type(v).__name__)
def test_every_message_comes_back(schema, message):
    framer = wire.Framer(schema, 1 << 20)
    assert list(framer.feed(wire.PREFACE + wire.encode(message))) == [message]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 60), max_size=40))
def test_any_split_gives_the_same_messages(cuts):
    sent = [m for schema, m in EVERY if schema is wire.REQUESTS]
    data = wire.PREFACE + b"".join(wire.encode(m) for m in sent)
    framer = wire.Framer(wire.REQUESTS, 1 << 20)
    got = []
    for cut in [*cuts, len(data)]:
        got += framer.feed(data[:cut])
        data = data[cut:]
    got += framer.feed(data)
    assert got == sent
    assert repr(framer) == "<Framer 0 bytes held, greeted>"


def test_byte_by_byte():
    framer = wire.Framer(wire.REQUESTS, 1 << 20)
    data = wire.PREFACE + wire.encode(messages.Read(1, "x"))
    got = [m for i in range(len(data)) for m in framer.feed(data[i : i + 1])]
    assert got == [messages.Read(1, "x")]


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_garbage_is_told_or_waited_for_and_nothing_else(data):
    for start in (b"", wire.PREFACE):
        framer = wire.Framer(wire.REQUESTS, 1 << 16)
        try:
            list(framer.feed(start + data))
        except ProtocolError as error:
            assert str(error)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
_FIELDS = sorted({f for m in [*wire.REQUESTS.values(), *wire.ANSWERS.values()] for f in m._fields})


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from([(s, op) for s in (wire.REQUESTS, wire.ANSWERS) for op in s]),
    st.dictionaries(st.sampled_from(_FIELDS), _JSON),
)
def test_json_with_wrong_fields_is_told(where, fields):
    schema, op = where
    try:
        message = wire.decode(json.dumps({"op": op, **fields}).encode(), schema)
    except ProtocolError as error:
        assert str(error)
    else:
        assert type(message) is schema[op]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"op": "read", "id": 1}, "read: prefix is missing"),
        ({"op": "read", "id": "1", "prefix": ""}, "read: id is '1', not int"),
        ({"op": "read", "id": True, "prefix": ""}, "read: id is True, not int"),
        ({"op": "read", "id": 1, "prefix": "x" * (MAX_KEY + 1)}, "prefix has to be a string of at most"),
        ({"op": "lease", "id": 1, "key": 5, "ttl": 1, "value": 1}, "key has to be a string"),
        ({"op": "lease", "id": 1, "key": "k", "ttl": -1, "value": 1}, "lease: ttl is -1, not float"),
        (b'{"op": "lease", "id": 1, "key": "k", "ttl": 1e999, "value": 1}', "lease: ttl is inf, not float"),
        (b'{"op": "swap", "id": 1, "key": "k", "expected": 1, "value": NaN}', "NaN is no number in JSON"),
        ({"op": "launch"}, "no message that is expected here"),
        ({"op": ["read"]}, "no message that is expected here"),
        ({"op": "welcome", "revision": 1, "epoch": 1, "resumed": True}, "no message that is expected here"),
        ([1, 2], "no message that is expected here"),
        (b"[" * 60000, "nested too deeply"),
        (b"1" * 5000, "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (pickle.dumps({"op": "ping"}), "no JSON"),
        (b"", "no JSON"),
    ],
)
def test_what_is_wrong_is_named(content, named):
    framer = wire.Framer(wire.REQUESTS, 1 << 20)
    with pytest.raises(ProtocolError) as caught:
        list(framer.feed(wire.PREFACE + frame(content)))
    assert named in str(caught.value)


def test_unknown_fields_are_left_out():
    body = json.dumps({"op": "ping", "load": 0.5}).encode()
    assert wire.decode(body, wire.REQUESTS) == messages.Ping()


def test_another_protocol_is_known_by_its_first_bytes():
    framer = wire.Framer(wire.REQUESTS, 1 << 20)
    with pytest.raises(ProtocolError, match="no Rallypoint: it began with b'GE'"):
        list(framer.feed(b"GE"))


def test_a_size_over_the_limit_is_told_before_it_is_read():
    framer = wire.Framer(wire.REQUESTS, 1000)
    with pytest.raises(ProtocolError, match="a message of 1001 bytes, at most 1000 are allowed"):
        list(framer.feed(wire.PREFACE + struct.pack(">I", 1001)))


def test_the_limit_may_be_raised_between_messages():
    framer = wire.Framer(wire.REQUESTS, 100)
    got = []
    big = messages.Swap(1, "k", 0, "x" * 1000)
    for message in framer.feed(wire.PREFACE + wire.encode(messages.Ping()) + wire.encode(big)):
        framer.limit = 10_000
        got.append(message)
    assert got == [messages.Ping(), big]


def test_messages_before_the_garbage_are_heard():
    framer = wire.Framer(wire.REQUESTS, 100)
    got = []
    with pytest.raises(ProtocolError):
        for message in framer.feed(wire.PREFACE + wire.encode(messages.Ping()) + frame(b"{")):
            got.append(message)
    assert got == [messages.Ping()]


def test_what_json_does_not_have_cannot_be_sent():
    with pytest.raises(ValueError, match="Out of range"):
        wire.encode(messages.Swap(1, "k", 0, float("nan")))
    with pytest.raises(TypeError, match="object cannot be written in JSON"):
        wire.encode(messages.Swap(1, "k", 0, object()))
