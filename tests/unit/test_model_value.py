from __future__ import annotations

import pickle

import pytest

from rallypoint.model.value import Value


class Point(Value):
    x: int
    y: int = 0


class Spot(Value):
    x: int
    y: int = 0


class Named(Point):
    name: str = "nobody"


def test_fields_defaults_and_order():
    assert Point._fields == ("x", "y")
    assert Named._fields == ("x", "y", "name")
    assert Point(1) == Point(1, 0) == Point(x=1, y=0) == Point(1, y=0)
    assert Named(1, 2, "a").name == "a"
    assert Named(1).as_dict() == {"x": 1, "y": 0, "name": "nobody"}


@pytest.mark.parametrize(
    ("args", "more", "said"),
    [
        ((), {}, "Point needs 'x'"),
        ((1, 2, 3), {}, "Point takes 2 values, got 3"),
        ((1,), {"x": 2}, "'x' is given twice"),
        ((1,), {"z": 2}, "'z' is given twice or is no field"),
    ],
)
def test_wrong_calls(args, more, said):
    with pytest.raises(TypeError, match=said):
        Point(*args, **more)


def test_frozen():
    point = Point(1)
    with pytest.raises(AttributeError, match=r"Point is frozen: 'x' cannot be set; use replace\(\)"):
        point.x = 2
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del point.x
    with pytest.raises(AttributeError):
        point.other = 1
    assert point == Point(1)


def test_equality_and_hash_know_the_class():
    assert Point(1, 2) == Point(1, 2) and hash(Point(1, 2)) == hash(Point(1, 2))
    assert Point(1, 2) != Spot(1, 2) and Point(1, 2) != Named(1, 2) and Point(1, 2) != (1, 2)
    assert len({Point(1), Point(1), Spot(1), Named(1)}) == 3


def test_replace_returns_a_changed_copy():
    point = Point(1, 2)
    assert point.replace(y=3) == Point(1, 3) and point == Point(1, 2)
    assert type(Named(1).replace(x=2)) is Named
    with pytest.raises(TypeError):
        point.replace(z=1)


def test_pickling():
    for value in (Point(1, 2), Named(1, 2, "a")):
        again = pickle.loads(pickle.dumps(value))
        assert again == value and type(again) is type(value)


def test_repr_shows_what_is_not_the_default():
    assert repr(Point(1)) == "Point(x=1)"
    assert repr(Named(0, 2, "a")) == "Named(x=0, y=2, name='a')"


def test_no_dictionary_for_each_instance():
    assert not hasattr(Point(1), "__dict__")
