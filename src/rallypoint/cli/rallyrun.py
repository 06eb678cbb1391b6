"""``rallyrun``: the launcher's command, with torchrun's command line."""

from __future__ import annotations

import errno
import os
import sys

from rallypoint.model import exits
from rallypoint.model.errors import RallypointError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rallypoint.cli.settings import Settings
    from rallypoint.driver.node import Observer

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EAGAIN)
INTERRUPTED = exits.SIGNAL_BASE + 2
"""Ctrl-C before the run had begun."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``rallyrun`` with ``argv`` (None: the process's own) and return its exit status."""
    return launch(sys.argv[1:] if argv is None else argv, "rallyrun")


def launch(argv: Sequence[str], name: str, legacy: bool = False) -> int:
    """Do what ``argv`` says and return the exit status. ``name`` is the command as the user typed it."""
    return guarded(name, lambda: _launch(argv, name, legacy))


def _launch(argv: Sequence[str], name: str, legacy: bool) -> int:
    # From here on Ctrl-C finds the guard, not Python's own traceback.
    from rallypoint.cli.parse import parse
    from rallypoint.cli.settings import settle

    given = parse(argv, os.environ, legacy)
    if given.flag("help"):
        from rallypoint.cli.help import render

        print(render(name, legacy), end="")
        return exits.SUCCESS
    if given.flag("version"):
        print(version())
        return exits.SUCCESS
    settings = settle(given, os.environ, legacy)
    _hold_standard_streams()
    from rallypoint.driver import run

    return run(settings.spec, settings.notices, _observers(settings)).exit_code


def _observers(settings: Settings) -> tuple[Observer, ...]:
    if settings.event_log == "null":
        return ()
    from rallypoint.observe.torch_events import TorchEvents

    return (TorchEvents(settings.spec, settings.event_log),)


def _hold_standard_streams() -> None:
    """Open what the shell closed (``>&-``), lest descriptors 0 to 2 become something else's, like the loop's."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


def version() -> str:
    """Return "rallypoint 1.2.3 (Python 3.11.7)"."""
    from rallypoint import __version__

    return f"rallypoint {__version__} (Python {'.'.join(map(str, sys.version_info[:3]))})"


def guarded(name: str, command: Callable[[], int]) -> int:
    """Call ``command`` and return its exit status; an error becomes a line on stderr and an exit status."""
    try:
        return command()
    except KeyboardInterrupt:
        return INTERRUPTED
    except UsageError as error:
        _say(f"{name}: error: {error}\nsee {name} --help")
        return error.exit_code
    except RallypointError as error:
        _say(f"{name}: error: {error}")
        return error.exit_code
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _EXHAUSTED:
            _say(f"{name}: error: this machine gives no more: {error.strerror}; see ulimit -a")
        else:
            _say(f"{name}: internal error: {type(error).__name__}: {error} ({_keep_traceback()})")
        return exits.LAUNCHER_ERROR


def _keep_traceback() -> str:
    """Write the traceback being handled to a file: a long run cannot be repeated just to see it."""
    import tempfile
    import traceback

    text = traceback.format_exc()
    try:
        with tempfile.NamedTemporaryFile("w", prefix="rallypoint-error-", suffix=".txt", delete=False) as file:
            file.write(text)
    except OSError:
        return "traceback: " + " | ".join(text.splitlines())
    return f"a defect of Rallypoint; traceback in {file.name}"


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody is left to read it; the exit status tells
