"""The commands: exit statuses, verbs, help, version, and what they cost."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rallypoint
from rallypoint import driver, launch
from rallypoint.cli import rallypoint as verbs
from rallypoint.cli import rallyrun
from rallypoint.cli.help import render
from rallypoint.cli.option import LEGACY, VALUE
from rallypoint.cli.options import options
from rallypoint.model.errors import RefusedError, UsageError
from rallypoint.model.result import Outcome

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runs(monkeypatch):
    """Replace the driver: collect what it is asked to run, end as ``runs.ending`` says."""

    class Runs(list):
        ending = Outcome("succeeded", 0)

    found = Runs()

    def run(spec, notices=(), observers=()):
        found.append((spec, notices))
        if isinstance(found.ending, BaseException):
            raise found.ending
        return found.ending

    monkeypatch.setattr(driver, "run", run, raising=False)
    return found


def test_rallyrun_hands_the_spec_to_the_driver_and_ends_as_it_says(runs, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    runs.ending = Outcome("failed", 42)
    assert rallyrun.main(["--nproc-per-node", "2", "--no-python", "true", "--help"]) == 42
    [(spec, notices)] = runs
    assert (spec.argv, spec.nproc, spec.environ) == (("true", "--help"), 2, dict(os.environ))
    assert len(notices) == 1 and "OMP_NUM_THREADS" in notices[0]


def test_main_reads_sys_argv(runs, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rallyrun", "--no-python", "true"])
    assert rallyrun.main() == 0
    monkeypatch.setattr(sys, "argv", ["rallypoint", "run", "--no-python", "true", "x"])
    assert verbs.main() == 0
    monkeypatch.setattr(sys, "argv", ["launch", "--no-python", "--use-env", "true", "y"])
    assert launch.main() == 0
    assert [spec.argv for spec, _ in runs] == [("true",), ("true", "x"), ("true", "y")]


@pytest.mark.parametrize(
    ("ending", "status", "message"),
    [
        (KeyboardInterrupt(), 130, ""),
        (UsageError("--x", "y", "z"), 2, "rallyrun: error: --x: 'y' is not usable: z\nsee rallyrun --help\n"),
        (RefusedError("h:1", "run id", "a", "b"), 77,
         "rallyrun: error: refused by the run at h:1: run id is 'a' here, 'b' there\n"),
    ],
)  # fmt: skip
def test_an_error_is_a_line_and_a_status(runs, capsys, ending, status, message):
    runs.ending = ending
    assert rallyrun.main(["--no-python", "true"]) == status
    assert capsys.readouterr() == ("", message)


def test_a_defect_of_ours_is_a_line_and_keeps_its_traceback(runs, capsys, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    runs.ending = ZeroDivisionError("oops")
    assert rallyrun.main(["--no-python", "true"]) == 70
    line = capsys.readouterr().err
    [file] = tmp_path.iterdir()
    assert line == (
        "rallyrun: internal error: ZeroDivisionError: oops "
        f"(a defect of Rallypoint; traceback in {file})\n"
    )  # fmt: skip
    assert file.read_text().startswith("Traceback")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert rallyrun.main(["--no-python", "true"]) == 70
    assert "(traceback: Traceback (most recent call last): | " in capsys.readouterr().err


def test_a_closed_stderr_does_not_change_the_status():
    command = [sys.executable, "-m", "rallypoint", "run", "--nonsense"]
    reader, writer = os.pipe()
    os.close(reader)
    assert subprocess.run(command, stderr=writer).returncode == 2
    os.close(writer)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "a verb is missing: run, store, doctor, version or help"),
        (["start"], "there is no verb start; there are run, store, doctor, version and help"),
        (["store"], "store needs --listen HOST:PORT, the address that the nodes will name"),
        (["store", "--listen", "h:1", "x"], "store takes options only, not x"),
        (["store", "--listen", "h:x"], "--listen: 'h:x' is not usable: the port is a number from 0 to 65535"),
    ],
)
def test_wrong_verbs(capsys, argv, sentence):
    assert verbs.main(argv) == 2
    assert capsys.readouterr() == ("", f"rallypoint: error: {sentence}\nsee rallypoint --help\n")


def test_store_serves(monkeypatch):
    served = []
    monkeypatch.setattr(driver, "serve_store", lambda *args: served.append(args) or 5, raising=False)
    assert verbs.main(["store", "--listen", "::1", "-v"]) == 5
    assert verbs.main(["store", "--listen=10.0.0.1:7"]) == 5
    assert served == [("::1", 29400, 1, "", None), ("10.0.0.1", 7, 0, "", None)]


@pytest.mark.parametrize("argv", [["version"], ["--version"], ["run", "--version"]])
def test_version(capsys, argv):
    assert verbs.main(argv) == 0
    python = ".".join(map(str, sys.version_info[:3]))
    assert capsys.readouterr().out == f"rallypoint {rallypoint.__version__} (Python {python})\n"


@pytest.mark.parametrize("argv", [["help"], ["--help"], ["-h"], ["store", "--help"]])
def test_verbs_help(capsys, argv):
    assert verbs.main(argv) == 0
    assert capsys.readouterr().out == verbs.HELP


def test_help_of_run(capsys):
    assert rallyrun.main(["--help", "nonsense"]) == 0
    assert capsys.readouterr().out == render("rallyrun")


@pytest.mark.parametrize("legacy", [False, True])
def test_help_tells_every_option_and_its_default(legacy):
    text = render("rallyrun", legacy)
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    for option in options(legacy=True):
        assert (re.search(rf"{option.name}[ \n]", text) is not None) == (legacy or option.origin != LEGACY)
        if option.kind == VALUE and option.default:
            assert f"Default: {option.default}." in words
    groups = re.findall(r"^([A-Z].*)\n  ", text, re.MULTILINE)
    assert groups == [
        "What to run", "Nodes and workers", "Rendezvous", "Joining and leaving", "Restarts and stopping",
        "Logs and messages", "Devices", "Accepted for compatibility", "Exit status", "Examples",
    ]  # fmt: skip
    assert all(f"\n  {status} " in text for status in (0, 2, 70, 75, 77, 124))
    assert "PET_NPROC_PER_NODE" in text


def test_the_documentation_lists_every_option():
    rows = (ROOT / "docs" / "options.md").read_text().splitlines()
    for option in options(legacy=True):
        [row] = [r for r in rows if re.match(rf"\| `{option.name}[ `]", r) and r.count("|") == 6]
        _, names, _meaning, default, variable, relation, _ = row.split("|")
        assert option.short in names
        assert option.metavar in names
        assert variable.strip() == (f"`{option.variable}`" if option.kind != "action" else "none")
        assert default.strip() == (f"`{option.default}`" if option.default else "none")
        assert relation.strip()


BANNED = {
    "dataclasses", "typing", "inspect", "asyncio", "logging", "tempfile", "uuid", "shutil", "subprocess", "threading",
    "multiprocessing", "argparse", "gettext", "re", "textwrap", "difflib", "json", "torch",
}  # fmt: skip

COST = """
import sys, time
import rallypoint.model.spec, rallypoint.net  # whatever starts a run needs these
before = time.process_time()
from rallypoint.cli.parse import parse
from rallypoint.cli.settings import settle
import os
settle(parse(["--nproc-per-node", "1", "--no-python", "true"], os.environ), os.environ)
print(time.process_time() - before)
print(*sys.modules)
"""


def test_reading_the_command_line_costs_little(tmp_path):
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "PYTHONPYCACHEPREFIX": str(tmp_path)}

    def measure():
        # -S: without site, whose .pth files may import anything.
        done = subprocess.run([sys.executable, "-S", "-c", COST], env=environ, capture_output=True, text=True)
        cost, modules = done.stdout.splitlines()
        assert not BANNED & set(modules.split())
        return float(cost)

    assert min(measure() for _ in range(6)) < 0.010  # argparse alone: 0.008, before its parser is built
