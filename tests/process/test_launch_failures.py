"""What went wrong is told without any change to the script: type, message, traceback, place. (FAULTS 23)"""

import json
import os
import signal

import pytest

from lab import Launch, reports, script

SLEEP = "time.sleep(600)\n"
RAISES = {
    "in the script": ("def inner():\n    raise ValueError('bad input: \\u00e9\\n second line')\ninner()\n", "in inner"),
    "in a thread": (
        "import threading\n"
        "def inner():\n    raise ValueError('bad input: \\u00e9\\n second line')\n"
        "def run():\n    try:\n        inner()\n    finally:\n        threading.Timer(0.1, os._exit, (1,)).start()\n"
        "threading.Thread(target=run, name='loader').start()\n" + SLEEP,
        "loader",
    ),
    "at import": ("import broken\n", "broken.py"),
    "in a chain": (
        "try:\n    {}['key']\nexcept KeyError as error:\n"
        "    raise ValueError('bad input: \\u00e9\\n second line') from error\n",
        "KeyError: 'key'",
    ),
}


def cause_of(launch):
    (cause,) = (r["fields"]["outcome"]["cause"] for r in reports(launch) if r["event"] == "finished")
    return cause


def write(folder, where):
    text, sign = RAISES[where]
    (folder / "broken.py").write_text("raise ValueError('bad input: \\u00e9\\n second line')\n")
    return script(folder, "if rank != 2:\n    " + SLEEP + text), sign


@pytest.mark.parametrize("where", RAISES)
def test_23_the_last_lines_tell_what_and_where(tmp_path, where):
    path, sign = write(tmp_path, where)
    with Launch("--nproc-per-node", 4, path) as launch:
        assert launch.end() == 1
    last = "\n".join(launch.lines[-30:])
    assert f"the run failed: rank 2 (local 2) on {os.uname().nodename}, pid " in last
    assert "ValueError: bad input: é" in last
    assert "Traceback (most recent call last):" in last
    assert sign in last
    assert launch.lines[-1] == f"rallyrun: exit code 1, from rank 2 on {os.uname().nodename}"
    # The launcher's own stack is nowhere.
    assert "/rallypoint/" not in launch.text.replace("/tmp/rallypoint", "")


@pytest.mark.parametrize("where", RAISES)
def test_23_machines_are_told_the_same(tmp_path, where):
    path, sign = write(tmp_path, where)
    with Launch("--nproc-per-node", 4, "--log-format", "json", path) as launch:
        assert launch.end() == 1
    cause = cause_of(launch)
    assert (cause["rank"], cause["local_rank"], cause["host"]) == (2, 2, os.uname().nodename)
    assert (cause["type"], cause["message"], cause["exit_code"]) == ("ValueError", "bad input: é\n second line", 1)
    assert sign in cause["traceback"]
    assert cause["traceback"].startswith("Traceback" if where != "in a thread" else "Exception in thread loader:")
    assert cause["traceback"].rstrip().endswith("ValueError: bad input: é\n second line")
    with open(cause["error_file"]) as file:
        content = json.load(file)["message"]
    assert content["message"] == "ValueError: bad input: é\n second line"
    assert content["extraInfo"]["py_callstack"] == cause["traceback"]


@pytest.mark.parametrize("text", ["this is no Python\n", "import json\n  x = 1\n", "x = '\0'\n"])
def test_23_a_script_that_cannot_be_compiled(tmp_path, text):
    path = tmp_path / "worker.py"
    path.write_text(text)
    with Launch("--nproc-per-node", 2, path) as launch:
        assert launch.end() == 1
    assert any(word in launch.text for word in ("SyntaxError", "IndentationError", "null byte"))
    assert "worker.py" in launch.text


def test_23_a_module_and_a_run_path(tmp_path):
    script(tmp_path, "raise ValueError(__name__, sys.argv)\n", "thing.py")
    for how in (("-m", "thing"), ("--run-path", "thing.py")):
        with Launch("--log-format", "json", *how, "a", cwd=tmp_path) as launch:
            assert launch.end() == 1
        cause = cause_of(launch)
        assert cause["type"] == "ValueError"
        assert "'__main__'" in cause["message"]
        assert "thing.py" in cause["traceback"]


