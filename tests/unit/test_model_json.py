"""What the nodes tell each other: it comes back as it was written, and nonsense is refused by name."""

import json

import pytest
from corekit import failure, info, view
from hypothesis import given
from hypothesis import strategies as st

from rallypoint.model import node
from rallypoint.model.errors import ProtocolError
from rallypoint.model.node import NodeInfo, Roster, View
from rallypoint.model.result import Exit, Failure, WorkerError, WorkerId

text = st.text(max_size=8)
number = st.integers(0, 2**31)
errors = st.none() | st.builds(WorkerError, text, text, text, st.floats(0, 1e12))
failures = st.builds(
    Failure,
    kind=st.sampled_from(["worker", "spawn", "overdue", "node"]),
    round=number,
    node=text,
    host=text,
    words=text,
    status=number,
    rank=st.integers(-1, 99),
    local_rank=st.integers(-1, 9),
    pid=number,
    signal=st.none() | number,
    error=errors,
    last_lines=st.lists(text, max_size=3).map(tuple),
    error_file=text,
    order=number,
    consequence=st.booleans(),
)
infos = st.builds(
    NodeInfo,
    id=text,
    host=text,
    address=text,
    slots=st.integers(1, 99),
    port=number,
    role=text,
    round=number,
    state=st.sampled_from([node.WAITING, node.WORKING, node.FINISHING, node.DONE, node.LEAVING]),
    node_rank=st.integers(-1, 9),
)
rosters = st.lists(st.tuples(text, st.integers(1, 9), text), max_size=4).map(
    lambda rows: Roster(*(tuple(column) for column in zip(*rows, strict=True))) if rows else Roster()
)
views = st.builds(
    View,
    round=number,
    phase=st.sampled_from([node.FORMING, node.RUNNING, node.DRAINING, node.CLOSED]),
    roster=rosters,
    master_addr=text,
    master_port=number,
    restarts=number,
    reason=text,
    here=st.lists(text, max_size=3).map(tuple),
    failures=st.lists(failures, max_size=2).map(tuple),
    finishing=st.booleans(),
)
nonsense = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


def sent(content):
    return json.loads(json.dumps(content))


@given(infos)
def test_node_round_trip(value):
    assert NodeInfo.from_json(sent(value.to_json())) == value


@given(views)
def test_view_round_trip(value):
    again = View.from_json(sent(value.to_json()))
    assert again == value and hash(again) == hash(value)


@given(failures)
def test_failure_round_trip(value):
    assert Failure.from_json(sent(value.to_json())) == value


def test_what_a_newer_version_adds_is_left_out():
    assert NodeInfo.from_json(info().to_json() | {"colour": "red"}) == info()
    assert View.from_json(sent(view().to_json()) | {"colour": "red"}) == view()
    assert Failure.from_json(failure().to_json() | {"colour": "red"}) == failure()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slots": "2"}, "NodeInfo.slots: '2' is no int"),
        ({"slots": True}, "NodeInfo.slots"),
        ({"slots": 0}, "slots 0"),
        ({"id": 5}, "NodeInfo.id"),
        ({"state": "asleep"}, "'asleep'"),
        ({"round": None}, "NodeInfo.round"),
    ],
)
def test_a_node_that_no_version_would_have_written(change, said):
    with pytest.raises(ProtocolError, match=said):
        NodeInfo.from_json(info().to_json() | change)


def test_a_node_without_what_it_needs():
    with pytest.raises(ProtocolError, match="needs 'id'"):
        NodeInfo.from_json({"host": "h", "address": "a", "slots": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "sleeping"},
        {"phase": 3},
        {"round": "1"},
        {"roster": None},
        {"roster": [["a"], [1]]},
        {"roster": [["a"], [1, 2], ["x"]]},
        {"roster": [["a"], [0], ["x"]]},
        {"roster": [["a"], ["1"], ["x"]]},
        {"roster": [["a"], [True], ["x"]]},
        {"roster": [[1], [1], ["x"]]},
        {"roster": [[["a"]], [1], ["x"]]},
        {"roster": [["a"], [1], [None]]},
        {"here": 5},
        {"here": [5]},
        {"failures": [5]},
        {"failures": [{"kind": "worker"}]},
        {"failures": 5},
        {"finishing": 1},
    ],
)
def test_a_view_that_no_version_would_have_written(change):
    with pytest.raises(ProtocolError):
        View.from_json(sent(view().to_json()) | change)


@pytest.mark.parametrize(
    "change",
    [
        {"round": "1"},
        {"consequence": "no"},
        {"order": None},
        {"status": [1]},
        {"error": "x"},
        {"error": {"message": "x"}},
        {"error": {"type": "x", "message": {"a": 1}}},
        {"error": {"type": "x", "message": "y", "colour": "red"}},
        {"last_lines": 5},
        {"kind": None},
    ],
)
def test_a_failure_that_no_version_would_have_written(change):
    with pytest.raises((TypeError, KeyError, ValueError)):
        Failure.from_json(failure().to_json() | change)


@given(nonsense)
def test_nonsense_is_refused_in_the_words_of_the_contract(content):
    for kind in (NodeInfo, View):
        with pytest.raises(ProtocolError):
            kind.from_json(content)
    with pytest.raises((TypeError, KeyError, ValueError)):
        Failure.from_json(content)


@given(st.sampled_from(View._fields), nonsense)
def test_one_wrong_field_is_read_well_or_refused(field, content):
    try:
        value = View.from_json(sent(view(failures=(failure(),)).to_json()) | {field: content})
    except ProtocolError:
        return
    assert View.from_json(sent(value.to_json())) == value


def test_exits_in_words():
    assert Exit(1, 3).words == "exit code 3" and Exit(1, 3).status == 3
    assert Exit(1, None, 9).words == "SIGKILL" and Exit(1, None, 9).status == 137
    assert Exit(1, None, 11, core_dumped=True).words == "SIGSEGV (segmentation fault, core dumped)"
    assert Exit(1, None, 9, oom="out of memory").words == "SIGKILL (out of memory)"
    assert Exit(1, None, 40).words == "signal 40"
    assert Exit(1, 0).succeeded and not Exit(1, None, 9).succeeded


def test_failures_in_words():
    assert failure().place == "rank 0 (local 0) on host-a" and failure(pid=7).place.endswith("host-a, pid 7")
    assert failure(rank=-1).place == "node a"
    assert failure(error=WorkerError("ValueError", "bad")).headline == "ValueError: bad (exit code 3)"
    assert WorkerError("ValueError", "").headline == "ValueError"
    assert str(WorkerId(2, 1)) == "worker 1 of round 2"
