"""Read the file in which a worker has written down its own error (torch's format)."""

from __future__ import annotations

import os
import stat

from rallypoint.model.result import WorkerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIMIT = 4 << 20
"""Bytes read at most: a message may quote a tensor, but not fill the launcher's memory."""


def read_error(path: str) -> WorkerError | None:
    """Return what the file at ``path`` says, or None if it says nothing.

    The worker may have died while it wrote, and other programs write such files too: what can be
    understood is taken, the rest is left. Never raises.
    """
    text = _content(path)
    if not text:
        return None
    import json

    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return _made(_salvaged(text, "message"), _salvaged(text, "py_callstack"), _salvaged(text, "timestamp"))
    message = content.get("message") if isinstance(content, dict) else None
    if not isinstance(message, dict):
        return _made(message, "", content.get("timestamp") if isinstance(content, dict) else None)
    extra = message.get("extraInfo")
    extra = extra if isinstance(extra, dict) else {}
    return _made(message.get("message"), extra.get("py_callstack"), extra.get("timestamp"))


def _content(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ""
    try:
        return os.read(fd, LIMIT).decode(errors="replace") if stat.S_ISREG(os.fstat(fd).st_mode) else ""
    except OSError:
        return ""
    finally:
        os.close(fd)


def _made(message: Any, callstack: Any, timestamp: Any) -> WorkerError | None:
    traceback = callstack if isinstance(callstack, str) else ""
    if not isinstance(message, str) or not message:
        if not traceback.strip():
            return None
        message = traceback.rstrip().rpartition("\n")[2]
    kind, colon, text = message.partition(": ")
    kind = kind.removesuffix(":") if not colon else kind
    if not all(part.isidentifier() for part in kind.split(".")):
        kind, text = "Error", message
    return WorkerError(kind, text, traceback, _seconds(timestamp))


def _seconds(timestamp: Any) -> float:
    try:
        seconds = float(timestamp)
    except (TypeError, ValueError):
        return 0.0
    return seconds if 0 < seconds < 1e11 else 0.0  # neither NaN nor infinity, nor another unit


def _salvaged(text: str, key: str) -> str:
    """Return the string value of ``key`` from JSON that was cut off, perhaps within that string."""
    import json

    start = text.find(f'"{key}": "')
    if start < 0:
        return ""
    start += len(key) + 4
    # A cut within an escape (at most 6 characters) leaves an end that is no JSON: take some off.
    for cut in range(7):
        for end in ("", '"'):
            try:
                value, _ = json.JSONDecoder().raw_decode(text[start : len(text) - cut] + end)
            except ValueError:
                continue
            return str(value)
    return ""
