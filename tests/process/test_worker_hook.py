"""The worker hook in real interpreters: what it records, and that nothing else is different."""

import glob
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap

import pytest

from rallypoint.model.spec import STACK_SIGNAL
from rallypoint.worker import HOOK


def interpreters():
    """Ours, and the oldest and newest of the others on this machine that a worker may run on."""
    found = {}
    for path in glob.glob(os.path.expanduser("~/.pyenv/versions/3.*/bin/python3")):
        minor = int(path.split("/versions/3.")[1].split(".")[0])
        if minor >= 8 and minor != sys.version_info[1]:
            found[minor] = path
    return [sys.executable] + [found[minor] for minor in sorted({min(found), max(found)} if found else ())]


INTERPRETERS = interpreters()


class Worker:
    """A script in a folder of its own, run as the launcher runs it (or, with ``hook=False``, plainly)."""

    def __init__(self, folder):
        self.folder = folder
        self.error_file = str(folder / "out" / "error.json")
        (folder / "out").mkdir()

    def write(self, name, text):
        path = self.folder / name
        path.write_text(textwrap.dedent(text))
        return str(path)

    def environ(self, hook=True, old=None, **more):
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}
        env |= {"TORCHELASTIC_ERROR_FILE": self.error_file, "RALLYPOINT_MARK": "m"}
        if old is not None:
            env["PYTHONPATH"] = old
        if hook:
            env["PYTHONPATH"] = HOOK if not old else f"{HOOK}:{old}"
            env["RALLYPOINT_STACK_SIGNAL"] = str(int(STACK_SIGNAL))
            if old is not None:
                env["RALLYPOINT_PYTHONPATH"] = old
        return env | more

    def run(self, text, *options, python=sys.executable, hook=True, old=None, env=None, **popen):
        command = [python, "-u", *options]
        if text is not None:
            command.append(self.write("script.py", text))
        env = self.environ(hook, old, **(env or {}))
        done = subprocess.run(command, env=env, capture_output=True, timeout=60, cwd=self.folder, **popen)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    @property
    def error(self):
        """(message, traceback), or None without a file. Checks the form of the file, and that it is alone."""
        names = os.listdir(os.path.dirname(self.error_file))
        if not names:
            return None
        assert names == ["error.json"]
        with open(self.error_file, encoding="ascii") as file:
            content = json.load(file)["message"]
        assert set(content) == {"message", "extraInfo"} and int(content["extraInfo"]["timestamp"]) > 1e9
        assert "sitecustomize" not in content["extraInfo"]["py_callstack"]
        return content["message"], content["extraInfo"]["py_callstack"]


@pytest.fixture
def worker(tmp_path):
    return Worker(tmp_path)


@pytest.mark.parametrize("python", INTERPRETERS)
def test_exception_of_the_script(worker, python):
    script = """
        def inner():
            try:
                {}["k"]
            except KeyError as error:
                raise ValueError("bäd \\"x\\"\\n😀") from error
        inner()
    """
    code, _, stderr = worker.run(script, python=python)
    message, trace = worker.error
    assert code == 1 and message == 'ValueError: bäd "x"\n😀'
    assert "KeyError: 'k'" in trace and "direct cause" in trace and "in inner" in trace
    assert trace.encode("ascii", "backslashreplace").decode() in stderr or trace in stderr
    assert stat.S_IMODE(os.stat(worker.error_file).st_mode) == 0o600


@pytest.mark.parametrize("python", INTERPRETERS)
def test_exception_of_a_thread(worker, python):
    script = """
        import threading
        def work():
            raise RuntimeError("in a thread")
        thread = threading.Thread(target=work, name="loader")
        thread.start(); thread.join()
        raise SystemExit(4)
    """
    code, _, stderr = worker.run(script, python=python)
    message, trace = worker.error
    assert code == 4 and message == "RuntimeError: in a thread"
    assert trace.startswith("Exception in thread loader:\nTraceback") and "in work" in trace
    assert "Exception in thread loader" in stderr


