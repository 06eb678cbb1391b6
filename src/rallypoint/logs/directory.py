"""Where log files and error files lie: ``<base>/<run_id>_<random>/attempt_<n>/<local_rank>/``."""

from __future__ import annotations

import os

from rallypoint.model.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class RunDirectory:
    """The files of one run on this node; directories are made when they are first asked for.

    ``base`` None: a private directory under the system's temporary one. Raises UsageError for a
    base that cannot be made or written to; ``rank`` raises OSError.
    """

    def __init__(self, base: str | None, run_id: str) -> None:
        if base is not None:
            try:
                base = os.path.abspath(base)  # a worker may change its directory
                os.makedirs(base, exist_ok=True)
            except OSError as error:
                raise UsageError("--log-dir", base, f"it cannot be made: {_words(error)}") from None
            if not os.access(base, os.W_OK | os.X_OK):
                raise UsageError("--log-dir", base, "a directory that may be written to")
        self._base = base
        self._run_id = run_id
        self._top: str | None = None
        self.path: str | None = None

    def attempt(self, number: int) -> str:
        """Return the directory of one start of this node's workers."""
        if self.path is None:
            self._top = base = self._base or _make_temporary()
            self.path = _make_unique(base, _safe(self._run_id))
        path = os.path.join(self.path, f"attempt_{number}")
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path

    def rank(self, attempt: int, local_rank: int) -> str:
        """Make and return the directory of one start of one worker. Raises OSError."""
        path = os.path.join(self.attempt(attempt), str(local_rank))
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path

    def remove(self) -> None:
        """Remove the private temporary directory with all that is in it. Never touches a ``base`` that was given."""
        if self._base is not None or self._top is None:
            return
        for path, directories, files in os.walk(self._top, topdown=False):
            for name in files:
                _try(os.unlink, os.path.join(path, name))
            for name in directories:
                _try(os.rmdir, os.path.join(path, name))
        _try(os.rmdir, self._top)
        self._top = self.path = None

    def __repr__(self) -> str:
        return f"<RunDirectory {self.path or 'not made yet'}>"


def _safe(run_id: str) -> str:
    """Return ``run_id`` as a harmless file name of at most 100 characters."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in run_id)
    return name[:100].lstrip(".") or "run"


def _make_unique(base: str, name: str) -> str:
    while True:
        path = os.path.join(base, f"{name}_{os.urandom(4).hex()}")
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            continue
        return path


def _make_temporary() -> str:
    """Do as ``tempfile.mkdtemp``, whose import (random, hashlib) the launch path does not pay for."""
    problem: OSError | None = None
    for base in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "."):
        try:
            if base:
                return _make_unique(os.path.abspath(base), "rallypoint")
        except OSError as error:
            problem = error
    raise problem or OSError("no temporary directory")


def _try(call: Callable[[str], None], path: str) -> None:
    try:
        call(path)
    except OSError:
        pass  # in use or not ours: what is left in a temporary directory does no harm


def _words(error: OSError) -> str:
    return os.strerror(error.errno or 0).lower()
