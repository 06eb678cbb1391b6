"""Every public name, signature and default of torch 2.13's elastic API against ours.

The differences stand, with a reason each, in docs/torch-differences.md; what is found must be exactly what is told.
"""

import enum
import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from unittest import mock

import pytest

TABLE = Path(__file__).parents[2] / "docs" / "torch-differences.md"
ROW = re.compile(r"^\| `(?P<name>[^`]+)` \| (?P<what>[^|]+) \| (?P<reason>[^|]+) \|$")
OURS = {"torch.distributed.elastic": "rallypoint.elastic", "torch.distributed.launcher": "rallypoint.elastic.launcher"}
OURS["torch.numa.binding"] = "rallypoint.elastic.numa.binding"


def told():
    rows = [row.groupdict() for line in TABLE.read_text().splitlines() if (row := ROW.match(line))]
    return {(row["name"], row["what"].strip()): row["reason"].strip() for row in rows}


def torch_modules():
    import torch.distributed.elastic
    import torch.distributed.launcher
    import torch.numa.binding

    names = ["torch.distributed.launcher", "torch.distributed.launcher.api", "torch.numa.binding"]
    root = torch.distributed.elastic
    names += [found.name for found in pkgutil.walk_packages(root.__path__, root.__name__ + ".")]
    return [name for name in names if not any(part.startswith("_") for part in name.split("."))]


def own_name(module):
    theirs = max((t for t in OURS if module == t or module.startswith(t + ".")), key=len)
    return OURS[theirs] + module.removeprefix(theirs)


def public(module):
    """The names that a program may import: those in __all__, and what the module itself defines."""
    names = set(getattr(module, "__all__", ()))
    for name, thing in vars(module).items():
        home = getattr(thing, "__module__", None) or ""
        defined = home == module.__name__ or (hasattr(module, "__path__") and home.startswith(module.__name__ + "."))
        if not name.startswith("_") and defined and (inspect.isclass(thing) or inspect.isfunction(thing)):
            names.add(name)
    return sorted(name for name in names if hasattr(module, name))


def told_default(value):
    """A default as text that does not depend on whose class it is."""
    if value is inspect.Parameter.empty:
        return "needed"
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if callable(value) or type(value).__module__ not in ("builtins", "datetime"):
        return getattr(value, "__name__", type(value).__name__)
    return repr(value)


def parameters(thing):
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return None
    return {
        p.name: (p.kind.name.lower(), told_default(p.default)) for p in found.parameters.values() if p.name != "self"
    }


def compare_calls(name, theirs, ours):
    want, have = parameters(theirs), parameters(ours)
    if want is None or have is None:
        return
    for p in want:
        if p not in have:
            yield name, f"no parameter {p}"
        elif want[p] != have[p]:
            yield name, f"{p}: {', '.join(have[p])} instead of {', '.join(want[p])}"
    for p in have:
        if p not in want:
            yield name, f"one more parameter, {p}"
    if list(want) != [p for p in have if p in want] and not want.keys() - have.keys():
        yield name, "another order of parameters"


def members(cls):
    base = {n for b in (object, Exception, str, int, enum.Enum, enum.IntFlag, tuple) for n in dir(b)}
    return sorted(n for n in dir(cls) if not n.startswith("_") and n not in base)


def compare_classes(name, theirs, ours):
    for base in (Exception, enum.Enum, str, int, tuple):
        if issubclass(theirs, base) != issubclass(ours, base):
            yield name, f"{'no' if issubclass(theirs, base) else 'a'} {base.__name__}"
    if issubclass(theirs, enum.Enum):
        if {m.name: m.value for m in theirs} != {m.name: m.value for m in ours}:
            yield name, "other members"
        return
    yield from compare_calls(name, theirs, ours)
    if inspect.isabstract(theirs) != inspect.isabstract(ours):
        yield name, f"{'not ' if inspect.isabstract(theirs) else ''}abstract"
    for member in members(theirs):
        if not hasattr(ours, member):
            yield f"{name}.{member}", "missing"
        elif callable(getattr(theirs, member)) and not inspect.isclass(getattr(theirs, member)):
            yield from compare_calls(f"{name}.{member}", getattr(theirs, member), getattr(ours, member))


def compare(name, theirs, ours):
    if inspect.isclass(theirs):
        if not inspect.isclass(ours):
            yield name, "no class"
            return
        yield from compare_classes(name, theirs, ours)
    elif inspect.isfunction(theirs):
        if not callable(ours):
            yield name, "not callable"
            return
        yield from compare_calls(name, theirs, ours)
    elif isinstance(theirs, (str, int, float)) and theirs != ours:
        yield name, f"{ours!r} instead of {theirs!r}"


def theirs_of(module):
    """Import a module of torch's; a package that it wants and that is not here is stood in for by an empty one."""
    with pytest.MonkeyPatch.context() as patch:
        while True:
            try:
                return importlib.import_module(module)
            except ModuleNotFoundError as error:
                assert not error.name.startswith("torch"), error
                patch.setitem(sys.modules, error.name, mock.MagicMock(name=error.name))


def differences():
    """Return {(dotted name, what differs)}; a thing that is imported in several places is told where it is shortest."""
    found, seen = set(), set()
    for module in sorted(torch_modules(), key=lambda name: (name.count("."), name)):
        theirs = theirs_of(module)
        try:
            ours = importlib.import_module(own_name(module))
        except ModuleNotFoundError:
            found.add((module, "no such module"))
            continue
        for name in public(theirs):
            thing, there = getattr(theirs, name), hasattr(ours, name)
            if (name, id(thing), there) in seen:
                continue
            seen.add((name, id(thing), there))
            full = f"{module}.{name}"
            found |= set(compare(full, thing, getattr(ours, name))) if there else {(full, "missing")}
    return found


@pytest.mark.torch
def test_the_differences_from_torch_are_exactly_those_told():
    found, listed = differences(), told()
    new = sorted(found - listed.keys())
    gone = sorted(listed.keys() - found)
    text = "\n".join(f"| `{name}` | {what} | REASON |" for name, what in new)
    assert not new, f"not told in {TABLE.name}:\n{text}"
    assert not gone, f"told in {TABLE.name}, but no longer so: {gone}"


def test_every_difference_has_a_reason():
    listed = told()
    assert listed
    assert all(len(reason) > 10 for reason in listed.values())


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        (lambda a, b=1: 0, lambda a, b=1: 0, []),
        (lambda a, b=1: 0, lambda a, b=2: 0, ["b: positional_or_keyword, 2 instead of positional_or_keyword, 1"]),
        (lambda a: 0, lambda: 0, ["no parameter a"]),
        (lambda a: 0, lambda a, b=1: 0, ["one more parameter, b"]),
        (lambda a, b: 0, lambda b, a: 0, ["another order of parameters"]),
        (type("A", (Exception,), {}), type("A", (), {}), ["no Exception"]),
        (type("A", (), {"m": lambda self, x: 0}), type("A", (), {"m": lambda self: 0}), ["no parameter x"]),
        (enum.Enum("E", "A B"), enum.Enum("E", "A"), ["other members"]),
    ],
)
def test_the_comparison_finds_what_it_looks_for(theirs, ours, expected):
    assert [what for _, what in compare("x", theirs, ours)] == expected