@pytest.mark.parametrize("python", INTERPRETERS)
def test_main_thread_outranks_an_earlier_thread(worker, python):
    script = """
        import threading
        for text in ("first", "second"):
            thread = threading.Thread(target=lambda: 1 / 0 if text == "first" else int(text))
            thread.start(); thread.join()
        {}["main"]
    """
    worker.run(script, python=python)
    assert worker.error[0] == "KeyError: 'main'"


def test_first_of_several_threads_stays(worker):
    script = """
        import threading
        for text in ("first", "second"):
            thread = threading.Thread(target=int, args=(text,))
            thread.start(); thread.join()
    """
    assert worker.run(script)[0] == 0
    assert "'first'" in worker.error[0]


@pytest.mark.parametrize("python", INTERPRETERS)
@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("print('fine')", 0),
        ("raise SystemExit(3)", 3),
        ("import sys; sys.exit('no data')", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import atexit; atexit.register(lambda: 1 / 0)", 0),
        ("import sys\ntry: 1 / 0\nexcept Exception: sys.excepthook(*sys.exc_info())", 0),
        ("import threading\nt = threading.Thread(target=exit); t.start(); t.join()", 0),
        ("import os\nif os.fork() == 0: raise ValueError('the child')\nos.wait()", 0),
        ("import os, sys\nsys.excepthook = print\nif os.fork() == 0: raise ValueError('the child')\nos.wait()", 0),
    ],
)
def test_what_is_no_exception_leaves_no_file(worker, python, script, code):
    assert worker.run(script, python=python)[0] == code
    assert worker.error is None


@pytest.mark.parametrize("python", INTERPRETERS)
@pytest.mark.parametrize("change", ["sys.excepthook = lambda *a: None", "del sys.excepthook", "sys.excepthook = None"])
def test_exception_under_the_users_own_excepthook(worker, python, change):
    worker.run(f"import sys\n{change}\nraise ValueError('mine')", python=python)
    assert worker.error[0] == "ValueError: mine"


def test_users_excepthook_that_calls_the_old_one(worker):
    script = """
        import os, sys
        old = sys.excepthook
        def hook(*args):
            old(*args)
            print(os.path.exists(os.environ["TORCHELASTIC_ERROR_FILE"]))
        sys.excepthook = hook
        raise ValueError("mine")
    """
    assert worker.run(script)[1] == "True\n"  # at once, not only when the interpreter is done


def test_file_is_there_before_a_hanging_thread_is_awaited(worker):
    script = """
        import os, threading, time
        def awaits():
            while not os.path.exists(os.environ["TORCHELASTIC_ERROR_FILE"]):
                time.sleep(0.01)
            print("seen")
        threading.Thread(target=awaits).start()
        raise ValueError("main is gone, a thread is left")
    """
    assert worker.run(script)[:2] == (1, "seen\n")


@pytest.mark.parametrize("python", INTERPRETERS)
def test_syntax_error_and_failing_import(worker, python):
    worker.run("def f(:\n  pass\n", python=python)
    message, trace = worker.error
    assert message.startswith("SyntaxError: invalid syntax") and "def f(:" in trace
    os.remove(worker.error_file)
    worker.run("import no_such_module_here", python=python)
    assert worker.error[0] == "ModuleNotFoundError: No module named 'no_such_module_here'"


@pytest.mark.parametrize("python", INTERPRETERS)
def test_module_worker_and_options(worker, python):
    worker.write("modular.py", "import sys\nprint(sys.argv[1:], sys.path[0])\nraise ValueError(__name__)")
    code, out, _ = worker.run(None, "-X", "utf8", "-W", "ignore", "-m", "modular", "a", python=python)
    assert (code, out) == (1, f"['a'] {worker.folder}\n")
    assert worker.error[0] == "ValueError: __main__"


