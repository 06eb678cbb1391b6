"""start_processes and its contexts: real processes, functions and commands."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import calls_lab as lab
import pytest

from rallypoint.elastic.multiprocessing import (
    DefaultLogsSpecs,
    LogsDest,
    LogsSpecs,
    MultiprocessContext,
    SignalException,
    Std,
    SubprocessContext,
    start_processes,
)

METHODS = ("spawn", "fork", "forkserver")
LIMIT = 40


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture(autouse=True)
def signals_as_before():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def begin(tmp_path):
    """Start processes with logs below ``tmp_path``; whatever is still there at the end is closed."""
    contexts = []

    def start(entrypoint, *args, envs=None, logs=None, name="job", **options):
        by_rank = dict(enumerate(args)) if args else {0: ()}
        logs = logs or DefaultLogsSpecs(str(tmp_path / "logs"))
        given = envs or {rank: {} for rank in by_rank}
        contexts.append(start_processes(name, entrypoint, by_rank, given, logs, **options))
        return contexts[-1]

    yield start
    for context in contexts:
        context.close(signal.SIGKILL)


def shell(text):
    return ("-c", text)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def read(path):
    with open(path) as file:
        return file.read()


# -- results


def test_functions_that_succeed(begin, method):
    context = begin(lab.add, (1, 2), (3, 4), start_method=method)
    assert type(context) is MultiprocessContext and list(context.pids()) == [0, 1]
    result = context.wait(LIMIT)
    assert result.return_values == {0: 3, 1: 7}
    assert (result.failures, result.is_failed()) == ({}, False)
    assert context.wait(0) is result, "asked again, the same"


def test_functions_of_which_one_fails(begin, method):
    context = begin(one_fails, (0,), (1,), (2,), start_method=method)
    pids = context.pids()
    result = context.wait(LIMIT)
    (failure,) = result.failures.values()
    assert (failure.local_rank, failure.pid, failure.exitcode) == (1, pids[1], 1)
    assert failure.message["message"] == "JobError: rank 1"
    assert result.return_values == {}
    assert not any(map(is_alive, pids.values()))


def one_fails(rank):
    if rank == 1:
        lab.raises("rank 1")
    lab.sleeps()


@pytest.mark.parametrize(("how", "code"), [("exit 3", 3), ("kill", -9), ("text", 1)])
def test_exit_codes_of_functions(begin, how, code):
    result = begin(lab.leaves, (how,)).wait(LIMIT)
    assert result.failures[0].exitcode == code
    assert result.failures[0].error_file == "<N/A>"


def test_large_values_come_back_and_nobody_waits_for_them(begin, method):
    context = begin(lab.big, *[(20 << 20,)] * 3, start_method=method)
    until(lambda: not any(map(is_alive, context.pids().values())))  # no worker waits for a reader
    assert {r: len(v) for r, v in context.wait(LIMIT).return_values.items()} == dict.fromkeys(range(3), 20 << 20)


def test_a_worker_that_dies_while_it_writes(begin, method):
    result = begin(lab.dies_while_writing, (8 << 20,), start_method=method).wait(LIMIT)
    assert result.failures[0].exitcode == -9


def test_commands_that_succeed(begin):
    context = begin("bash", shell("exit 0"), shell("exit 0"))
    assert type(context) is SubprocessContext
    result = context.wait(LIMIT)
    assert result.return_values == {0: None, 1: None} and not result.is_failed()


def test_commands_of_which_one_fails_with_those_it_took_along(begin):
    context = begin("bash", shell("sleep 60"), shell("exit 3"))
    result = context.wait(LIMIT)
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {1: 3, 0: -15}
    assert list(result.failures) == [1, 0]


def test_arguments_of_commands_become_text(begin):
    context = begin("echo", (1, 2.5, "x"), ([1, 2],), logs=None, envs={0: {}, 1: {}})
    context.wait(LIMIT)


# -- starting


def test_wrong_ranks_start_nothing(tmp_path):
    logs = DefaultLogsSpecs(str(tmp_path))
    with pytest.raises(RuntimeError, match=r"args, local rank mapping mismatch, expected: \{0\}, actual: \{1\}"):
        start_processes("job", lab.add, {1: ()}, {0: {}}, logs)
    with pytest.raises(RuntimeError, match="envs, local rank mapping mismatch"):
        start_processes("job", lab.add, {0: ()}, {}, logs)


def test_what_cannot_be_started_raises_and_leaves_nothing(tmp_path, begin, monkeypatch):
    plain = tmp_path / "plain"
    plain.touch()
    begin("true").wait(LIMIT)
    before = descriptors()
    with pytest.raises(FileNotFoundError, match="worker 0 cannot be started"):
        begin("no-such-program", (), ())
    with pytest.raises(PermissionError):
        begin(str(plain))
    with pytest.raises(ValueError, match="spawn, fork, forkserver"):
        begin(lab.add, start_method="thread")
    with pytest.raises(TypeError, match="picklable"):
        begin(lab.add, (threading.Lock(), 1))
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(AttributeError, match=r"rallypoint\[functions\]"):
        begin(lambda: None)
    assert descriptors() == before


def test_a_context_starts_once(begin):
    context = begin("true")
    with pytest.raises(ValueError, match="twice"):
        context.start()


def test_before_the_start(tmp_path):
    logs = DefaultLogsSpecs(str(tmp_path))
    context = MultiprocessContext("job", lab.add, {0: (1, 2)}, {0: {}}, "spawn", logs)
    with pytest.raises(AssertionError):
        context.pids()
    context.close()
    assert SubprocessContext("job", "true", {0: ()}, {0: {}}, logs).pids() == {}


def test_the_environment(begin, method, monkeypatch):
    monkeypatch.setenv("FROM_ABOVE", "seen")
    monkeypatch.setenv("REPLACED", "old")
    envs = {rank: {"LOCAL_RANK": str(rank), "REPLACED": "new"} for rank in range(2)}
    result = begin(lab.state, (), (), envs=envs, start_method=method).wait(LIMIT)
    for rank, state in result.return_values.items():
        env = state["env"]
        assert (env["FROM_ABOVE"], env["REPLACED"], env["LOCAL_RANK"]) == ("seen", "new", str(rank))
        assert env["TORCHELASTIC_ERROR_FILE"].endswith(f"/{rank}/error.json")
        assert state["leads"]


def test_a_worker_may_start_workers_of_its_own(tmp_path, method):
    command = script(
        tmp_path,
        f"""
        context = start_processes(
            "job", nest, {{0: (sys.argv[1],)}}, {{0: {{}}}}, DefaultLogsSpecs(sys.argv[1]), start_method={method!r}
        )
        print(context.wait(), flush=True)
        """,
    )
    inner = "\ndef inner(x):\n    return x + 1\n"
    start = "start_processes('in', inner, {0: (1,)}, {0: {}}, DefaultLogsSpecs(folder))"
    nest = f"def nest(folder):\n    return {start}.wait()"
    path = tmp_path / "main.py"
    path.write_text(path.read_text().replace("\nif __name__", f"{inner}\n{nest}\n\nif __name__"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert "return_values={0: RunProcsResult(return_values={0: 2}" in done.stdout


# -- waiting


def test_wait_without_patience_only_looks(begin):
    context = begin("sleep", (60,))
    began = time.monotonic()
    assert context.wait(0) is None
    assert context.wait(0.05) is None
    assert time.monotonic() - began < 5


def test_wait_is_told_at_once_whatever_the_period(begin):
    context = begin("sleep", (0.2,))
    began = time.monotonic()
    assert context.wait(-1, period=30) is not None
    assert time.monotonic() - began < 10


def test_wait_after_close_tells_how_they_ended(begin):
    context = begin("sleep", (60,), (60,))
    context.close()
    assert {f.exitcode for f in context.wait(0).failures.values()} == {-15}


def test_several_threads_wait_and_another_closes(begin):
    context = begin(lab.sleeps)
    results = []
    waiting = [threading.Thread(target=lambda: results.append(context.wait(LIMIT))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    assert context.wait(0) is None
    context.close()
    for thread in waiting:
        thread.join(LIMIT)
    assert [result.failures[0].exitcode for result in results] == [-15] * 3


def test_several_contexts_at_once_from_several_threads(tmp_path, method):
    results = {}

    def work(number):
        logs = DefaultLogsSpecs(str(tmp_path / str(number)))
        context = start_processes("job", lab.add, {0: (number, 1)}, {0: {}}, logs, start_method=method)
        results[number] = context.wait(LIMIT).return_values[0]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert results == {number: number + 1 for number in range(4)}


# -- closing


def test_close_ends_all_and_may_be_repeated(begin, method):
    context = begin(lab.sleeps, (), (), start_method=method)
    pids = context.pids()
    context.close()
    context.close()
    assert not any(map(is_alive, pids.values()))
    assert context.pids() == pids


def test_close_kills_who_ignores_the_signal(begin, tmp_path):
    context = begin(lab.ignores_term, logs=DefaultLogsSpecs(str(tmp_path), redirects=Std.OUT))
    until(lambda: "ready" in read(context.stdouts[0]))
    context.close(signal.SIGTERM, timeout=1)
    assert context.wait(0).failures[0].exitcode == -9


def test_close_takes_another_signal(begin):
    context = begin("sleep", (60,))
    context.close(signal.SIGINT)
    assert context.wait(0).failures[0].exitcode == -2


def test_what_workers_leave_behind_ends_with_them(begin, method):
    context = begin(lab.leaves_a_child, start_method=method)
    child = context.wait(LIMIT).return_values[0]
    assert not is_alive(child)


# -- signals


SCRIPT = f"""
import os, signal, sys, threading, time
sys.path.insert(0, {os.path.dirname(__file__)!r})
import calls_lab as lab
from rallypoint.elastic.multiprocessing import DefaultLogsSpecs, SignalException, start_processes

