"""Text to value. Each function raises UsageError: ``where`` (option or variable), the text, what is allowed."""

from __future__ import annotations

from rallypoint.model.errors import UsageError
from rallypoint.model.reading import seconds, signals, truth, whole
from rallypoint.net import split_endpoint

__all__ = [
    "endpoint",
    "endpoints",
    "filters",
    "host",
    "nodes",
    "pairs",
    "ranks",
    "seconds",
    "signals",
    "streams",
    "truth",
    "whole",
]


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


def endpoints(where: str, text: str, default_port: int) -> tuple[tuple[str, int], ...]:
    """Read one or several endpoints, separated by commas; each once."""
    found = tuple(endpoint(where, part.strip(), default_port) for part in text.split(","))
    if len(set(found)) < len(found):
        raise UsageError(where, text, "it names one place twice")
    return found


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
