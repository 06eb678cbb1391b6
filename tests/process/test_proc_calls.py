"""Functions as workers: real processes of all three ways of starting."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from multiprocessing import resource_tracker

import calls_lab as lab
import pytest

from rallypoint.driver.loop import Loop
from rallypoint.driver.run import run
from rallypoint.model.errors import UsageError
from rallypoint.model.event import Exited, Spawned, SpawnFailed
from rallypoint.model.result import WorkerId
from rallypoint.model.spec import Call, LogSpec, Spec
from rallypoint.proc import pack as packing
from rallypoint.proc.calls import Calls, WorkerTraceback
from rallypoint.proc.pack import pack
from rallypoint.proc.processes import Processes

METHODS = ("spawn", "fork", "forkserver")
LIMIT = 40.0
MARK = f"test-{os.getpid()}"


class World:
    """The workers of one call; ``results`` by local rank when they have ended."""

    def __init__(self, function, *args, method="spawn", env=None):
        by_rank = dict(enumerate(args)) if args else {0: ()}
        self.packed = pack(Call(function, by_rank, method))
        self.loop = Loop()
        self.events = []
        self.processes = Processes(self.loop, self.events.append, MARK, guard=False)
        self.calls = Calls(self.loop, self.processes, self.packed, self.events.append)
        self.reading, self.writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reading, False)
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.ranks = list(by_rank)
        self.env = {**os.environ, "RALLYPOINT_MARK": MARK} | (env or {})

    def start(self):
        for rank in self.ranks:
            self.calls.spawn(WorkerId(0, rank), self.env, (self.null, self.writing, self.writing))
        return self

    def until(self, done):
        assert self.loop.run_until(done, LIMIT), (self.events, self.calls)

    def of(self, kind):
        return [event for event in self.events if type(event) is kind]

    def started(self):
        self.until(lambda: len(self.of(Spawned)) == len(self.ranks))
        return {event.worker.local_rank: event.pid for event in self.of(Spawned)}

    def results(self):
        self.until(lambda: len(self.of(Exited)) == len(self.ranks))
        return {e.worker.local_rank: self.calls.result(e.worker, e.exit) for e in self.of(Exited)}

    def output(self):
        text = b""
        try:
            while piece := os.read(self.reading, 65536):
                text += piece
        except BlockingIOError:
            pass
        return text.decode()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_exc):
        self.calls.close()
        self.processes.close()
        self.packed.close()
        self.loop.close()
        for fd in (self.reading, self.writing, self.null):
            os.close(fd)


def outcome(function, *args, method="spawn", **options):
    with World(function, args, method=method, **options) as world:
        return world.results()[0]


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def fds():
    return len(os.listdir("/proc/self/fd"))


def test_each_worker_gets_its_own_arguments_and_its_value_comes_back(method):
    with World(lab.add, (1, 2), ("a", "b"), (lab.Point(1).x, 4), method=method) as world:
        results = world.results()
        assert {rank: result.value for rank, result in results.items()} == {0: 3, 1: "ab", 2: 5}
        assert all(result.exit.code == 0 and result.error is None for result in results.values())


def test_an_object_of_the_users_own_class_comes_back(method):
    assert outcome(lab.Point, 5, method=method).value == lab.Point(5)


def test_what_was_raised_comes_back_with_its_traceback(method, tmp_path):
    path = tmp_path / "error.json"
    with World(lab.raises, ("no luck",), method=method, env={"TORCHELASTIC_ERROR_FILE": str(path)}) as world:
        result = world.results()[0]
        shown = world.output()
    assert type(result.error) is lab.JobError
    assert (str(result.error), result.error.code) == ("no luck", 7)
    assert type(result.error.__cause__) is WorkerTraceback
    assert "calls_lab.py" in str(result.error.__cause__) and "function.py" not in str(result.error.__cause__)
    assert (result.exit.code, result.exit.error.headline) == (1, "JobError: no luck")
    assert "JobError: no luck" in shown and "function.py" not in shown
    assert '"message": "JobError: no luck"' in path.read_text()


def test_an_exception_that_cannot_be_pickled_comes_back_in_words(method):
    result = outcome(lab.raises_stubborn, method=method)
    assert result.error is None
    assert (result.exit.error.type, result.exit.error.message) == ("StubbornError", "one")
    assert "raises_stubborn" in result.exit.error.traceback


def test_the_words_name_the_cause_of_the_cause():
    said = outcome(lab.chained).exit.error
    assert said.headline == "RuntimeError: outer"
    assert "ValueError: invalid literal" in said.traceback and "direct cause" in said.traceback


def test_a_value_that_cannot_be_pickled_is_the_workers_failure(method):
    result = outcome(lab.returns_lock, method=method)
    assert result.exit.code == 1
    assert "pickle" in result.exit.error.message


@pytest.mark.parametrize(
    ("how", "code", "signalled"), [("exit 3", 3, None), ("exit", 0, None), ("text", 1, None), ("kill", None, 9)]
)
def test_ways_to_leave(method, how, code, signalled):
    with World(lab.leaves, (how,), method=method) as world:
        result = world.results()[0]
        assert (result.exit.code, result.exit.signal) == (code, signalled)
        assert result.value is None and result.error is None
        assert ("the reason" in world.output()) == (how == "text")


def test_a_process_that_ends_without_returning_has_returned_none(method):
    assert outcome(lab.leaves, "quiet", method=method).value is None


def test_large_values_of_several_workers(method):
    size = 30 << 20
    with World(lab.big, (size,), (size + 1,), method=method) as world:
        values = {rank: len(result.value) for rank, result in world.results().items()}
    assert values == {0: size, 1: size + 1}


def test_a_worker_that_dies_while_it_writes_its_value_has_none(method):
    result = outcome(lab.dies_while_writing, 8 << 20, method=method)
    assert (result.exit.signal, result.value, result.error) == (9, None, None)


def test_large_arguments():
    assert outcome(lab.add, b"x" * (20 << 20), b"y").value == b"x" * (20 << 20) + b"y"


def test_a_worker_killed_before_it_ran(method):
    with World(lab.sleeps, method=method) as world:
        (pid,) = world.started().values()
        os.kill(pid, signal.SIGKILL)
        result = world.results()[0]
    assert (result.exit.signal, result.value) == (9, None)


def test_every_way_of_starting_gives_the_same_process(method):
    extra = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)  # the program's own
    signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        with World(lab.state, (), (), method=method, env={"ONLY": "here"}) as world:
            states = {rank: result.value for rank, result in world.results().items()}
            pids = world.started()
    finally:
        os.close(extra)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for rank, state in states.items():
        assert state["pid"] == pids[rank] and state["parent"] == os.getpid()
        assert state["leads"] and state["thread"] and state["blocked"] == []
        assert state["env"]["ONLY"] == "here" and "PYTEST_CURRENT_TEST" in state["env"]
        assert state["handlers"][signal.SIGHUP] == str(signal.SIG_DFL)
        assert "default_int_handler" in state["handlers"][signal.SIGINT]
        assert state["argv"] == sys.argv and state["path"] == sys.path
        assert state["cpus"] == sorted(os.sched_getaffinity(0))
        if method != "fork":
            tracked = resource_tracker._resource_tracker._fd is not None  # an earlier test may have started it
            assert len(state["fds"]) <= 5 + tracked  # the three, the result, the listing
    assert (extra in states[0]["fds"]) == (method == "fork")


def test_a_fork_has_nothing_of_the_launchers():
    with World(lab.state, method="fork") as world:
        state = world.results()[0].value
        assert not {world.reading, world.writing, world.null, world.loop.wake_fd} & set(state["fds"])
        assert len(set(state["fds"]) - world.packed.kept - {0, 1, 2}) <= 2  # the result, the listing


def test_a_fork_does_not_run_what_its_parent_registered_but_its_own(method, tmp_path):
    path = tmp_path / "exits"
    code = f"""
    import atexit, os, sys
    sys.path[:0] = [{str(lab.__file__.rpartition("/")[0])!r}, {os.path.dirname(__file__)!r}]
    import test_proc_calls as t, calls_lab as lab
    if __name__ == "__main__":
        atexit.register(lambda: open({str(path)!r}, "a").write("parent "))
        try:
            assert t.outcome(lab.at_exit, {str(path)!r}, method={method!r}).exit.code == 0
        finally:
            open({str(path)!r}, "a").write("finally ")
    """
    run_script(tmp_path, code)
    assert path.read_text() == "worker finally parent "


def test_threads_of_the_function_are_waited_for(method, tmp_path):
    path = tmp_path / "thread"
    assert outcome(lab.by_thread, str(path), method=method).exit.code == 0
    assert path.read_text() == "done"


def test_output_goes_where_it_was_sent(method):
    with World(lab.say, ("hello",), method=method) as world:
        world.results()
        assert sorted(world.output().split()) == ["HELLO", "hello"]


def test_objects_of_multiprocessing_may_be_arguments(method):
    context = multiprocessing.get_context("fork" if method == "fork" else "spawn")
    queue, lock = context.SimpleQueue(), context.Lock()
    with World(lab.through_queue, (queue, lock, "a"), (queue, lock, "b"), method=method) as world:
        assert all(result.exit.code == 0 for result in world.results().values()), world.output()
    assert {queue.get(), queue.get()} == {"a", "b"}
    queue.close()


def test_lambdas_and_closures_by_cloudpickle(method):
    pytest.importorskip("cloudpickle")
    base = 40
    assert outcome(lambda x: base + x, 2, method=method).value == 42


def test_a_function_that_cannot_be_pickled_is_refused_before_anything_starts(monkeypatch):
    before = fds()
    with pytest.raises(UsageError, match=r"rallypoint\[functions\]"):
        monkeypatch.setitem(sys.modules, "cloudpickle", None)
        pack(Call(lambda: None, {0: ()}))
    monkeypatch.undo()
    with pytest.raises(UsageError, match="picklable"):
        pack(Call(lab.add, {0: (lab.threading.Lock(), 1)}))
    with pytest.raises(UsageError, match="one of spawn, fork, forkserver"):
        pack(Call(lab.add, {0: ()}, "thread"))
    assert fds() == before


def test_equal_arguments_are_packed_once():
    args = (b"x" * 1000,)
    with pack(Call(lab.add, {0: args, 1: args, 2: (1,)})) as packed:
        assert packed.payload(0) is packed.payload(1) is not packed.payload(2)


def test_a_fork_server_imports_what_multiprocessing_was_asked_to_preload(tmp_path):
    (tmp_path / "heavy.py").write_text("import os\nPID = os.getpid()\n")
    code = f"""
    import multiprocessing.forkserver, sys
    sys.path[:0] = [{os.path.dirname(__file__)!r}]
    import test_proc_calls as t, calls_lab as lab

    def where():
        import heavy, os
        return heavy.PID == os.getpid()

    if __name__ == "__main__":
        for modules in ([], ["heavy"]):
            multiprocessing.set_forkserver_preload(modules)
            print(t.outcome(where, method="forkserver").value)
    """
    assert run_script(tmp_path, code).split() == ["True", "False"]


def test_the_interpreters_options_are_handed_on(tmp_path):
    code = f"""
    import sys
    sys.path[:0] = [{os.path.dirname(__file__)!r}]
    import test_proc_calls as t

    def options():
        return sys.flags.dev_mode, 'ignore' in sys.warnoptions

    if __name__ == "__main__":
        print(t.outcome(options).value)
    """
    assert run_script(tmp_path, code, "-Wignore", "-Xdev", "main.py") == "(True, True)\n"


def test_a_fork_server_that_dies_fails_its_workers_and_is_replaced(monkeypatch):
    with World(lab.add, (1, 2), method="forkserver") as world:
        world.results()
        server = world.calls._server
        os.kill(server._pid, signal.SIGKILL)
        world.until(lambda: server._sock is None)
        world.calls.spawn(WorkerId(1, 0), world.env, (world.null, world.writing, world.writing))
        world.until(lambda: len(world.of(Exited)) == 2)
        assert not world.of(SpawnFailed)


def test_a_fork_server_that_cannot_start_fails_the_worker(monkeypatch):
    monkeypatch.setattr(packing.sys, "executable", "/nowhere/python")
    with World(lab.add, (1, 2), method="forkserver") as world:
        world.until(lambda: world.of(SpawnFailed))
    assert "no such file" in world.of(SpawnFailed)[0].reason


def launch(function, *args, method="spawn", **options):
    """Run a whole node, in this process."""
    call = Call(function, dict(enumerate(args)), method)
    logs = LogSpec(redirects={-1: 3}, directory=options.pop("directory"))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
    return run(Spec((), environ, nproc=len(args), call=call, verbosity=-1, logs=logs, **options))


def test_a_run_returns_the_results_by_rank(method, tmp_path):
    before = fds()
    outcome = launch(lab.add, (1, 2), (3, 4), method=method, directory=str(tmp_path))
    assert (outcome.status, outcome.results, outcome.errors) == ("succeeded", {0: 3, 1: 7}, {})
    assert fds() == before


def test_a_run_that_fails_has_the_exceptions(method, tmp_path):
    outcome = launch(one_fails, (0,), (1,), method=method, directory=str(tmp_path), max_restarts=1)
    assert (outcome.status, outcome.results, outcome.restarts) == ("failed", {}, 1)
    assert {rank: str(error) for rank, error in outcome.errors.items()} == {1: "rank 1"}
    assert type(outcome.errors[1]) is lab.JobError and type(outcome.errors[1].__cause__) is WorkerTraceback
    assert outcome.failures[0].error.headline == "JobError: rank 1"


def one_fails(rank):
    if rank == 1:
        lab.raises("rank 1")
    lab.sleeps()


def test_a_run_that_succeeds_after_a_restart_has_no_exceptions(tmp_path):
    outcome = launch(fails_once, (str(tmp_path / "been"),), directory=str(tmp_path / "logs"), max_restarts=1)
    assert (outcome.status, outcome.results, outcome.errors) == ("succeeded", {0: "1"}, {})


def fails_once(path):
    lab.append(path, "")
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        lab.raises("once")
    return os.environ["TORCHELASTIC_RESTART_COUNT"]


def run_script(folder, code, *command, name="main.py", **env):
    path = folder / name
    path.write_text(textwrap.dedent(code))
    argv = [sys.executable, *(command or (str(path),))]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=folder, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout


MAIN = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
print("imported as", __name__, flush=True)
import test_proc_calls as t

class MainError(Exception):
    pass

class Thing:
    pass

def double(x):
    return x * 2

def make():
    return Thing()

def fail():
    raise MainError("here")

def check(method):
    assert t.outcome(double, 21, method=method).value == 42
    assert type(t.outcome(make, method=method).value) is Thing
    assert type(t.outcome(fail, method=method).error) is MainError
    print("fine")
"""


