"""Connects the workers' streams with files and console as a ``LogsDest`` says, through the logs room.

What goes to one place only is that place itself: the worker writes into it, whether or not anybody waits.
What is tee'd goes through a pipe to a thread with a loop of its own, which writes the file and the console.
"""

from __future__ import annotations

import os
import sys
import threading

from rallypoint.driver.loop import Loop
from rallypoint.logs.files import LogFile, Matching
from rallypoint.logs.lines import Lines
from rallypoint.logs.outlet import Outlet
from rallypoint.logs.pump import Stream, make_pipe
from rallypoint.logs.recent import Recent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

    from rallypoint.elastic.multiprocessing.destinations import LogsDest
    from rallypoint.logs.pump import Sink

PIPE_SIZE = 1 << 20
FLUSH = 5.0
"""Seconds that ``close`` waits for a slow console."""


class TextOutlet:
    """Stands in for an ``Outlet`` where standard output is not a descriptor but an object (a notebook's, a test's)."""

    terminal = False
    full = False

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.open_by: object | None = None

    def put(self, owner: object, data: bytes) -> None:
        """Write; if another owner's last line is unfinished, it is ended first."""
        if data:
            start = "\n" if self.open_by not in (None, owner) else ""
            self.open_by = None if data.endswith(b"\n") else owner
            self._file.write(start + data.decode(errors="replace"))
            self._file.flush()


class Output:
    """The output of one context's workers. ``descriptors`` for each, ``start`` when all are started, ``close``.

    ``name`` and local rank make the prefix of tee'd lines, ``[name0]:``, unless ``prefixes`` has another.
    ``filters`` are those for standard output and standard error.
    """

    def __init__(
        self,
        name: str,
        dest: LogsDest,
        prefixes: Mapping[int, str] | None,
        filters: tuple[Sequence[str] | None, Sequence[str] | None],
    ) -> None:
        self._name = name
        self._dest = dest
        self._prefixes = prefixes or {}
        self._filters = filters
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._ours: list[int] = []  # the workers' ends
        self._loop: Loop | None = None
        self._streams: list[Stream] = []
        self._outlets: dict[int, Outlet | TextOutlet] = {}
        self._filtered: dict[int, LogFile] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def descriptors(self, rank: int, inherit_stdin: bool) -> tuple[int, int, int]:
        """Return what worker ``rank`` is started with. Raises OSError."""
        dest = self._dest
        stdin = 0 if inherit_stdin and _is_open(0) else self._null
        return (
            stdin,
            self._open(rank, 1, dest.stdouts[rank], rank in dest.tee_stdouts),
            self._open(rank, 2, dest.stderrs[rank], rank in dest.tee_stderrs),
        )

    def start(self) -> None:
        """Forget the workers' ends, which they have now, and begin to read."""
        while self._ours:
            os.close(self._ours.pop())
        if self._loop is not None:
            self._thread = threading.Thread(target=self._run, name=f"output of {self._name}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write what the workers have written so far, and release everything; safe to call again."""
        if self._closed:
            return
        self._closed = True
        while self._ours:
            os.close(self._ours.pop())
        os.close(self._null)
        if self._thread is not None and self._loop is not None:
            self._loop.soon(lambda: None)
            self._thread.join()
        self._release()

    def _open(self, rank: int, bit: int, path: str, tee: bool) -> int:
        if not path:
            return bit if _is_open(bit) else self._null
        if path == os.devnull:
            return self._null
        if not tee:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._ours.append(fd)
            return fd
        return self._tee(rank, bit, path)

    def _tee(self, rank: int, bit: int, path: str) -> int:
        if self._loop is None:
            self._loop = Loop()
        prefix = self._prefixes.get(rank, f"[{self._name}{rank}]:").encode(errors="surrogateescape")
        outlet = self._outlet(bit)
        real = outlet if isinstance(outlet, Outlet) else None
        lines = Lines(self._loop, outlet, prefix)  # type: ignore[arg-type]
        sinks: list[Sink] = [_new_file(path), lines]
        if needles := self._filters[bit - 1]:
            sinks.append(Matching(self._filter_file(bit), prefix, needles))
        reading, writing = make_pipe(PIPE_SIZE)
        self._ours.append(writing)
        self._streams.append(Stream(self._loop, reading, Recent(), sinks, outlet=real, rests=True))
        return writing

    def _outlet(self, bit: int) -> Outlet | TextOutlet:
        """Return where lines are shown: the descriptor, or the object that has taken its place in this program."""
        if bit not in self._outlets:
            file = sys.stdout if bit == 1 else sys.stderr
            try:
                usual = file is None or file.fileno() == bit
            except (OSError, ValueError, AttributeError):
                usual = False
            assert self._loop is not None
            self._outlets[bit] = Outlet(self._loop, bit, lambda *_: None) if usual else TextOutlet(file)
        return self._outlets[bit]

    def _filter_file(self, bit: int) -> LogFile:
        if bit not in self._filtered:
            self._filtered[bit] = _new_file(self._dest.filtered_stdout if bit == 1 else self._dest.filtered_stderr)
        return self._filtered[bit]

    def _run(self) -> None:
        """Turn the loop until ``close``; then write what is left."""
        assert self._loop is not None
        while not self._closed:
            self._loop.turn()
        for stream in self._streams:
            stream.close()
        for outlet in self._outlets.values():
            if isinstance(outlet, Outlet):
                outlet.flush(self._loop.now() + FLUSH)

    def _release(self) -> None:
        for stream in self._streams:
            stream.close()
        for file in self._filtered.values():
            file.end()
        for outlet in self._outlets.values():
            if isinstance(outlet, Outlet):
                outlet.close()
        if self._loop is not None:
            self._loop.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "reading" if self._thread else "not started"
        return f"<Output of {self._name}: {state}, {len(self._streams)} streams tee'd>"


def _new_file(path: str) -> LogFile:
    """Open a log file anew, as torch does: what another attempt left there is gone."""
    if os.path.isfile(path):
        os.unlink(path)
    return LogFile(path, _warn)


def _warn(text: str) -> None:
    import logging

    logging.getLogger(__name__).warning(text)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
