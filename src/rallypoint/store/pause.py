"""Waiting between attempts to reach a store."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.reactor import Reactor, Timer

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0


class Pause:
    """Pauses that double from 50 ms to 1 s, and differ a little from node to node."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._count = 0
        self._timer: Timer | None = None

    def then(self, call: Callable[[], None], every: int = 1) -> None:
        """Call ``call`` after a pause; but for each ``every``-th time, from the loop at once."""
        self._count += 1
        rounds, rest = divmod(self._count, every)
        pause = 0.0 if rest else min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(rounds - 1, 10))
        pause *= 0.75 + os.urandom(1)[0] / 512
        self._timer = self._reactor.call_at(self._reactor.now() + pause, call)

    def reset(self) -> None:
        self._count = 0

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __repr__(self) -> str:
        return f"<Pause number {self._count}>"