def test_functions_of_a_script(tmp_path, method):
    text = run_script(tmp_path, MAIN + f"\nif __name__ == '__main__':\n    check({method!r})\n")
    assert text.count("imported as __main__") == 1 and text.endswith("fine\n")


def test_functions_of_a_module_run_with_dash_m(tmp_path, method):
    code = MAIN + f"\nif __name__ == '__main__':\n    check({method!r})\n"
    assert run_script(tmp_path, code, "-m", "main").endswith("fine\n")


def test_functions_of_python_dash_c(tmp_path, method):
    pytest.importorskip("cloudpickle")
    text = run_script(tmp_path, "", "-c", MAIN + f"\ncheck({method!r})\n")
    assert text.endswith("fine\n") and text.count("imported as") == 1


def test_functions_typed_in(tmp_path, method):
    """An interactive session, as a notebook's kernel is one."""
    pytest.importorskip("cloudpickle")
    code = MAIN + f"\ncheck({method!r})\n"
    done = subprocess.run(
        [sys.executable, "-"], input=code, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
    )
    assert done.stdout.endswith("fine\n"), done.stderr


def test_a_script_without_a_guard_is_told_so(tmp_path):
    code = MAIN + "\nresult = t.outcome(double, 1)\nprint(result.exit.code, result.exit.error.headline)\n"
    assert "__name__" in run_script(tmp_path, code).splitlines()[-1]


