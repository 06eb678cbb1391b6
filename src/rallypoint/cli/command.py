"""The worker's whole command, and the checks that save N workers from failing alike."""

from __future__ import annotations

import os
import sys

from rallypoint.cli.parse import MisuseError
from rallypoint.model.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rallypoint.cli.parse import Given

LOCAL_RANK = "${local_rank}"
"""Replaced for each worker, wherever it stands in the command."""

_RUN_PATH = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"


def worker_command(given: Given, environ: Mapping[str, str], legacy: bool) -> tuple[tuple[str, ...], bool]:
    """Return (argv, whether it is a Python program). Raises UsageError for what cannot be started."""
    program = given.program
    first = (f"--local-rank={LOCAL_RANK}",) if legacy and not given.flag("use_env") else ()
    rest = first + given.arguments
    if given.flag("module") and (given.flag("no_python") or given.flag("run_path")):
        other = given.where("no_python" if given.flag("no_python") else "run_path")
        raise MisuseError(f"{given.where('module')} and {other} exclude each other: a module needs python -m")
    if given.flag("run_path"):
        _check_script(program)
        return (sys.executable, "-u", "-c", _RUN_PATH, program, *rest), True
    if given.flag("no_python"):
        if first:
            raise MisuseError(f"{given.where('no_python')} needs --use-env too: a command takes no --local-rank")
        _check_command("the command", program, environ)
        return (program, *rest), False
    python = environ.get("PYTHON_EXEC", "")
    if python:
        _check_command("PYTHON_EXEC", python, environ)
    if given.flag("module"):
        if not program:
            raise UsageError("the module", program, "it is a module's name, as package.train")
        return (python or sys.executable, "-u", "-m", program, *rest), True
    _check_script(program)
    return (python or sys.executable, "-u", program, *rest), True


def _check_script(path: str) -> None:
    if LOCAL_RANK in path:
        return
    if not os.path.exists(path):
        raise UsageError("the script", path, f"there is no such file (looked from {os.getcwd()})")
    if not os.access(path, os.R_OK):
        raise UsageError("the script", path, "this user may not read it")
    if os.path.isdir(path) and not os.path.exists(os.path.join(path, "__main__.py")):
        raise UsageError("the script", path, "it is a directory without a __main__.py")


def _check_command(where: str, name: str, environ: Mapping[str, str]) -> None:
    """Look where exec would look."""
    if LOCAL_RANK in name:
        return
    if "/" in name:
        candidates = [name]
    else:
        candidates = [os.path.join(d, name) for d in environ.get("PATH", os.defpath).split(os.pathsep)] if name else []
    files = [c for c in candidates if os.path.isfile(c)]
    if not files:
        raise UsageError(where, name, "there is no such file" if "/" in name else "it is not in any directory of PATH")
    if not any(os.access(f, os.X_OK) for f in files):
        raise UsageError(where, name, f"{files[0]} is not executable (chmod +x it)")
