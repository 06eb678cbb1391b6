"""Writes down what ended a process, where the launcher looks for it."""

from __future__ import annotations

import json
import os
import warnings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ErrorHandler"]


class ErrorHandler:
    """Writes exceptions as JSON to the file named by TORCHELASTIC_ERROR_FILE, in torch's format.

    Subclass it to write something else: override ``initialize`` and ``record_exception``.
    """

    def _get_error_file_path(self) -> str | None:
        """Return where to write; None or "": nowhere."""
        return os.environ.get("TORCHELASTIC_ERROR_FILE", None)

    def initialize(self) -> None:
        """Get ready, before the code runs whose errors are to be recorded: fatal signals write all stacks."""
        import faulthandler

        try:
            faulthandler.enable(all_threads=True)
        except Exception as error:  # no standard error, as in a notebook
            warnings.warn(f"Unable to enable fault handler. {type(error).__name__}: {error}", stacklevel=2)

    def _write_error_file(self, file_path: str, error_msg: str) -> None:
        """Write ``error_msg``; a full disk is only warned of, for the error itself matters more."""
        try:
            with open(file_path, "w") as file:
                file.write(error_msg)
        except Exception as error:
            warnings.warn(f"Unable to write error to file. {type(error).__name__}: {error}", stacklevel=2)

    def record_exception(self, e: BaseException) -> None:
        """Write ``e``, which is being handled, with its traceback."""
        import time
        import traceback

        if not (path := self._get_error_file_path()):
            return
        extra = {"py_callstack": "".join(traceback.format_exception(e)), "timestamp": str(int(time.time()))}
        content = {"message": {"message": f"{type(e).__name__}: {e}", "extraInfo": extra}}
        with open(path, "w") as file:
            json.dump(content, file)

    def override_error_code_in_rootcause_data(
        self,
        rootcause_error_file: str,
        rootcause_error: dict[str, Any],
        error_code: int = 0,
    ) -> None:
        """Put the exit code into the content of an error file: who dies of a signal could not write it."""
        message = rootcause_error.get("message")
        if isinstance(message, dict):
            message["errorCode"] = error_code
        else:
            _logger().warning("error file %s has no place for the error code %s", rootcause_error_file, error_code)

    def dump_error_file(self, rootcause_error_file: str, error_code: int = 0) -> None:
        """Copy a worker's error file to this process's own, for the launcher above."""
        with open(rootcause_error_file) as file:
            content = json.load(file)
        if error_code:
            self.override_error_code_in_rootcause_data(rootcause_error_file, content, error_code)
        if path := self._get_error_file_path():
            self._rm(path)
            self._write_error_file(path, json.dumps(content))
        else:
            _logger().error("nobody asked for the error file %s: TORCHELASTIC_ERROR_FILE is not set", content)

    def _rm(self, my_error_file: str) -> None:
        """Remove an error file that is in the way; its content is logged.

        It may be a worker's, which wrote here before it knew its own file.
        """
        if not os.path.isfile(my_error_file):
            return
        try:
            with open(my_error_file) as file:
                old = file.read(1 << 16)
        except (OSError, UnicodeDecodeError) as error:
            old = f"<unreadable: {error}>"
        _logger().warning("%s is written anew; it contained:\n%s", my_error_file, old)
        os.remove(my_error_file)


def _logger() -> Any:
    import logging

    return logging.getLogger(__name__)