def test_two_hundred_starts_leave_nothing(method):
    count = 40 if method == "spawn" else 80
    outcome(lab.add, 1, 2, method=method)
    before = fds()
    for _ in range(count // 8):
        with World(lab.add, *[(1, 2)] * 8, method=method) as world:
            assert [result.value for result in world.results().values()] == [3] * 8
    assert fds() == before
    try:
        assert os.waitpid(-1, os.WNOHANG)[0] == 0, "a zombie is left"
    except ChildProcessError:
        pass


def test_the_rate_of_large_values_is_at_least_half_of_a_pipes():
    """Generous: the machine is shared. The figures proper are in benchmarks/."""
    size = 64 << 20
    began = time.perf_counter()
    with World(lab.big, (size,), method="fork") as world:
        assert len(world.results()[0].value) == size
    ours = time.perf_counter() - began
    assert ours < 4 * pipe_seconds(size) + 1.0


def pipe_seconds(size):
    began = time.perf_counter()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        data = memoryview(b"\x5a" * size)
        while data:
            data = data[os.write(writing, data[: 1 << 20]) :]
        os._exit(0)
    os.close(writing)
    buffer, left = bytearray(1 << 16), size
    while left:
        left -= os.readv(reading, (buffer,))
    os.close(reading)
    os.waitpid(pid, 0)
    return time.perf_counter() - began
