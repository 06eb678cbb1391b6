import pytest
from corekit import info, view
from hypothesis import given
from hypothesis import strategies as st

from rallypoint.core.ranks import arrange, assignments, remembered, roster_of
from rallypoint.model.node import RUNNING, Roster, View

names = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)


def ids(nodes):
    return [n.id for n in nodes]


def order(ready, previous=(), limit=8):
    return "".join(ids(arrange([info(n) for n in ready], roster_of([info(n) for n in previous]), limit)))


@pytest.mark.parametrize(
    ("ready", "previous", "limit", "expected"),
    [
        ("cab", "", 8, "cab"),  # the first round: in the order of joining
        ("cab", "", 2, "ca"),  # the others stand by
        ("bca", "abc", 8, "abc"),  # survivors keep their places
        ("ca", "abc", 8, "ac"),
        ("cad", "abc", 8, "adc"),  # a newcomer takes the place of the one that was lost
        ("cabd", "abc", 8, "abcd"),
        ("cabd", "abc", 3, "abc"),  # nobody who was in makes room for a newcomer
        ("def", "abc", 8, "def"),
        ("ced", "abc", 3, "edc"),
        ("", "abc", 3, ""),
        ("abc", "abc", 2, "ab"),
    ],
)
def test_arrange(ready, previous, limit, expected):
    assert order(ready, previous, limit) == expected


def test_nodes_remember_a_roster_that_the_store_has_lost():
    nodes = [info("n"), info("c", place=2, round=3), info("b", place=0, round=2), info("a", place=0, round=3)]
    previous = remembered(nodes, 8)
    assert previous.nodes == ("a", "", "c") and previous.world_size == 3
    assert ids(arrange(nodes, previous, 8)) == ["a", "n", "c", "b"]
    assert remembered([info("n"), info("m", place=8)], 8) == Roster()


def test_fixed_places_win():
    nodes = [info("x"), info("b", node_rank=1), info("a", node_rank=0)]
    assert ids(arrange(nodes, roster_of([info("x"), info("b")]), 3)) == ["a", "b", "x"]


@given(names, names, st.integers(1, 8))
def test_arrange_takes_as_many_as_fit_and_keeps_survivors_in_order(ready, previous, limit):
    got = order(ready, previous, limit)
    assert len(got) == min(limit, len(ready)) and len(set(got)) == len(got) and set(got) <= set(ready)
    kept = [n for n in got if n in previous]
    assert kept == [n for n in previous if n in ready][: len(kept)]


def test_assignments_in_full():
    running = View(3, RUNNING, Roster(("a", "b"), (2, 3), ("x", "x")), "10.0.0.9", 4711, restarts=2)
    first, _, last = assignments(running, "b")
    assert (first.rank, first.local_rank, first.world_size, first.local_world_size) == (2, 0, 5, 3)
    assert (first.group_rank, first.group_world_size, first.role, first.role_rank) == (1, 2, "x", 2)
    assert (first.role_world_size, first.master_addr, first.master_port, first.restart_count) == (
        5,
        "10.0.0.9",
        4711,
        2,
    )
    assert (last.rank, last.local_rank, last.role_rank) == (4, 2, 4)
    with pytest.raises(ValueError, match="not in tuple"):
        assignments(running, "c")


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["train", "eval"])), min_size=1, max_size=6))
def test_ranks_are_a_permutation_overall_and_within_each_role(shape):
    members = [info(f"n{i}", slots=slots, role=role) for i, (slots, role) in enumerate(shape)]
    running = view(members=members)
    given_ = [a for m in members for a in assignments(running, m.id)]
    assert [a.rank for a in given_] == list(range(running.roster.world_size))
    for role in {role for _, role in shape}:
        own = [a for a in given_ if a.role == role]
        assert [a.role_rank for a in own] == list(range(len(own)))
        assert {a.role_world_size for a in own} == {len(own)}
