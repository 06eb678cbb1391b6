"""Small words for people: counts, times, lists, and text from elsewhere made safe for a terminal."""

from __future__ import annotations

import time

from rallypoint.model.result import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX = "rallyrun: "
NAMED = 8
"""As many names (of nodes, of failures) are spelled out; the rest is counted."""


def count(number: int, noun: str) -> str:
    """Return "1 node", "2 nodes"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def span(seconds: float) -> str:
    """Return "5 s", "12.4 s", "3 min 20 s", "2 h 5 min"."""
    seconds = max(0.0, seconds)
    if seconds < 99.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    if seconds < 7200:
        whole = round(seconds)
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    minutes = round(seconds / 60)
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def listed(names: Iterable[object], limit: int = NAMED) -> str:
    """Return "a, b and 3 more": at most ``limit`` names."""
    every = [str(name) for name in names]
    more = len(every) - limit
    return ", ".join(every[:limit]) + (f" and {more} more" if more > 0 else "")


def ranks(numbers: Iterable[int]) -> str:
    """Return "rank 3", "ranks 0-3", "ranks 0-1, 5": runs of numbers are joined."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    noun = "rank" if len(runs) == 1 and runs[0][0] == runs[0][1] else "ranks"
    return f"{noun} " + listed(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def moment(wall: float) -> str:
    """Return ``wall`` (seconds since the epoch) as ISO 8601 in UTC: "2026-11-21T07:52:01.250Z"."""
    whole, milliseconds = divmod(round(wall * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{milliseconds:03d}Z"


def safe(line: str) -> str:
    """Return ``line`` without colours, and with what a terminal would obey (or not show) spelled out."""
    if line.isprintable():
        return line
    import re  # only for lines that need it: it is not free to import

    line = re.sub(r"\x1b\[[0-9;:?]*[ -/]*[@-~]", "", line)
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode("ascii") for c in line)


def one_line(text: str, limit: int = 200) -> str:
    """Return the first line of ``text`` that says something, at most ``limit`` characters of it."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    first = safe(lines[0].rstrip())
    if len(first) > limit:
        return first[: limit - 4] + " ..."
    return first + (" ..." if len(lines) > 1 else "")


def headline(failure: Failure) -> str:
    """Say on one line what happened: "ValueError: bad input (exit code 1)"."""
    if failure.error is None:
        return one_line(failure.words)
    return f"{one_line(failure.error.headline)} ({one_line(failure.words)})"


def short_place(failure: Failure) -> str:
    """Say where in few words: "rank 3 on host2", or "node host2:17:ab"."""
    place = f"rank {failure.rank} on {failure.host}" if failure.rank >= 0 else f"node {failure.node}"
    return one_line(place)


def told(failure: Failure) -> str:
    """Say where and what: "rank 3 (local 1) on host2, pid 4711: SIGKILL"."""
    return f"{one_line(failure.place)}: {headline(failure)}"
