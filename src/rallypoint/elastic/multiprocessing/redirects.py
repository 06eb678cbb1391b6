"""Redirect this process's own standard output or error to a file, for what C libraries and children write too."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def redirect(std: str, to_file: str) -> Iterator[None]:
    """Within, "stdout" or "stderr" (``std``) is the file ``to_file``, written anew; its directory must exist.

    Raises ValueError for another ``std``.
    """
    if std not in {"stdout", "stderr"}:
        raise ValueError(f"unknown standard stream <{std}>, must be one of {{'stdout', 'stderr'}}")
    import ctypes

    libc = ctypes.CDLL(None)
    stream = getattr(sys, std)
    number = stream.fileno()

    def flush() -> None:
        libc.fflush(None)
        stream.flush()

    before = os.dup(number)
    try:
        with open(to_file, "w+b") as file:
            flush()
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            flush()
            os.dup2(before, number)
    finally:
        os.close(before)


redirect_stdout = partial(redirect, "stdout")
redirect_stderr = partial(redirect, "stderr")
