"""The walls of the house, from the source alone: who imports whom, what a start imports, how long things are."""

import ast
import sys
from pathlib import Path

import pytest

import rallypoint

ROOT = Path(rallypoint.__file__).parent
LONGEST_FILE, LONGEST_FUNCTION = 400, 40

STDLIB = set(sys.stdlib_module_names)
ROOMS = {"store", "c10d", "proc", "logs", "observe"}
BELOW = {
    "model": {"model"},
    "net": {"net", "model"},
    "core": {"core", "model"},
    "store": {"store", "model", "net"},
    "c10d": {"c10d", "model", "net"},
    "proc": {"proc", "model"},
    "logs": {"logs", "model"},
    "observe": {"observe", "model"},
    "worker": {"worker"},
    "driver": {"driver", "core", "model", "net", *ROOMS},
    "cli": {"cli", "driver", "core", "model", "net", *ROOMS},
    "elastic": {"elastic", "driver", "core", "model", "net", "worker", *ROOMS},
    "api": {"driver", "model", "net", "proc"},
    "launch": {"cli", "api"},
    "__main__": {"cli", "launch"},
}
"""Room -> what of this package it may import ("" is the package itself, for its version: everybody may)."""

CORE_NEVER = {"os", "time", "socket", "threading", "asyncio", "selectors", "random", "logging"}
LAUNCH_NEVER = {"dataclasses", "typing", "inspect", "asyncio", "logging", "tempfile", "uuid", "shutil", "subprocess"}
LAUNCH_NEVER |= {"threading", "multiprocessing", "selectors", "http", "pathlib"}
OFF_THE_LAUNCH_PATH = {"testing", "elastic"}
ON_DEMAND = {"observe/handlers.py", "driver/preflight.py"}  # of the launch path's rooms, but imported only where wanted

FILES = sorted(ROOT.rglob("*.py"))


def room(path):
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def for_typing(test):
    """Whether a condition is TYPE_CHECKING, never true while a program runs."""
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def imports(tree, deep=True):
    """Yield (line, module) for what is really imported; with ``deep`` also inside functions."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: imports are written in full"
            names = [f"rallypoint.{alias.name}" for alias in child.names if child.module == "rallypoint"]
            yield from ((child.lineno, name) for name in names or [child.module])
        elif isinstance(child, ast.If) and for_typing(child.test):
            yield from imports(ast.Module(child.orelse, []), deep)
        elif deep or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from imports(child, deep)


def breaches(path):
    tree = ast.parse(path.read_text())
    own = room(path)
    for line, module in imports(tree):
        top, _, rest = module.partition(".")
        inner = rest.partition(".")[0]
        if top == "rallypoint" and inner in {"testing", *BELOW} and own != "testing" and own != "__init__":
            if inner not in BELOW.get(own, set()):
                yield line, f"{own} imports {module}"
        elif top == "torch":
            yield line, "imports torch"
        elif own == "worker" and top not in STDLIB:
            yield line, f"the worker side imports {module}"
        elif own == "core" and top in CORE_NEVER:
            yield line, f"the pure core imports {module}"
    if own not in OFF_THE_LAUNCH_PATH and str(path.relative_to(ROOT)) not in ON_DEMAND:
        for line, module in imports(tree, deep=False):
            if module.partition(".")[0] in LAUNCH_NEVER:
                yield line, f"every start pays for {module}: import it in the function that needs it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
    told = [f"{path}:{line}: {what}" for line, what in breaches(path)]
    assert not told, "\n".join(told)


def test_every_room_is_known():
    assert {room(p) for p in FILES} - {"__init__", "testing"} <= set(BELOW)


def test_files_and_functions_are_short():
    told = []
    for path in FILES:
        text = path.read_text()
        if (lines := text.count("\n")) > LONGEST_FILE:
            told.append(f"{path}: {lines} lines, {LONGEST_FILE} are allowed")
        for item in ast.walk(ast.parse(text)):
            if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = item.end_lineno - item.lineno + 1
                if lines > LONGEST_FUNCTION:
                    told.append(f"{path}:{item.lineno}: {item.name} has {lines} lines, {LONGEST_FUNCTION} are allowed")
    assert not told, "\n".join(told)


SOURCES = [
    ("core/x.py", "import os\n", "the pure core imports os"),
    ("core/x.py", "def f():\n    from time import monotonic\n", "the pure core imports time"),
    ("core/x.py", "from rallypoint.driver.loop import Loop\n", "core imports rallypoint.driver.loop"),
    ("store/x.py", "from rallypoint.proc import sweep\n", "store imports rallypoint.proc"),
    ("net.py", "from rallypoint.store import api\n", "net imports rallypoint.store"),
    ("driver/x.py", "from rallypoint import testing\n", "driver imports rallypoint.testing"),
    ("worker/x.py", "from rallypoint.model import exits\n", "worker imports rallypoint.model"),
    ("worker/x.py", "import numpy\n", "the worker side imports numpy"),
    ("logs/x.py", "def f():\n    import torch\n", "imports torch"),
    ("proc/x.py", "import subprocess\n", "every start pays for subprocess"),
    ("proc/x.py", "try:\n    import typing\nexcept ImportError:\n    pass\n", "every start pays for typing"),
    ("proc/x.py", "def f():\n    import subprocess\n", None),
    ("proc/x.py", "if TYPE_CHECKING:\n    from typing import Any\n", None),
    ("proc/x.py", "from rallypoint import __version__\nfrom rallypoint.model import exits\n", None),
]


@pytest.mark.parametrize(("name", "source", "expected"), SOURCES)
def test_the_test_finds_what_it_looks_for(tmp_path, monkeypatch, name, source, expected):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    told = [what for _, what in breaches(path)]
    assert (told[0].startswith(expected) and len(told) == 1) if expected else not told