def begin(function, *args):
    return start_processes("job", function, {{0: args}}, {{0: {{}}}}, DefaultLogsSpecs(sys.argv[1]))
"""


def script(folder, text):
    path = folder / "main.py"
    path.write_text(SCRIPT + "\nif __name__ == '__main__':\n" + textwrap.indent(textwrap.dedent(text), "    "))
    return [sys.executable, str(path), str(folder / "logs")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_raises_out_of_wait(tmp_path, number):
    command = script(
        tmp_path,
        """
        context = begin(lab.announces_itself_and_sleeps)
        try:
            context.wait()
        except SignalException as error:
            context.close(error.sigval)
            print(error.sigval.name, context.wait(0).failures[0].exitcode, error, flush=True)
        """,
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        pid = int(launcher.stdout.readline())
        launcher.send_signal(number)
        name, code, *words = launcher.stdout.readline().split()
        assert (name, int(code)) == (number.name, -number)
        assert f"Process {launcher.pid} got signal:" in " ".join(words)
        assert launcher.wait(LIMIT) == 0
    assert not is_alive(pid)


def test_a_second_signal_while_closing_kills_at_once(tmp_path):
    command = script(
        tmp_path,
        """
        context = begin(lab.ignores_term)
        try:
            context.wait()
        except SignalException as error:
            try:
                context.close(signal.SIGTERM, timeout=600)
            except SignalException:
                print("told twice", context.wait(0).failures[0].exitcode, flush=True)
        """,
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout.readline() == "ready\n"
        launcher.send_signal(signal.SIGTERM)
        assert launcher.stdout.readline() == "asked\n"  # by close
        launcher.send_signal(signal.SIGTERM)
        assert launcher.stdout.readline() == "told twice -9\n"
        assert launcher.wait(LIMIT) == 0


def test_a_thread_leaves_signals_alone_and_says_so_once(tmp_path):
    command = script(
        tmp_path,
        """
        def work():
            assert begin(lab.add, 1, 2).wait().return_values == {0: 3}
        for _ in range(2):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        """,
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stderr.count("handlers can only be set by its main thread") == 1


def test_the_signals_are_those_asked_for(begin, monkeypatch, caplog):
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGHUP, SIGNOSUCH")
    before = signal.getsignal(signal.SIGTERM)
    begin("true").wait(LIMIT)
    assert signal.getsignal(signal.SIGTERM) is before and "SIGNOSUCH" in caplog.text
    with pytest.raises(SignalException):
        signal.raise_signal(signal.SIGHUP)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_survives_a_launcher_that_is_killed(tmp_path, method):
    command = script(
        tmp_path,
        f"""
        context = start_processes(
            "job", lab.sleeps, {{0: (), 1: ()}}, {{0: {{}}, 1: {{}}}}, DefaultLogsSpecs(sys.argv[1]),
            start_method={method!r},
        )
        print(*context.pids().values(), flush=True)
        context.wait()
        """,
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        pids = [int(word) for word in launcher.stdout.readline().split()]
        assert len(pids) == 2
        until(lambda: guarded(launcher.pid))
        launcher.kill()
        launcher.wait()
    until(lambda: not any(map(is_alive, pids)))


def guarded(pid):
    listing = subprocess.run(
        ["ps", "-ww", "-o", "args=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return "guard.py" in listing.stdout


# -- output


def test_redirected_streams_are_the_files_themselves(begin, tmp_path, method):
    logs = DefaultLogsSpecs(str(tmp_path), redirects={0: Std.ALL, 1: Std.OUT})
    result = begin(lab.say, ("one",), ("two",), logs=logs, start_method=method).wait(LIMIT)
    assert read(result.stdouts[0]) == "one\n" and read(result.stderrs[0]) == "ONE\n"
    assert read(result.stdouts[1]) == "two\n" and result.stderrs[1] == ""


def test_a_worker_writes_on_though_nobody_waits(begin, tmp_path):
    logs = DefaultLogsSpecs(str(tmp_path), redirects={0: Std.OUT}, tee={1: Std.OUT})
    flood = shell("head -c 20000000 /dev/zero | tr '\\0' 'x' | fold -w 100")
    context = begin("bash", flood, flood, logs=logs)
    until(lambda: not any(map(is_alive, context.pids().values())))
    context.wait(LIMIT)
    assert os.path.getsize(context.stdouts[0]) == os.path.getsize(context.stdouts[1]) == 20200000 - 1


def test_tee_prefixes_and_filters(begin, tmp_path, capfd):
    logs = DefaultLogsSpecs(str(tmp_path), tee={0: Std.ALL, 1: Std.OUT, 2: Std.ALL}, local_ranks_filter={0, 1})
    text = "echo loss 1; echo rest; echo loss 2 >&2; printf unfinished"
    context = begin(
        "bash",
        *[shell(text)] * 3,
        logs=logs,
        log_line_prefixes={1: "[one] "},
        duplicate_stdout_filters=["loss", "nothing"],
        duplicate_stderr_filters=["rest"],
    )
    context.wait(LIMIT)
    out, err = capfd.readouterr()
    expected = ["[job0]:loss 1", "[job0]:rest", "[job0]:unfinished", "[one] loss 1", "[one] rest", "[one] unfinished"]
    assert sorted(out.splitlines()) == expected
    assert sorted(err.splitlines()) == ["[job0]:loss 2", "loss 2"]  # rank 1's is not tee'd, rank 2 is silent
    assert read(context.stdouts[2]) == "loss 1\nrest\nunfinished"
    folder = os.path.dirname(os.path.dirname(context.stdouts[0]))
    assert sorted(read(f"{folder}/filtered_stdout.log").splitlines()) == ["[job0]:loss 1", "[one] loss 1"]
    assert read(f"{folder}/filtered_stderr.log") == ""


def test_tee_goes_to_the_object_that_stands_for_standard_output(begin, tmp_path, capsys):
    begin("echo", ("hello",), logs=DefaultLogsSpecs(str(tmp_path), tee=Std.OUT)).wait(LIMIT)
    assert capsys.readouterr().out == "[job0]:hello\n"


def test_output_without_redirection_is_the_launchers_own(begin, capfd, method):
    begin(lab.say, ("hello",), start_method=method).wait(LIMIT)
    assert capfd.readouterr() == ("hello\n", "HELLO\n")


def test_nowhere_at_all(begin, capfd):
    result = begin(lab.say, ("hello",), logs=DefaultLogsSpecs(os.devnull, tee=Std.ALL)).wait(LIMIT)
    assert result.return_values == {0: "hello"} and capfd.readouterr().out == "hello\n"


def test_destinations_of_the_users_own(begin, tmp_path):
    class Own(LogsSpecs):
        @property
        def root_log_dir(self):
            return str(tmp_path)

        def reify(self, envs):
            paths = {rank: str(tmp_path / f"{rank}.txt") for rank in envs}
            return LogsDest(paths, dict.fromkeys(envs, os.devnull), paths, {}, dict.fromkeys(envs, ""))

    for text in ("first", "second"):  # written anew
        begin(lab.say, (text,), logs=Own()).wait(LIMIT)
    assert (tmp_path / "0.txt").read_text() == "second\n"


# -- what is left


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


def children():
    listing = subprocess.run(
        ["ps", "-ww", "-o", "pid=,stat=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True
    )
    return [line for line in listing.stdout.splitlines() if " ps " not in line and "resource_tracker" not in line]


def test_two_hundred_starts_leave_nothing(begin, tmp_path):
    logs = DefaultLogsSpecs(str(tmp_path), tee=Std.OUT)
    begin("true", logs=logs).wait(LIMIT)
    before, threads = len(descriptors()), threading.active_count()
    for _ in range(20):
        for method, count in (("fork", 5), ("", 5)):
            if method:
                result = begin(lab.add, *[(1, 2)] * count, start_method=method, logs=logs).wait(LIMIT)
                assert result.return_values == dict.fromkeys(range(count), 3)
            else:
                assert not begin("true", *[()] * count, logs=logs).wait(LIMIT).is_failed()
    assert len(descriptors()) == before
    assert threading.active_count() == threads
    assert children() == []
