"""How errors of workers travel: ``record`` writes them to a file, ``ProcessFailure`` reads them, ``ChildFailedError``
reports them. Names, signatures, file format and text are those of ``torch.distributed.elastic.multiprocessing.errors``;
files are readable both ways.

Beyond torch: a broken error file is no reason for the launcher to fail, what can be understood of it is used; and
in ``ChildFailedError`` the cause comes before its consequences.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass, field
from functools import wraps

from rallypoint.elastic.multiprocessing.errors.error_handler import ErrorHandler
from rallypoint.elastic.multiprocessing.errors.handlers import get_error_handler
from rallypoint.proc.errorfile import read_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar

    _R = TypeVar("_R")
    _P = ParamSpec("_P")

__all__ = ["ChildFailedError", "ErrorHandler", "ProcessFailure", "get_error_handler", "record"]

_NOT_AVAILABLE = "<N/A>"
_HINT = "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"
_WIDEST = 60


@dataclass
class ProcessFailure:
    """A worker that failed. What it wrote to ``error_file`` is read at once; there may be no such file.

    ``exitcode`` is minus the signal's number for a worker that a signal ended. ``message`` is what the file says
    (a dictionary for exceptions), else words for the exit code. ``timestamp`` is in seconds since the epoch.
    """

    local_rank: int
    pid: int
    exitcode: int
    error_file: str
    error_file_data: dict[str, Any] = field(init=False)
    message: str = field(init=False)
    timestamp: int = field(init=False)

    # (No annotations: they are not fields.)
    order = None  # type: int | None
    """The launcher's own knowledge, set on the instance: its place among the failures, the cause first."""
    host = ""
    """Where it happened, set on the instance by a launcher that knows; "": here."""

    def __post_init__(self) -> None:
        """Read the error file."""
        if os.path.isfile(self.error_file) and (content := _content(self.error_file)) is not None:
            self.error_file_data = content
            self.message, self.timestamp = self._get_error_data(content)
        else:
            self._set_no_reply_file()
        if self.message:
            return
        if self.exitcode < 0:
            self.message = f"Signal {-self.exitcode} ({self.signal_name()}) received by PID {self.pid}"
        else:
            traits = {"category": "system_terminated_error", "retryability": "False"}
            self.error_file_data = {**self.error_file_data, "errorTraits": traits}
            self.message = _HINT

    def _get_error_data(self, error_file_data: dict[str, Any]) -> tuple[str, int]:
        message = error_file_data["message"]
        said = error_file_data if isinstance(message, str) else message.get("extraInfo", {})
        try:
            timestamp = int(said.get("timestamp", 0))
        except (TypeError, ValueError):
            timestamp = 0
        return message, timestamp

    def _set_no_reply_file(self) -> None:
        self.error_file = _NOT_AVAILABLE
        self.error_file_data = {"message": "<NONE>"}
        self.message = ""
        self.timestamp = int(time.time())

    def signal_name(self) -> str:
        """Return the name of the signal that ended it, "<N/A>" if none did."""
        try:
            return signal.Signals(-self.exitcode).name if self.exitcode < 0 else _NOT_AVAILABLE
        except ValueError:
            return _NOT_AVAILABLE

    def timestamp_isoformat(self) -> str:
        """Return the time as YYYY-MM-DD_HH:MM:SS."""
        from datetime import datetime

        return datetime.fromtimestamp(self.timestamp).isoformat(sep="_")


def _content(path: str) -> dict[str, Any] | None:
    """Return the content of an error file; of a broken one what can be understood; None: nothing."""
    try:
        with open(path) as file:
            content = json.load(file)
        if isinstance(content, dict) and isinstance(content.get("message"), (str, dict)):
            return content
    except (OSError, ValueError, RecursionError):
        pass
    if (error := read_error(path)) is None:
        return None
    extra = {"py_callstack": error.traceback or error.headline, "timestamp": str(int(error.timestamp))}
    return {"message": {"message": error.headline, "extraInfo": extra}}


class ChildFailedError(Exception):
    """Workers have failed; ``failures`` maps global rank -> failure, and there is at least one.

    Raised out of a function under ``record``, it has the cause's error file copied to this process's own.
    """

    def __init__(self, name: str, failures: dict[int, ProcessFailure]) -> None:
        self.name = name
        self.failures = failures
        if not failures:
            raise AssertionError("a ChildFailedError without failures")
        super().__init__(self.format_msg())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.failures)

    def get_first_failure(self) -> tuple[int, ProcessFailure]:
        """Return the cause: (global rank, failure)."""
        return self._ordered()[0]

    def format_msg(self, boarder_delim: str = "=", section_delim: str = "-") -> str:
        """Return the report, in torch's layout."""
        title = f"{self.name} FAILED"
        texts = [self._format_failure(index, rank, failure) for index, (rank, failure) in enumerate(self._ordered())]
        longest = max(len(line) for text in (title, *texts) for line in text.split("\n"))
        boarder, section = (delimiter * min(longest, _WIDEST) for delimiter in (boarder_delim, section_delim))
        others = texts[1:] or ["  <NO_OTHER_FAILURES>"]
        cause = "Root Cause (first observed failure):"
        return "\n".join(("", boarder, title, section, "Failures:", *others, section, cause, texts[0], boarder))

    def _ordered(self) -> list[tuple[int, ProcessFailure]]:
        """The failures, cause first. Files have seconds; who was only told to stop is no cause."""

        def key(item: tuple[int, ProcessFailure]) -> tuple[float, bool, int]:
            failure = item[1]
            order = float("inf") if failure.order is None else failure.order
            told = failure.exitcode == -signal.SIGTERM and failure.error_file == _NOT_AVAILABLE
            return order, told, failure.timestamp

        return sorted(self.failures.items(), key=key)

    def _format_failure(self, idx: int, rank: int, failure: ProcessFailure) -> str:
        import socket

        message: Any = failure.message
        if isinstance(message, dict):
            message = message.get("extraInfo", {}).get("py_callstack") or message.get("message", _NOT_AVAILABLE)
            message = str(message).replace("\n", "\n  ")
        name = failure.signal_name()
        facts = {
            "time": failure.timestamp_isoformat(),
            "host": failure.host or socket.gethostname(),
            "rank": f"{rank} (local_rank: {failure.local_rank})",
            "exitcode": f"{failure.exitcode} (pid: {failure.pid}) " + (f" ({name})" if name != _NOT_AVAILABLE else ""),
            "error_file": failure.error_file,
            "traceback": message,
        }
        return "\n".join((f"[{idx}]:", *(f"  {fact:<10}: {value}" for fact, value in facts.items())))


def record(fn: Callable[_P, _R], error_handler: ErrorHandler | None = None) -> Callable[_P, _R | None]:
    """Return ``fn`` so that what it raises is written where the launcher finds it.

    Decorate the program's main function, once in each process. ``SystemExit(0)`` becomes a return of None.
    """
    handler = error_handler or get_error_handler()

    @wraps(fn)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R | None:
        handler.initialize()
        try:
            return fn(*args, **kwargs)
        except SystemExit as end:
            if end.code == 0:
                return None
            raise
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            if failure.error_file != _NOT_AVAILABLE:
                handler.dump_error_file(failure.error_file, failure.exitcode)
            raise
        except Exception as error:
            handler.record_exception(error)
            raise

    return wrapper
