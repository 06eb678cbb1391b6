"""Time that passes only when it is told to."""

from __future__ import annotations

import heapq

from rallypoint.driver.loop import LoopTimer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class ManualClock:
    """The half of ``model.reactor.Reactor`` that is about time: ``now``, ``call_at`` and ``soon``."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._timers: list[LoopTimer] = []
        self._count = 0

    def now(self) -> float:
        return self._now

    def call_at(self, when: float, call: Callable[[], None]) -> LoopTimer:
        """Call at ``when`` (now, if that has passed); calls of the same time keep their order."""
        self._count += 1
        timer = LoopTimer(max(when, self._now), self._count, call)
        heapq.heappush(self._timers, timer)
        return timer

    def soon(self, call: Callable[[], None]) -> None:
        self.call_at(self._now, call)

    def step(self, limit: float) -> bool:
        """Go on to the next call and run it; False, at ``limit``, if there is none until then."""
        while self._timers and self._timers[0].call is None:
            heapq.heappop(self._timers)
        if not self._timers or self._timers[0].when > limit:
            self._now = max(self._now, limit)
            return False
        timer = heapq.heappop(self._timers)
        self._now = timer.when
        assert timer.call is not None, "cancelled timers were taken out above"
        timer.call()
        return True

    def run_for(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        limit = self._now + seconds
        while self.step(limit):
            pass

    def run_until(self, done: Callable[[], object], limit: float) -> bool:
        """Let time pass until ``done()`` is true; False if ``limit`` seconds passed first."""
        end = self._now + limit
        while not done():
            if not self.step(end):
                return bool(done())
        return True

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now:.3f}, {len(self._timers)} timers>"


class SkewedClock:
    """A node's own clock: it began elsewhere and goes faster or slower than ``true`` (``rate`` 1.01: 1 % faster)."""

    def __init__(self, true: ManualClock, offset: float = 0.0, rate: float = 1.0) -> None:
        self._true = true
        self._offset = offset
        self._rate = rate

    def now(self) -> float:
        return self._true.now() * self._rate + self._offset

    def call_at(self, when: float, call: Callable[[], None]) -> LoopTimer:
        """Call when this clock says ``when``."""
        return self._true.call_at((when - self._offset) / self._rate, call)

    def __repr__(self) -> str:
        return f"<SkewedClock at {self.now():.3f}, rate {self._rate:.3f}>"