def test_an_existing_file_is_kept(worker):
    with open(worker.error_file, "w") as file:
        json.dump(
            {"message": {"message": "theirs", "extraInfo": {"py_callstack": "", "timestamp": "2000000000"}}}, file
        )
    worker.run("raise ValueError('ours')")
    assert worker.error[0] == "theirs"


def test_a_file_rewritten_by_somebody_else_is_kept(worker):
    script = """
        import json, os, threading
        thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()
        extra = {"py_callstack": "", "timestamp": "2000000000"}
        with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
            json.dump({"message": {"message": "theirs", "extraInfo": extra}}, file)
        raise ValueError("ours")
    """
    worker.run(script)
    assert worker.error[0] == "theirs"


def test_relative_path_and_changed_directory(worker):
    worker.run("import os; os.chdir('/'); 1 / 0", env={"TORCHELASTIC_ERROR_FILE": "out/error.json"})
    assert worker.error[0] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("python", INTERPRETERS)
@pytest.mark.parametrize("closing", ["os.close(2)", "sys.stderr.close()", "sys.stderr = None", "del sys.stderr"])
def test_closed_stderr(worker, python, closing):
    worker.run(f"import os, sys\n{closing}\nraise ValueError('unseen')", python=python)
    assert worker.error[0] == "ValueError: unseen" and "line 3" in worker.error[1]


def test_stderr_closed_from_the_start(worker):
    worker.write("script.py", "import faulthandler\nprint(faulthandler.is_enabled())\nraise ValueError('unseen')")
    command = f"exec {sys.executable} script.py 2>&-"
    done = subprocess.run(command, shell=True, cwd=worker.folder, env=worker.environ(), capture_output=True, timeout=60)
    assert done.stdout == b"False\n"
    assert worker.error[0] == "ValueError: unseen"


@pytest.mark.parametrize("python", INTERPRETERS)
def test_modules_of_the_user_with_names_of_the_library_are_not_run(worker, python):
    names = "json tokenize token types string linecache time resource re"
    for name in names.split():
        worker.write(f"{name}.py", f"print('ran {name}')")
    plain = worker.run("1 / 0", python=python, hook=False)
    assert worker.run("1 / 0", python=python)[:2] == plain[:2]
    assert worker.error[0].startswith("ZeroDivisionError")


@pytest.mark.parametrize("python", INTERPRETERS)
def test_no_descriptor_left(worker, python):
    script = """
        import os, sys
        try:
            while True:
                os.open("/dev/null", os.O_RDONLY)
        except OSError:
            print(os.fstat(0).st_rdev)
            raise
    """
    worker.run(script, python=python, stdin=subprocess.DEVNULL)
    assert worker.error[0] == "OSError: [Errno 24] Too many open files: '/dev/null'"


@pytest.mark.parametrize("python", INTERPRETERS)
@pytest.mark.parametrize("text", ["'x' * 5_000_000", "'\\U0001F600' * 400_000", "'\\0' * 300_000"])
def test_huge_message_is_cut_in_the_middle(worker, python, text):
    worker.run(f"raise ValueError('begin ' + {text} + ' end')", python=python)
    assert os.path.getsize(worker.error_file) <= 1 << 20
    message, trace = worker.error
    assert message.startswith("ValueError: begin ") and message.endswith(" end")
    assert "characters left out by rallypoint" in message
    assert trace.startswith("Traceback") and trace.endswith(" end\n")


def test_exception_without_text(worker):
    worker.run("class Odd(Exception):\n    def __str__(self): raise TypeError\nraise Odd")
    message, trace = worker.error
    assert message == "Odd: <its text cannot be made: TypeError>" and "line 3" in trace


def test_other_threads_still_reach_stderr_while_a_traceback_is_taken(worker):
    script = """
        import sys, threading
        class Slow(Exception):
            def __str__(self):
                thread = threading.Thread(target=lambda: print("meanwhile", file=sys.stderr))
                thread.start(); thread.join()
                return "slow"
        raise Slow
    """
    _, _, stderr = worker.run(script)
    assert stderr.count("meanwhile\n") == 3  # the headline, the file, the console
    assert "meanwhile" not in worker.error[1]


