"""The last words of a worker, for the report of its failure."""

from __future__ import annotations

from collections import deque

from rallypoint.logs.lines import last_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

KEPT = 16 << 10
"""Bytes kept of each worker, both streams together."""
WIDTH = 500
"""Characters kept of each line."""


class Recent:
    """Keeps the last bytes of several streams; they become lines only when somebody asks."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[object, bytes]] = deque()
        self._size = 0

    def add(self, source: object, data: bytes) -> None:
        data = data[-KEPT:]
        self._chunks.append((source, data))
        self._size += len(data)
        while self._size - len(self._chunks[0][1]) >= KEPT:
            self._size -= len(self._chunks.popleft()[1])

    def lines(self) -> list[bytes]:
        """Return the lines of all streams, in the order in which their ends arrived; unfinished ones last."""
        lines: list[bytes] = []
        unfinished: dict[object, bytes] = {}
        for source, data in self._chunks:
            *whole, rest = (unfinished.pop(source, b"") + data).split(b"\n")
            lines += whole
            if rest:
                unfinished[source] = rest
        return lines + list(unfinished.values())

    def __repr__(self) -> str:
        return f"<Recent: {self._size} bytes>"


def readable(lines: Iterable[bytes], count: int) -> tuple[str, ...]:
    """Return the last ``count`` lines as text: progress bars at their last state, long lines cut."""
    shown = (last_state(line).decode(errors="replace") for line in list(lines)[-count:])
    return tuple(line if len(line) <= WIDTH else line[: WIDTH - 3] + "..." for line in shown)
