"""Log files. What cannot be written costs log lines, never the job."""

from __future__ import annotations

import os

from rallypoint.logs.lines import LIMIT, Cutter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
"""How log files are opened: always new, so that no earlier log is lost."""


class LogFile:
    """A new file at ``path`` that gets exactly the bytes fed to it, as long as there is room.

    When a write fails (full disk, quota, I/O error) ``warn`` is told once; each later chunk tries
    again, and ``end`` tells how many bytes are missing. Writes are unbuffered.
    """

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        self.path = path
        self.lost = 0
        self._warn = warn
        self._fd = -1
        self._told = False
        self.feed(b"")

    def feed(self, data: bytes) -> None:
        done = 0
        try:
            if self._fd < 0:
                self._fd = os.open(self.path, NEW, 0o600)
            while done < len(data):
                done += os.write(self._fd, memoryview(data)[done:])
        except OSError as error:
            if not self._told:
                self._told = True
                reason = os.strerror(error.errno or 0).lower()
                self._warn(f"log file {self.path} cannot be written ({reason}): output may be missing there")
            self.lost += len(data) - done

    def end(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self.lost:
            self._warn(f"log file {self.path}: {self.lost} bytes of output are missing")
            self.lost = 0

    def __repr__(self) -> str:
        state = "closed" if self._fd < 0 else f"fd {self._fd}"
        return f"<LogFile {self.path}: {state}, {self.lost} bytes lost>"


class Matching:
    """Copies the lines that contain one of ``needles`` to ``file``, each behind ``prefix``.

    The file is shared by the streams of an attempt, so an unfinished last line gets its end.
    """

    def __init__(self, file: LogFile, prefix: bytes, needles: Sequence[str]) -> None:
        self._file = file
        self._prefix = prefix
        self._needles = tuple(needle.encode(errors="surrogateescape") for needle in needles)
        self._cutter = Cutter()

    def feed(self, data: bytes) -> None:
        self._copy(self._cutter.cut(data))
        if len(self._cutter.tail) > LIMIT:
            self.end()

    def end(self) -> None:
        if tail := self._cutter.take():
            self._copy(tail + b"\n")

    def _copy(self, lines: bytes) -> None:
        if self._wanted(lines):
            kept = (line for line in lines[:-1].split(b"\n") if self._wanted(line))
            self._file.feed(b"".join(self._prefix + line + b"\n" for line in kept))

    def _wanted(self, text: bytes) -> bool:
        return any(needle in text for needle in self._needles)