@pytest.mark.parametrize("env", [{"RALLYPOINT_STACK_SIGNAL": "x"}, {"TORCHELASTIC_ERROR_FILE": "/no/such/error.json"}])
def test_hook_never_breaks_the_worker(worker, env):
    code, out, stderr = worker.run("print('on')\n1 / 0", env=env)
    assert (code, out) == (1, "on\n")
    assert stderr.count("Traceback") == 1 and "sitecustomize" not in stderr


@pytest.mark.parametrize("python", INTERPRETERS)
@pytest.mark.parametrize("own", [None, "import sys; sys.own = 1", "1 / 0", "import no_such", "import sys; sys.exit(9)"])
def test_users_own_sitecustomize(worker, python, own):
    (worker.folder / "site").mkdir()
    if own is not None:
        worker.write("site/sitecustomize.py", own)
    script = """
        import os, sys
        print(getattr(sys, "own", 0), os.environ.get("PYTHONPATH"), sys.path)
        print(getattr(sys.modules.get("sitecustomize"), "__file__", None))
    """
    old = str(worker.folder / "site")
    plain = worker.run(script, python=python, hook=False, old=old)
    hooked = worker.run(script, python=python, old=old)
    if own is None or "exit" not in own:
        assert hooked == plain
    else:  # fatal, with a traceback that shows all of the start
        assert hooked[:2] == plain[:2] and hooked[2].endswith("SystemExit: 9\n")
    assert worker.error is None


def test_sitecustomize_that_fails_verbosely_is_no_failure_of_the_worker(worker):
    (worker.folder / "site").mkdir()
    worker.write("site/sitecustomize.py", "1 / 0")
    assert worker.run("pass", "-v", old=str(worker.folder / "site"))[0] == 0
    assert worker.error is None


def test_threading_imported_before_the_hook(worker):
    """A .pth file may import threading before site comes to the hook."""
    folder = str(worker.folder)
    script = """
        import threading
        thread = threading.Thread(target=int, args=("x",)); thread.start(); thread.join()
    """
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", folder + "/v"], capture_output=True, timeout=60
    )
    assert made.returncode == 0
    (pth,) = glob.glob(folder + "/v/lib/python3*/site-packages")
    worker.write(os.path.relpath(pth, folder) + "/early.pth", "import threading")
    worker.run(script, python=folder + "/v/bin/python")
    assert worker.error[0].startswith("ValueError")


def test_fatal_signal_writes_the_stack(worker):
    code, _, stderr = worker.run("import os, signal\ndef crash(): os.kill(os.getpid(), signal.SIGSEGV)\ncrash()")
    assert code == -signal.SIGSEGV
    assert "Segmentation fault" in stderr and "in crash" in stderr


def test_stack_signal_writes_all_stacks_and_the_worker_goes_on(worker):
    script = f"""
        import os, threading
        gate = threading.Event()
        def waits_here(): gate.wait()
        thread = threading.Thread(target=waits_here); thread.start()
        os.kill(os.getpid(), {int(STACK_SIGNAL)})
        gate.set(); thread.join(); print("on")
    """
    code, out, stderr = worker.run(script)
    assert (code, out) == (0, "on\n")
    assert "in waits_here" in stderr and "in <module>" in stderr


@pytest.mark.torch
def test_torch_record_keeps_its_file(worker):
    pytest.importorskip("torch")
    script = """
        from torch.distributed.elastic.multiprocessing.errors import record
        @record
        def main():
            raise ValueError("recorded")
        main()
    """
    code, _, stderr = worker.run(script)
    message, trace = worker.error
    assert code == 1 and message == "ValueError: recorded" and stderr.count("ValueError: recorded") == 1
    assert "elastic/multiprocessing/errors/__init__.py" in trace and "in <module>" not in trace  # torch's view of it