CUT_OFF = """
import atexit, socket
port = sys.argv[1]
if rank == 0:
    server = socket.create_server(('127.0.0.1', 0))
    with open(port + '.new', 'w') as file:
        file.write(str(server.getsockname()[1]))
    os.rename(port + '.new', port)
    peer, _ = server.accept()
    peer.recv(1)
    # The interpreter takes its time to end; what it was connected to is the first to notice.
    atexit.register(lambda: (peer.close(), time.sleep(600)))
    raise RuntimeError('loss is nan')
while not os.path.exists(port):
    time.sleep(0.01)
peer = socket.create_connection(('127.0.0.1', int(open(port).read())))
peer.sendall(b'more than is read')
peer.recv(1)
"""


def test_the_cause_comes_before_its_consequences(tmp_path):
    """The peer whose connection broke ends first; the one whose exception broke it is named."""
    args = ("--nproc-per-node", 2, "--log-format", "json", script(tmp_path, CUT_OFF), tmp_path / "port")
    with Launch(*args) as launch:
        code = launch.end()
    (outcome,) = (r["fields"]["outcome"] for r in reports(launch) if r["event"] == "finished")
    assert (outcome["cause"]["rank"], outcome["cause"]["message"]) == (0, "loss is nan")
    assert [(other["type"], other["consequence"]) for other in outcome["others"]] == [("ConnectionResetError", True)]
    assert code == 1


@pytest.mark.parametrize("crash", ["import ctypes; ctypes.string_at(0)", "import faulthandler; os.abort()"])
def test_a_fatal_signal_shows_the_stack(tmp_path, crash):
    path = script(tmp_path, f"def broken_kernel():\n    {crash}\nif rank == 1:\n    broken_kernel()\n" + SLEEP)
    with Launch("--nproc-per-node", 2, path) as launch:
        code = launch.end()
    number = signal.SIGSEGV if "ctypes" in crash else signal.SIGABRT
    assert code == 128 + number
    assert number.name in launch.text
    last = "\n".join(launch.lines[-30:])
    assert "in broken_kernel" in last
    assert "rank 1 (local 1)" in last


def test_a_command_gets_its_exit_code_and_last_lines(tmp_path):
    command = "for i in 1 2 3; do echo line $i; done; echo no licence >&2; exit 77"
    with Launch("--log-format", "json", "--nproc-per-node", 2, "--no-python", "sh", "-c", command) as launch:
        assert launch.end() == 77
    cause = cause_of(launch)
    assert set(cause["last_lines"]) == {"line 1", "line 2", "line 3", "no licence"}
    assert cause["type"] == ""
    with Launch("--no-python", "sh", "-c", command) as launch:
        assert launch.end() == 77
    assert launch.lines.count("  no licence") == 1


def test_a_script_that_exits_by_itself_is_quoted(tmp_path):
    with Launch("--nproc-per-node", 2, script(tmp_path, "sys.exit('no data found')\n")) as launch:
        assert launch.end() == 1
    assert "  no data found" in launch.lines
    assert "Traceback" not in launch.text


def test_an_excepthook_of_the_users_own(tmp_path):
    text = "sys.excepthook = lambda *_: say('my hook')\nraise LookupError('mine')\n"
    with Launch("--log-format", "json", script(tmp_path, text)) as launch:
        assert launch.end() == 1
    assert launch.lines.count("my hook") == 1
    assert cause_of(launch)["type"] == "LookupError"


def test_two_failures_in_one_round_are_both_told(tmp_path):
    text = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nmeet()\ntime.sleep(0.3 * rank)\n"
    text += "raise OSError(f'disk of {rank}')\n"
    with Launch("--log-format", "json", "--nproc-per-node", 2, script(tmp_path, text)) as launch:
        assert launch.end() == 1
    (outcome,) = (r["fields"]["outcome"] for r in reports(launch) if r["event"] == "finished")
    assert outcome["cause"]["message"] == "disk of 0"
    assert [other["message"] for other in outcome["others"]] == ["disk of 1"]


def test_an_error_file_above_gets_a_copy(tmp_path):
    """As torch's @record around a launcher: who started us with TORCHELASTIC_ERROR_FILE finds it written."""
    above = tmp_path / "above.json"
    path = script(tmp_path, "raise ValueError('for those above')\n")
    with Launch(path, env={"TORCHELASTIC_ERROR_FILE": str(above)}) as launch:
        assert launch.end() == 1
    assert json.loads(above.read_text())["message"]["message"] == "ValueError: for those above"


def test_the_report_does_not_bury_the_console_of_a_thousand(tmp_path):
    """64 workers that all fail alike: a few are spelled out, the rest is counted."""
    with Launch("--nproc-per-node", 64, "--no-python", "sh", "-c", "exit 3") as launch:
        assert launch.end() == 3
        assert not launch.alive()
    assert len(launch.lines) < 40
