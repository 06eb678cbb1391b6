"""The only loop: one epoll, one heap of timers, one queue of calls for the next turn."""

from __future__ import annotations

import heapq
import os
import select
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_READ = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
_WRITE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR


LOOKS = 150
"""Looks for more before an eager loop sleeps: about 100 microseconds."""


class LoopTimer:
    """One promised call; ordered by time, then by the order in which it was asked for."""

    __slots__ = ("call", "number", "when")

    def __init__(self, when: float, number: int, call: Callable[[], None]) -> None:
        self.when = when
        self.number = number
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None

    def __lt__(self, other: LoopTimer) -> bool:
        return (self.when, self.number) < (other.when, other.number)

    def __repr__(self) -> str:
        return f"<LoopTimer at {self.when:.3f}{'' if self.call else ' cancelled'}>"


class Loop:
    """Implements ``model.reactor.Reactor`` on epoll. Use as a context manager, or call ``close``."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        self.eager = False
        self._readers: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}
        self._always: set[int] = set()  # regular files: epoll refuses them, they never block
        self._timers: list[LoopTimer] = []
        self._timer_count = 0
        self._soon: list[Callable[[], None]] = []
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.add_reader(self._wake_read, self._drain_wake)

    now = staticmethod(monotonic)

    def add_reader(self, fd: int, call: Callable[[], None]) -> None:
        self._readers[fd] = call
        self._register(fd)

    def remove_reader(self, fd: int) -> None:
        if self._readers.pop(fd, None) is not None:
            self._register(fd)

    def add_writer(self, fd: int, call: Callable[[], None]) -> None:
        self._writers[fd] = call
        self._register(fd)

    def remove_writer(self, fd: int) -> None:
        if self._writers.pop(fd, None) is not None:
            self._register(fd)

    def call_at(self, when: float, call: Callable[[], None]) -> LoopTimer:
        self._timer_count += 1
        timer = LoopTimer(when, self._timer_count, call)
        heapq.heappush(self._timers, timer)
        return timer

    def soon(self, call: Callable[[], None]) -> None:
        if self._epoll.closed:
            return  # a helper thread that was slower than the end
        self._soon.append(call)
        # A full pipe already wakes the loop; a closed one has nobody left to wake.
        try:
            os.write(self._wake_write, b"\0")
        except (BlockingIOError, OSError):
            pass

    @property
    def wake_fd(self) -> int:
        """The descriptor for ``signal.set_wakeup_fd``: a byte written there ends the wait."""
        return self._wake_write

    def turn(self, timeout: float | None = None) -> None:
        """Wait at most ``timeout`` seconds (None: until something happens), then run what is due."""
        # This is the path of every request to the worker store: what there is none of costs nothing.
        rest = self._soon or self._always or self._timers
        found = self._look_again() if self.eager else None
        if not found:
            found = self._poll(self._patience(timeout) if rest or timeout is not None else -1.0)
        for fd, mask in found:
            # A callback may have removed a descriptor that this batch still names.
            if mask & _READ and (call := self._readers.get(fd)):
                call()
            if mask & _WRITE and (call := self._writers.get(fd)):
                call()
        if self._always:
            for fd in tuple(self._always):
                if call := self._readers.get(fd) or self._writers.get(fd):
                    call()
        while self._timers and (self._timers[0].call is None or self._timers[0].when <= monotonic()):
            if due := heapq.heappop(self._timers).call:
                due()
        if self._soon:
            calls, self._soon = self._soon, []
            for call in calls:
                call()

    def _look_again(self) -> list[tuple[int, int]]:
        """Look for a while before falling asleep: waking up costs more, and whoever asks again waits for it."""
        self.eager = False
        poll = self._poll
        for _ in range(LOOKS):
            if found := poll(0):
                return found
        return []

    def run_until(self, done: Callable[[], object], limit: float | None = None) -> bool:
        """Turn until ``done()`` is true; False if ``limit`` seconds passed first."""
        end = None if limit is None else monotonic() + limit
        while not done():
            left = None if end is None else end - monotonic()
            if left is not None and left <= 0:
                return False
            self.turn(left)
        return True

    def close(self) -> None:
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._readers.clear()
            self._writers.clear()

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._epoll.closed else f"{len(self._readers)} readers, {len(self._writers)} writers"
        return f"<Loop {state}, {len(self._timers)} timers>"

    def _patience(self, timeout: float | None) -> float:
        if self._soon or self._always:
            return 0.0
        while self._timers and self._timers[0].call is None:
            heapq.heappop(self._timers)
        waits = [] if timeout is None else [timeout]
        if self._timers:
            waits.append(self._timers[0].when - monotonic())
        if not waits:
            return -1.0
        # epoll counts whole milliseconds and rounds up itself, so a timer is never early.
        return max(0.0, min(waits))

    def _register(self, fd: int) -> None:
        mask = (_READ if fd in self._readers else 0) | (select.EPOLLOUT if fd in self._writers else 0)
        try:
            if not mask:
                self._always.discard(fd)
                self._epoll.unregister(fd)
            else:
                self._epoll.modify(fd, mask)
        except FileNotFoundError:
            if mask:
                self._epoll.register(fd, mask)
        except PermissionError:
            if mask:
                self._always.add(fd)

    def _drain_wake(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
