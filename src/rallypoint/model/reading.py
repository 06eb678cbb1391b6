"""Text to value: numbers, times, truths, signals. For options, variables and the keys of ``--rdzv-conf`` alike.

Each function raises UsageError: ``where`` (what the user wrote it at), the text, what is allowed.
"""

from __future__ import annotations

import signal

from rallypoint.model.errors import UsageError

FOREVER = 1e9
"""Seconds; longer ones are surely slips (and select would refuse them)."""

_UNCATCHABLE = (signal.SIGKILL, signal.SIGSTOP)
_YES = ("1", "true", "t", "yes", "y")
_NO = ("0", "false", "f", "no", "n")


def whole(where: str, text: str, least: int = 0, most: int | None = None) -> int:
    """Read a whole number from ``least`` to ``most``."""
    digits = text.strip()
    if digits.isascii() and digits.removeprefix("-").isdigit() and len(digits) < 12:
        number = int(digits)
        if number >= least and (most is None or number <= most):
            return number
    raise UsageError(where, text, f"it is a whole number, {least} or more" if most is None else f"{least} to {most}")


def seconds(where: str, text: str, zero: bool = False) -> float:
    """Read a time in seconds; 0 only if ``zero``."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if 0 <= number <= FOREVER and (number or zero):
        return number
    raise UsageError(where, text, "it is a time in seconds, " + ("0 or more" if zero else "above 0"))


def truth(where: str, text: str) -> bool:
    """Read a truth as torch writes them in --rdzv-conf."""
    word = text.lower()
    if word not in _YES + _NO:
        raise UsageError(where, text, "it is true or false")
    return word in _YES


def signals(where: str, text: str) -> tuple[int, ...]:
    """Read signal names, with or without SIG, as "USR1,SIGTERM"; each once, in the order given."""
    return tuple(dict.fromkeys(_signal(where, text, name.strip()) for name in text.split(",")))


def _signal(where: str, text: str, name: str) -> int:
    plain = name.upper().removeprefix("SIG")
    number: signal.Signals | None = signal.Signals.__members__.get("SIG" + plain)
    if number is None:
        raise UsageError(where, text, f"it is a list of signal names, as USR1,USR2, and {name!r} is none")
    if number in _UNCATCHABLE:
        raise UsageError(where, text, f"no program can catch {number.name}")
    if number == signal.SIGCHLD:
        raise UsageError(where, text, "SIGCHLD comes whenever a worker ends; it cannot be passed on")
    return int(number)
