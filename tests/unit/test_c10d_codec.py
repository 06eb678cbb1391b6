"""The TCPStore protocol as transcripts: bytes in, bytes out, cut anywhere."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallypoint.c10d.codec import GREETING, MAX_KEY, MAX_KEYS, MAX_VALUE, Session
from rallypoint.c10d.content import Content
from rallypoint.model.errors import ProtocolError


def n(number):
    return struct.pack("<q", number)


def s(text):
    text = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(text)) + text


def many(*items):
    return n(len(items)) + b"".join(map(s, items))


SET, CAS, GET, ADD, CHECK, WAIT, NUM, DEL, APPEND, MGET, MSET, CANCEL, PING, PUSH, POP, LEN, LIST, BARRIER = (
    bytes([code]) for code in range(1, 19)
)
STOP, CANCELED = READY, NOT_READY = b"\0", b"\1"


class Client:
    """A greeted client of ``content``."""

    def __init__(self, content):
        self.flushed = 0
        self.session = Session(content, self.flush)
        self.session.feed(GREETING)

    def flush(self):
        self.flushed += 1

    def take(self):
        reply = b"".join(self.session.out)
        self.session.out.clear()
        return reply

    def say(self, *parts):
        self.session.feed(b"".join(parts))
        return self.take()


@pytest.fixture
def content():
    return Content()


@pytest.fixture
def a(content):
    return Client(content)


@pytest.fixture
def b(content):
    return Client(content)


# What one client says and hears, in order, in a fresh store. The bytes were taken from torch 2.13's server.
STORIES = {
    "ping": [(PING + b"abcd", b"abcd")],
    "set, get": [(SET + s("k") + s("v"), b""), (GET + s("k"), s("v"))],
    "get of an absent key": [(GET + s("k"), s(""))],
    "empty value": [(SET + s("k") + s(""), b""), (WAIT + many("k"), STOP), (GET + s("k"), s(""))],
    "long value": [(SET + s("k") + s(b"v" * 9000), b""), (GET + s("k"), s(b"v" * 9000))],
    "long key": [(SET + s(b"k" * 9000) + s("v"), b""), (GET + s(b"k" * 9000), s("v"))],
    "add": [(ADD + s("n") + n(5), n(5)), (ADD + s("n") + n(-7), n(-2)), (GET + s("n"), s("-2"))],
    "add to a text of digits": [(SET + s("n") + s(" 41x"), b""), (ADD + s("n") + n(1), n(42))],
    "add wraps": [(SET + s("n") + s(str(2**63 - 1)), b""), (ADD + s("n") + n(1), n(-(2**63)))],
    "compare_set, absent": [(CAS + s("c") + s("") + s("x"), s("x")), (GET + s("c"), s("x"))],
    "compare_set, absent but expected": [(CAS + s("c") + s("a") + s("b"), s("a")), (CHECK + many("c"), NOT_READY)],
    "compare_set, same": [(SET + s("c") + s("x"), b""), (CAS + s("c") + s("x") + s("y"), s("y"))],
    "compare_set, other": [(SET + s("c") + s("x"), b""), (CAS + s("c") + s("z") + s("y"), s("x"))],
    "compare_set, empty is not absent": [(SET + s("c") + s("x"), b""), (CAS + s("c") + s("") + s("y"), s("x"))],
    "check": [(CHECK + many("k"), NOT_READY), (SET + s("k") + s("v"), b""), (CHECK + many("k", "k"), READY)],
    "check, one of two": [(SET + s("k") + s("v"), b""), (CHECK + many("k", "l"), NOT_READY)],
    "check nothing": [(CHECK + many(), READY)],
    "wait for nothing": [(WAIT + many(), STOP)],
    "wait for what is there": [(MSET + n(2) + s("a") + s("1") + s("b") + s("2"), b""), (WAIT + many("a", "b"), STOP)],
    "wait given up": [(WAIT + many("k"), b""), (CANCEL, CANCELED), (SET + s("k") + s("v"), b"")],
    "cancel without wait": [(CANCEL, CANCELED)],
    "num_keys": [(NUM, n(0)), (ADD + s("init/") + n(1), n(1)), (NUM, n(1)), (PUSH + s("q") + s("j"), b""), (NUM, n(1))],
    "delete": [(SET + s("k") + s(""), b""), (DEL + s("k"), n(1)), (DEL + s("k"), n(0)), (NUM, n(0))],
    "append": [(APPEND + s("k") + s(x), b"") for x in ("a", "b", "c")] + [(GET + s("k"), s("abc"))],
    "append, then add": [(APPEND + s("k") + s(x), b"") for x in "123"] + [(ADD + s("k") + n(1), n(124))],
    "multi_get": [(SET + s("a") + s("1"), b""), (MGET + many("a", "b", "a"), s("1") + s("") + s("1"))],
    "multi_set": [(MSET + n(2) + s("a") + s("1") + s("b") + s(""), b""), (MGET + many("a", "b"), s("1") + s(""))],
    "queue": [
        (LEN + s("q"), n(0)),
        (POP + s("q"), n(0)),
        (PUSH + s("q") + s("one"), b""),
        (PUSH + s("q") + s("two"), b""),
        (LEN + s("q"), n(2)),
        (WAIT + many("q"), STOP),
        (CHECK + many("q"), READY),
        (POP + s("q"), n(2) + s("one")),
        (POP + s("q"), n(1) + s("two")),
        (POP + s("q"), n(0)),
        (CHECK + many("q"), NOT_READY),
    ],
    "list_keys": [(LIST, n(0)), (SET + s("a") + s("1"), b""), (SET + s("b") + s("2"), b""), (LIST, many("a", "b"))],
    "barrier of one": [(BARRIER + s("bar") + n(1), STOP), (GET + s("bar"), s("1"))],
    "barrier given up": [(BARRIER + s("bar") + n(2), b""), (CANCEL, CANCELED), (BARRIER + s("bar") + n(2), STOP)],
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_story(a, story):
    for said, heard in story:
        assert a.say(said) == heard


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_a_story_in_one_piece(a, story):
    assert a.say(*(said for said, _ in story)) == b"".join(heard for _, heard in story)


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_a_story_byte_by_byte(a, story):
    for said, heard in story:
        assert b"".join(a.say(said[i : i + 1]) for i in range(len(said))) == heard


@pytest.mark.parametrize("story", [v for k, v in STORIES.items() if "long" not in k])
def test_a_story_cut_once_at_every_place(story):
    said = b"".join(x for x, _ in story)
    heard = b"".join(x for _, x in story)
    for cut in range(len(said)):
        client = Client(Content())
        assert client.say(said[:cut]) + client.say(said[cut:]) == heard


REQUEST = st.sampled_from([request for story in STORIES.values() for request, _ in story])


def converse(pieces):
    """All that a client hears, what is stored in the end, and the error that ended it, if any."""
    client = Client(Content())
    heard, error = b"", None
    for piece in pieces:
        try:
            client.session.feed(piece)
        except ProtocolError as caught:
            error = str(caught)
        heard += client.take()
        if error:
            break
    return heard, client.session._content.values, error


@given(requests=st.lists(REQUEST, max_size=30), data=st.data())
def test_any_cut_of_any_requests_gives_the_same_replies(requests, data):
    said = b"".join(requests)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=8)))
    pieces = [said[i:j] for i, j in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    assert converse(pieces) == converse([said])


@pytest.mark.parametrize("cut", range(len(GREETING) + 1))
def test_the_greeting_may_be_cut(content, cut):
    session = Session(content, lambda: None)
    session.feed(GREETING[:cut])
    session.feed(GREETING[cut:] + PING + b"abcd")
    assert session.out == [b"abcd"]


def test_set_wakes_who_waits(a, b):
    assert a.say(WAIT + many("k")) == b""
    assert b.say(SET + s("k") + s("v")) == b""
    assert a.take() == STOP
    assert b.session._content.woken == [a.session]


def test_those_woken_are_flushed_once(content, a, b):
    a.say(WAIT + many("k"))
    b.say(SET + s("k") + s("v") + SET + s("k") + s("w"))
    content.deliver()
    content.deliver()
    assert (a.flushed, b.flushed) == (1, 0)


WAKERS = {
    "set": SET + s("k") + s("v"),
    "add": ADD + s("k") + n(1),
    "append": APPEND + s("k") + s("v"),
    "multi_set": MSET + n(1) + s("k") + s("v"),
    "compare_set": CAS + s("k") + s("") + s("v"),
    "queue_push": PUSH + s("k") + s("v"),
    "barrier": BARRIER + s("k") + n(1),
}


@pytest.mark.parametrize("waker", WAKERS.values(), ids=WAKERS)
@pytest.mark.parametrize("pieces", [1, 2])
def test_what_wakes(content, a, b, waker, pieces):
    a.say(WAIT + many("k", "k"))
    for i in range(pieces):
        b.say(waker[i * 5 : (i + 1) * 5 if i + 1 < pieces else None])
    assert a.take() == STOP
    assert content.waiters == {}


@pytest.mark.parametrize(
    "request_", [GET + s("k"), DEL + s("k"), CAS + s("k") + s("x") + s("y"), SET + s("l") + s("v")]
)
def test_what_does_not_wake(a, b, request_):
    a.say(WAIT + many("k"))
    b.say(request_)
    assert a.take() == b""


def test_a_wait_for_several_ends_with_the_last(a, b):
    b.say(SET + s("x") + s("1"))
    a.say(WAIT + many("x", "y", "z"))
    b.say(SET + s("y") + s("1") + DEL + s("y"))
    assert a.take() == b""
    b.say(SET + s("z") + s("1"))
    assert a.take() == STOP


def test_cancel_after_the_answer_has_its_own_reply(a, b):
    a.say(WAIT + many("k"))
    b.say(SET + s("k") + s("v"))
    assert a.say(CANCEL) == STOP + CANCELED


def test_a_cancelled_wait_is_forgotten(content, a, b):
    a.say(WAIT + many("k", "l") + CANCEL)
    assert content.waiters == {}
    assert a.say(WAIT + many("l")) == b""
    b.say(SET + s("k") + s("v"))
    assert a.take() == b""


def test_a_new_wait_replaces_the_old_one(content, a, b):
    a.say(WAIT + many("k") + WAIT + many("l"))
    b.say(SET + s("k") + s("v"))
    assert a.take() == b""
    b.say(SET + s("l") + s("v"))
    assert a.take() == STOP


def test_a_client_may_wake_itself(a):
    assert a.say(WAIT + many("k") + SET + s("k") + s("v") + PING + b"abcd") == STOP + b"abcd"


def test_a_push_wakes_the_first_waiter_only(content, a, b):
    c = Client(content)
    a.say(WAIT + many("q"))
    b.say(WAIT + many("q"))
    c.say(PUSH + s("q") + s("1"))
    assert (a.take(), b.take()) == (STOP, b"")
    c.say(PUSH + s("q") + s("2"))
    assert (a.take(), b.take()) == (b"", STOP)
    assert a.say(POP + s("q")) == n(2) + s("1")
    assert b.say(POP + s("q")) == n(1) + s("2")
    assert content.queues == {}


def test_a_push_passes_over_who_waits_for_more(content, a, b):
    c = Client(content)
    a.say(WAIT + many("q", "other"))
    b.say(WAIT + many("q"))
    c.say(PUSH + s("q") + s("1"))
    assert (a.take(), b.take()) == (b"", STOP)
    c.say(SET + s("other") + s("1"))
    assert a.take() == STOP


def test_a_barrier_opens_for_all_with_the_last(content, a, b):
    c = Client(content)
    assert a.say(BARRIER + s("bar") + n(3)) == b""
    assert b.say(BARRIER + s("bar") + n(3)) == b""
    assert c.say(BARRIER + s("bar") + n(3)) == STOP
    assert (a.take(), b.take()) == (STOP, STOP)
    assert content.waiters == {}


def test_a_dropped_client_leaves_no_trace(content, a, b):
    a.say(WAIT + many("k", "l"))
    b.say(WAIT + many("k"))
    a.session.drop()
    b.session.drop()
    assert content.waiters == {}
    c = Client(content)
    c.say(SET + s("k") + s("v"))
    assert content.woken == []


def test_a_client_dropped_in_the_middle_changes_nothing(content, a):
    a.say(MSET + n(2) + s("a") + s("1") + s("b"))
    a.session.drop()
    assert content.values == {}


def test_a_value_sent_later_is_the_value_of_the_request(a, b):
    a.say(APPEND + s("k") + s(b"x" * 5000) + APPEND + s("k") + s("y"))
    a.session.feed(GET + s("k"))
    b.say(APPEND + s("k") + s("z"))
    assert a.take() == s(b"x" * 5000 + b"y")


BROKEN = {
    "another protocol": (b"GET / HTTP/1.1\r\n\r\n", "greeting"),
    "wrong magic": (b"\x00\xce\xf7\x85\x3d", "greeting"),
    "unknown operation": (GREETING + b"\x13", "19"),
    "a second greeting": (GREETING + GREETING, "0 is no operation"),
    "key too long": (GREETING + SET + n(MAX_KEY + 1), "key"),
    "key too long, whole": (GREETING + GET + s(bytes(MAX_KEY + 1)), "key"),
    "set key too long, whole": (GREETING + SET + s(bytes(MAX_KEY + 1)) + s("v"), "key"),
    "negative length": (GREETING + ADD + n(-1), "key"),
    "value too long": (GREETING + SET + s("k") + n(MAX_VALUE + 1), "value"),
    "too many keys": (GREETING + WAIT + n(MAX_KEYS + 1), "list"),
    "too many pairs": (GREETING + MSET + n(-1), "list"),
    "add to a text": (GREETING + SET + s("k") + s("v") + ADD + s("k") + n(1), "b'v'"),
    "add to nothing": (GREETING + SET + s("k") + s("") + ADD + s("k") + n(1), "not a 64-bit number"),
    "add to a giant": (GREETING + SET + s("k") + s("9" * 30) + ADD + s("k") + n(1), "not a 64-bit number"),
    "add to 5000 digits": (GREETING + SET + s("k") + s("9" * 5000) + ADD + s("k") + n(1), "not a 64-bit number"),
    "barrier on a text": (GREETING + SET + s("k") + s("v") + BARRIER + s("k") + n(1), "b'v'"),
}


@pytest.mark.parametrize(("said", "reason"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("step", [1 << 30, 7])
def test_broken(content, said, reason, step):
    session = Session(content, lambda: None)
    with pytest.raises(ProtocolError, match=reason):
        for i in range(0, len(said), step):
            session.feed(said[i : i + step])


def test_a_long_value_in_small_pieces_is_joined_once(a):
    a.session.feed(SET + s("k") + n(10_000_000))
    for _ in range(1000):
        a.session.feed(b"v" * 10_000)
        assert len(a.session._pieces or ()) <= 1000
    assert a.say(GET + s("k")) == s(b"v" * 10_000_000)


def test_lists_do_not_pile_up_without_bound(a):
    a.say(MSET + n(1000) + b"".join(s(f"key {i}") + s("v") for i in range(1000)))
    with pytest.raises(ProtocolError, match="wait to be read"):
        a.session.feed(LIST * 1000)
    assert len(a.session.out) < 20_000


def test_copies_of_a_long_appended_value_do_not_pile_up(a):
    a.say(APPEND + s("k") + s(b"x" * 5000) + APPEND + s("k") + s("y"))
    a.session.feed((GET + s("k")) * 100)
    assert len({id(piece) for piece in a.session.out if len(piece) > 5000}) == 1


def test_states_in_words(a, content):
    assert repr(Session(content, lambda: None)) == "<Session not greeted, 0 pieces to send>"
    assert repr(a.session) == "<Session idle, 0 pieces to send>"
    a.say(SET + s("k") + n(100) + b"abc")
    assert repr(a.session) == "<Session has sent 3 of 100 bytes, 0 pieces to send>"
    b = Client(content)
    b.say(WAIT + many("k", "l"))
    assert repr(b.session) == "<Session waits for 2 keys, 0 pieces to send>"
    assert repr(content) == "<Content 0 keys, 0 queues, 2 keys awaited>"
