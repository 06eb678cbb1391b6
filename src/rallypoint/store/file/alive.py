"""Who lives: each session has a file that it keeps locked and rewrites; who does neither is given up.

The lock goes with the process, so on one machine a death is seen at once. A machine that is cut off, or a process that
is stopped, is seen by its count that no longer grows, judged by the clock of whoever looks.
"""

from __future__ import annotations

import os

from rallypoint.model.value import Value
from rallypoint.store.file.journal import MODE, is_locked, lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rallypoint.store.file.replica import Member


class Verdict(Value):
    """A session to give up, what was last seen of it, and why."""

    session: str
    seen: bytes
    reason: str


class Alive:
    """This session's own file in ``folder``, and the view of the others'. All raise OSError."""

    def __init__(self, folder: str, session: str) -> None:
        self._folder = folder
        self._count = 0
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._fd = os.open(self._path(session), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        self._own = session
        lock(self._fd)

    @property
    def removed(self) -> bool:
        """Whether the others have removed our file."""
        return os.fstat(self._fd).st_nlink == 0

    def beat(self) -> float:
        """Show that we live; return the file server's time."""
        self._count += 1
        os.pwrite(self._fd, b"%020d" % self._count, 0)
        return os.fstat(self._fd).st_mtime

    def look(self, sessions: Mapping[str, Member], now: float) -> list[Verdict]:
        """Return which of ``sessions`` are to be given up. ``now``: this machine's monotonic time."""
        verdicts: list[Verdict] = []
        for session, member in sessions.items():
            if session == self._own:
                continue
            seen, locked = self._peek(session)
            before, since = self._seen.get(session, (b"", now))
            if seen != before or session not in self._seen:
                since = now
                self._seen[session] = (seen, now)
            if not locked:
                verdicts.append(Verdict(session, seen, "its launcher is gone"))
            elif now - since >= member.ttl:
                verdicts.append(Verdict(session, seen, f"unheard of for {now - since:.1f} s"))
        for session in self._seen.keys() - sessions.keys():
            del self._seen[session]
        return verdicts

    def excuse(self, now: float) -> None:
        """Take everybody as seen just now: it was we who slept."""
        self._seen = {session: (seen, now) for session, (seen, _) in self._seen.items()}

    def still(self, verdict: Verdict) -> bool:
        """Whether a session is as it was when it was judged."""
        return self._peek(verdict.session)[0] == verdict.seen

    def forget(self, session: str) -> None:
        """Remove the file of a session that has ended."""
        try:
            os.unlink(self._path(session))
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """Let go of our own file; whoever looks sees it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _peek(self, session: str) -> tuple[bytes, bool]:
        try:
            fd = os.open(self._path(session), os.O_RDONLY | os.O_CLOEXEC)  # closing it is no event, as for writing
        except FileNotFoundError:
            return b"", False
        try:
            return os.read(fd, 64), is_locked(fd)
        finally:
            os.close(fd)

    def _path(self, session: str) -> str:
        return os.path.join(self._folder, session)

    def __repr__(self) -> str:
        return f"<Alive {self._own}, beat {self._count}>"
