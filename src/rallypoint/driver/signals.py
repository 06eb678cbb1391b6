"""The process's signals, as facts: handlers only note the number; the loop is woken and reads it."""

from __future__ import annotations

import signal
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

SURVIVED = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals that schedulers send to a whole job; unhandled they would kill the launcher."""


class SignalTrap:
    """While open, the given signals are noted in ``arrived`` instead of being acted on.

    A SIGHUP that was ignored at the start (``nohup``) stays ignored. Signals that a careless parent left
    blocked are let through: a launcher that cannot be told to stop would be of no use. Works in the main
    thread only; elsewhere it does nothing and ``active`` is False. ``close`` puts everything back as it was.
    """

    def __init__(self, numbers: Iterable[int], wake_fd: int) -> None:
        self.arrived: deque[int] = deque()
        self._before: dict[int, Any] = {}
        self._blocked_before: set[int] = set()
        self._wake_before = -1
        # Outside the main thread Python refuses set_wakeup_fd: then the signals are the program's own affair.
        try:
            self._wake_before = signal.set_wakeup_fd(wake_fd, warn_on_full_buffer=False)
        except ValueError:
            self.active = False
            return
        self.active = True
        for number in {*numbers, *SURVIVED}:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._note)
        self._blocked_before = set(signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before))

    def _note(self, number: int, _frame: object) -> None:
        self.arrived.append(number)

    def close(self) -> None:
        if self.active:
            self.active = False
            signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked_before)
            for number, handler in self._before.items():
                # None: a handler that Python did not install; it cannot be put back from here.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.set_wakeup_fd(self._wake_before)

    def __enter__(self) -> SignalTrap:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SignalTrap {'active' if self.active else 'closed'}, {len(self.arrived)} to tell>"
