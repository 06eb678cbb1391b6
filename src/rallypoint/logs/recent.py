"""The last words of a worker, for the report of its failure."""

from __future__ import annotations

from collections import deque
from itertools import count

from rallypoint.logs.lines import last_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

KEPT = 8 << 10
"""Bytes kept of each stream."""
WIDTH = 500
"""Characters kept of each line."""


class Recent:
    """Keeps the last bytes of several streams; they become lines only when somebody asks."""

    def __init__(self) -> None:
        self._chunks: dict[object, deque[tuple[int, bytes]]] = {}  # by source, with the order of arrival
        self._sizes: dict[object, int] = {}
        self._arrivals = count()

    def add(self, source: object, data: bytes) -> None:
        data = data[-KEPT:]
        chunks = self._chunks.setdefault(source, deque())
        chunks.append((next(self._arrivals), data))
        size = self._sizes.get(source, 0) + len(data)
        while size - len(chunks[0][1]) >= KEPT:
            size -= len(chunks.popleft()[1])
        self._sizes[source] = size

    def lines(self, limit: int) -> list[bytes]:
        """Return the last ``limit`` lines, in the order in which their ends arrived; unfinished ones last.

        A busy stream leaves half of them to another one: what was wrong stands on the quiet one.
        """
        lines = self._merged()
        own = dict.fromkeys(self._chunks, limit // 2)
        spare = limit - sum(min(limit // 2, sum(s is source for s, _ in lines)) for source in own)
        kept = []
        for source, line in reversed(lines):
            if own[source] > 0:
                own[source] -= 1
            elif spare > 0:
                spare -= 1
            else:
                continue
            kept.append(line)
        return kept[::-1]

    def _merged(self) -> list[tuple[object, bytes]]:
        """Return all lines, each with its source."""
        lines: list[tuple[object, bytes]] = []
        unfinished: dict[object, bytes] = {}
        arrived = [(number, source, data) for source, chunks in self._chunks.items() for number, data in chunks]
        for _, source, data in sorted(arrived, key=lambda chunk: chunk[0]):
            *whole, rest = (unfinished.pop(source, b"") + data).split(b"\n")
            lines += [(source, line) for line in whole]
            if rest:
                unfinished[source] = rest
        return lines + list(unfinished.items())

    def __repr__(self) -> str:
        return f"<Recent: {sum(self._sizes.values())} bytes of {len(self._sizes)} streams>"


def readable(lines: Iterable[bytes]) -> tuple[str, ...]:
    """Return lines as text: progress bars at their last state, long lines cut."""
    shown = (last_state(line).decode(errors="replace") for line in lines)
    return tuple(line if len(line) <= WIDTH else line[: WIDTH - 3] + "..." for line in shown)
