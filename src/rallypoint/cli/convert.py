"""Text to value. Each function raises UsageError: ``where`` (option or variable), the text, what is allowed."""

from __future__ import annotations

import signal

from rallypoint.model.errors import UsageError
from rallypoint.net import split_endpoint

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


def nodes(where: str, text: str) -> tuple[int, int]:
    """Read "N" or "MIN:MAX"."""
    low, colon, high = text.partition(":")
    try:
        least = whole(where, low, 1)
        most = whole(where, high, 1) if colon else least
    except UsageError:
        raise UsageError(where, text, "it is the number of nodes, 1 or more, or MIN:MAX as in 2:4") from None
    if least > most:
        raise UsageError(where, text, "it is MIN:MAX with MIN no larger than MAX")
    return least, most


def host(where: str, text: str) -> str:
    """Read a host name or an address, IPv6 with or without brackets."""
    name = text.strip()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    if ":" in name:
        import socket

        try:
            socket.inet_pton(socket.AF_INET6, name.partition("%")[0])
        except OSError:
            raise UsageError(where, text, "it is a host name or an address, IPv6 as [::1]") from None
    elif not name or not name.replace(".", "").replace("-", "").replace("_", "").isalnum():
        raise UsageError(where, text, "it is a host name or an address, IPv6 as [::1]")
    return name


def endpoint(where: str, text: str, default_port: int) -> tuple[str, int]:
    """Read "host", "host:port" or "[v6]:port"."""
    name, port = split_endpoint(text, default_port, where)
    try:
        return host(where, name), port
    except UsageError:
        raise UsageError(where, text, "it is HOST:PORT, as node1:29400 or [fd00::1]:29400") from None


def streams(where: str, text: str) -> dict[int, int]:
    """Read torch's Std: "3" (-> {-1: 3}, all local ranks) or "0:3,1:2". A rank not named gets nothing."""
    bits = {"0": 0, "1": 1, "2": 2, "3": 3}
    if text in bits:
        return {-1: bits[text]} if bits[text] else {}
    found = {}
    for part in text.split(","):
        rank, _, value = part.partition(":")
        if not (rank.isascii() and rank.isdigit() and value in bits):
            raise UsageError(
                where, text, "it is 0 (none), 1 (stdout), 2 (stderr) or 3 (both), or LOCAL_RANK:VALUE,... as 0:3,1:2"
            )
        found[int(rank)] = bits[value]
    return found


def ranks(where: str, text: str) -> tuple[int, ...]:
    """Read local ranks, as "0,2,3"; sorted, each once."""
    try:
        return tuple(sorted({whole(where, part) for part in text.split(",")}))
    except UsageError:
        raise UsageError(where, text, "it is a list of local ranks, as 0,2,3") from None


def filters(text: str) -> tuple[str, ...]:
    """Read texts separated by commas, where ,, is a comma."""
    # No argument and no variable can contain a NUL.
    return tuple(part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")) if text else ()


def pairs(where: str, text: str) -> dict[str, str]:
    """Read "key=value,key=value"."""
    found = {}
    for part in text.split(",") if text.strip() else ():
        key, _, value = part.partition("=")
        if not key.strip() or not value.strip():
            raise UsageError(where, text, f"it is KEY=VALUE,KEY=VALUE and {part.strip()!r} is not")
        found[key.strip()] = value.strip()
    return found


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
