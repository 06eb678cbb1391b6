"""What a worker says of how far it is: ``safe_point``. Standard library only, and next to nothing outside a launcher.

The launcher's side, and the format of what both share, are in ``proc/safepoints.py``.
"""

from __future__ import annotations

import mmap
import os

VARIABLE = "RALLYPOINT_SAFE_POINT"
_WORD = 8


class _Channel:
    """The shared file, and the pipe by which the launcher is told when it has asked."""

    def __init__(self, said: str) -> None:
        path, self._pipe, rank = said.split(" ")
        self._rank = int(rank)
        self._pid = os.getpid()
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            memory = mmap.mmap(fd, 0)
        finally:
            os.close(fd)
        self._words = memoryview(memory).cast("q")
        self._count = 0
        self._told = 0

    def passed(self, progress: int | None) -> bool:
        """Note the progress; say whether a planned stop is near."""
        self._count += 1
        self._words[self._rank + 1] = self._count if progress is None else progress
        asked = self._words[0]
        if asked and asked != self._told:
            self._told = asked
            self._tell(asked)
        return asked != 0

    def _tell(self, asked: int) -> None:
        try:
            pipe = os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(pipe, (self._rank << 40 | asked).to_bytes(_WORD, "little"))
            os.close(pipe)
        except OSError:
            self._told = 0  # the launcher does not read just now: say it again at the next safe point


_channel: list[_Channel | None] = []


def _open() -> _Channel | None:
    said = os.environ.get(VARIABLE)
    try:
        return _Channel(said) if said else None
    except (OSError, ValueError):
        return None  # another pid namespace, another launcher's variable: nobody to tell


def safe_point(progress: int | None = None) -> bool:
    """Say that nothing would be lost if this worker were stopped here, and how far it is.

    Call it once a step, in every worker, at the same place: best right after a snapshot was saved. ``progress`` is
    any number of 0 or more that grows with the work, such as the step; without it calls are counted.

    Returns True if the launcher is about to stop the workers as planned, because a node joins or leaves: save a
    snapshot now, if the last one is old, and call it again. With ``--admit when-ready`` nobody is stopped for a
    newcomer before every worker has called it. It costs less than a microsecond; outside of rallyrun, or in a child
    process of a worker, it does nothing and returns False.
    """
    if not _channel:
        _channel.append(_open())
    channel = _channel[0]
    return channel is not None and channel._pid == os.getpid() and channel.passed(progress)
