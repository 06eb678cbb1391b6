"""The same programs through torch's multiprocessing API and ours; names, signatures and defaults side by side."""

import importlib
import inspect
import os
import signal

import calls_lab as lab
import pytest

pytestmark = pytest.mark.torch

OURS, THEIRS = "rallypoint.elastic.multiprocessing", "torch.distributed.elastic.multiprocessing"
MODULES = ("", ".api", ".errors", ".errors.handlers", ".errors.error_handler", ".redirects")
LEFT_OUT = {
    ".redirects": {"get_libc", "libc", "IS_WINDOWS", "IS_MACOS", "logger"},
    ".api": {"logger", "IS_WINDOWS", "IS_MACOS"},
}
"""Platform switches and loggers: nobody's interface."""
LIMIT = 60


@pytest.fixture(autouse=True)
def signals_as_before():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def public(module):
    names = getattr(module, "__all__", None)
    if names is not None:
        return set(names)
    return {n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "") == module.__name__}


@pytest.mark.parametrize("path", MODULES)
def test_names_signatures_and_defaults(path):
    ours, theirs = importlib.import_module(OURS + path), importlib.import_module(THEIRS + path)
    names = public(theirs) - LEFT_OUT.get(path, set())
    assert names <= set(dir(ours))
    assert public(theirs) == public(ours) or not hasattr(theirs, "__all__")
    for name in names:
        same_shape(getattr(ours, name), getattr(theirs, name), name)


def same_shape(ours, theirs, name):
    assert inspect.isclass(ours) == inspect.isclass(theirs), name
    if callable(theirs) and not (inspect.isclass(theirs) and issubclass(theirs, int)):
        assert shape(ours) == shape(theirs), name
    if inspect.isclass(theirs):
        for member, value in vars(theirs).items():
            if member[0] != "_" or member in {"_start", "_poll", "_close", "_get_error_file_path", "_write_error_file"}:
                assert hasattr(ours, member), f"{name}.{member}"
                if inspect.isfunction(value):
                    assert shape(getattr(ours, member)) == shape(value), f"{name}.{member}"


def shape(function):
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, plain(p.default)) for p in parameters]


def plain(value):
    if value is inspect.Parameter.empty or "factory" in repr(value):
        return "nothing"
    return int(value) if isinstance(value, int) else value


def one_fails(rank):
    if rank == 1:
        raise ValueError("no luck")
    lab.sleeps(30)


def shell(text):
    return ("-c", text)


PROGRAMS = {
    "returns": (lab.add, {0: (1, 2), 1: (3, 4)}),
    "raises": (one_fails, {0: (0,), 1: (1,)}),
    "killed": (lab.leaves, {0: ("kill",)}),
    "exit 3": (lab.leaves, {0: ("exit 3",)}),
    "says": (lab.say, {0: ("one",), 1: ("two",)}),
    "large": (lab.big, {0: (5 << 20,), 1: (1,)}),
    "commands": ("bash", {0: shell("echo a"), 1: shell("echo $WHO >&2")}),
    "command fails": ("bash", {0: shell("exit 5")}),
    "command killed": ("bash", {0: shell("kill -9 $$")}),
}


QUICK = {("returns", 3), ("raises", 0), ("commands", 3)}
CASES = [(program, tee) for program in PROGRAMS for tee in (0, 3)]


@pytest.mark.parametrize(
    ("program", "tee"), [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_the_same_comes_of_it(program, tee, tmp_path, capfd):
    seen = []
    for path in (OURS, THEIRS):
        folder = tmp_path / path.partition(".")[0]
        seen.append(run(importlib.import_module(path), program, tee, folder))
        out, err = capfd.readouterr()
        seen[-1]["console"] = sorted(out.splitlines())
        if "fail" not in program and program not in {"raises", "exit 3", "killed"}:
            seen[-1]["errors"] = sorted(line for line in err.splitlines() if "[job" in line)
    assert seen[0] == seen[1]


def run(module, program, tee, folder):
    entrypoint, args = PROGRAMS[program]
    logs = module.DefaultLogsSpecs(str(folder), redirects=module.Std.OUT, tee=module.Std(tee))
    envs = {rank: {"WHO": f"worker {rank}"} for rank in args}
    context = module.start_processes("job", entrypoint, args, envs, logs)
    try:
        result = context.wait(LIMIT, period=0.05)
    finally:
        context.close()
    return {
        "values": {r: v if not isinstance(v, bytes) else len(v) for r, v in result.return_values.items()},
        "failures": {r: facts(f) for r, f in result.failures.items()},
        "files": {
            os.path.join(os.path.relpath(base, folder).partition("/")[2], name): content(os.path.join(base, name))
            for base, _, names in os.walk(folder)
            for name in names
        },
    }


def facts(failure):
    said = failure.message
    said = said["message"] if isinstance(said, dict) else said.replace(str(failure.pid), "PID")
    return failure.local_rank, failure.exitcode, said, failure.error_file == "<N/A>"


def content(path):
    """What is in a log. Beyond torch, a function's traceback is in it; error files differ in torch's own frames."""
    with open(path) as file:
        text = file.read()
    return "..." if path.endswith("error.json") else "" if "Traceback" in text else text


def test_torch_tensors_may_be_arguments_and_values():
    import torch

    from rallypoint.elastic.multiprocessing import DefaultLogsSpecs, start_processes

    tensor = torch.arange(1000.0)
    for method in ("spawn", "fork"):
        context = start_processes(
            "job", double, {0: (tensor,)}, {0: {}}, DefaultLogsSpecs(os.devnull), start_method=method
        )
        result = context.wait(LIMIT)
        assert torch.equal(result.return_values[0], tensor * 2), result


def double(tensor):
    return tensor * 2
