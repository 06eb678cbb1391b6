"""What a room may ask of the loop. The only implementation with I/O is ``driver.loop.Loop``.

Rooms never block and never loop: they register a file descriptor or a time with the reactor
and are called back from the one loop, one callback at a time, on the thread that runs it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol
else:
    Protocol = object


class Timer(Protocol):
    """A call promised for later. ``cancel`` is safe to call at any time, any number of times."""

    def cancel(self) -> None: ...


class Reactor(Protocol):
    """The loop as seen by a room.

    ``add_reader`` and ``add_writer`` call back whenever the descriptor is readable (or has hung
    up) or writable, level-triggered, until removed; registering again replaces the callback;
    removing what is not registered does nothing. A callback must not block and should bound its
    work (for example one ``recv`` of at most 256 KiB) so that exits are handled in time.
    Remove a descriptor before closing it. ``now`` is monotonic seconds.
    ``soon`` runs a call in the next turn of the loop and, alone among these, may be used from
    another thread. A callback that has just answered somebody who waits, and will perhaps ask again at once, sets
    ``eager``: the loop then looks for a moment before it sleeps.
    """

    eager: bool

    def now(self) -> float: ...

    def add_reader(self, fd: int, call: Callable[[], None]) -> None: ...

    def remove_reader(self, fd: int) -> None: ...

    def add_writer(self, fd: int, call: Callable[[], None]) -> None: ...

    def remove_writer(self, fd: int) -> None: ...

    def call_at(self, when: float, call: Callable[[], None]) -> Timer: ...

    def soon(self, call: Callable[[], None]) -> None: ...
