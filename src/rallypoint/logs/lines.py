"""How one stream looks on the console: as it is, or as whole lines with a prefix.

The rule for ``Lines``: nobody's line is ever interrupted. A line appears when its end has come.
Three things cannot wait for that, and are shown as far as they go:
- a progress bar (carriage returns, no line end), at most every ``PATIENCE`` seconds. With a prefix
  its last state is shown: in its place on a terminal, as a line of its own elsewhere;
- on a terminal, a line that stays unfinished for ``PATIENCE`` seconds (a prompt, a row of dots);
- a line longer than ``LIMIT`` bytes.
If somebody else speaks before such a line goes on, it goes on in a line of its own.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.logs.outlet import Outlet
    from rallypoint.model.reactor import Reactor, Timer

PATIENCE = 0.5
LIMIT = 4 << 20
_REDRAW = b"\r\x1b[K"  # back to the start of the terminal's line, and clear it
_COLORS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)  # no red: that is for errors


def colored(rank: int, prefix: str) -> str:
    """Return ``prefix`` in the colour of ``rank``, for a terminal."""
    return f"\x1b[{_COLORS[rank % len(_COLORS)]}m{prefix}\x1b[0m"


def last_state(line: bytes) -> bytes:
    """Return what a terminal would show of a line with carriage returns: the last piece that is not blank."""
    for piece in reversed(line.split(b"\r")):
        if piece.strip():
            return piece
    return b""


class Cutter:
    """Cuts a stream of chunks behind their last line end; ``tail`` is what has no end yet."""

    def __init__(self) -> None:
        self.tail = bytearray()

    def cut(self, data: bytes) -> bytes:
        """Return the lines that ``data`` completes, as one piece; keep the rest."""
        end = data.rfind(b"\n") + 1
        if not end:
            self.tail += data
            return b""
        whole = data[:end]
        if self.tail:
            whole = bytes(self.tail) + whole
            self.tail.clear()
        self.tail += data[end:]
        return whole

    def take(self) -> bytes:
        """Return the unfinished line as it is now, and forget it."""
        text = bytes(self.tail)
        self.tail.clear()
        return text


class Raw:
    """Passes all bytes on at once. ``owner`` is the worker: both its streams may share a line."""

    def __init__(self, outlet: Outlet, owner: object) -> None:
        self._outlet = outlet
        self._owner = owner

    def feed(self, data: bytes) -> None:
        self._outlet.put(self._owner, data)

    def end(self) -> None:
        """Do nothing: a missing line end stays missing, as without a launcher."""


class Lines:
    """Passes whole lines on, each behind ``prefix`` (may be empty: then every byte is passed on)."""

    def __init__(self, reactor: Reactor, outlet: Outlet, prefix: bytes) -> None:
        self._reactor = reactor
        self._outlet = outlet
        self._prefix = prefix
        self._cutter = Cutter()
        self._timer: Timer | None = None
        self._begun = False  # a part of the current line has been shown

    def feed(self, data: bytes) -> None:
        if whole := self._cutter.cut(data):
            self._stop_timer()
            self._show(whole)
        if len(self._cutter.tail) > LIMIT:
            self._show_tail()
        elif self._cutter.tail and not self._timer and (self._outlet.terminal or b"\r" in self._cutter.tail):
            self._timer = self._reactor.call_at(self._reactor.now() + PATIENCE, self._show_tail)

    def end(self) -> None:
        """Show what is left. With a prefix, the line end is supplied if it is missing."""
        self._show_tail()
        if self._prefix and self._outlet.open_by is self:
            self._outlet.put(self, b"\n")

    def _show(self, whole: bytes) -> None:
        if self._begun and self._outlet.open_by is not self and whole.startswith(b"\n"):
            whole = whole[1:]  # somebody else's line has ended ours already
        self._begun = False
        self._outlet.put(self, self._dress(whole) if whole else b"")

    def _show_tail(self) -> None:
        self._stop_timer()
        text = self._cutter.take()
        if not text or (self._prefix and not last_state(text)):
            return
        self._begun = True
        # Lines cannot be redrawn in a file or pipe, so a state there is a line.
        line_end = b"\n" if self._prefix and b"\r" in text and not self._outlet.terminal else b""
        self._outlet.put(self, self._dress(text) + line_end)

    def _dress(self, text: bytes) -> bytes:
        """Put the prefix before each line of ``text``, and reduce progress bars to their last state."""
        if not (prefix := self._prefix):
            return text
        resumed = self._outlet.open_by is self
        start = b"" if resumed else prefix
        if b"\r" in text:
            if resumed and b"\r" in text.partition(b"\n")[0].rstrip(b"\r"):
                start = (_REDRAW if self._outlet.terminal else b"\n") + prefix
            text = b"\n".join(map(last_state, text.split(b"\n")))
        inner = text.count(b"\n") - text.endswith(b"\n")
        return start + text.replace(b"\n", b"\n" + prefix, inner)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def __repr__(self) -> str:
        return f"<Lines {self._prefix!r}: {len(self._cutter.tail)} bytes unfinished>"
