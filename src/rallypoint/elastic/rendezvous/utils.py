"""Reading endpoints."""

from __future__ import annotations

import re

__all__ = ["parse_rendezvous_endpoint"]


def parse_rendezvous_endpoint(endpoint: str | None, default_port: int) -> tuple[str, int]:
    """Split "host", "host:port" or "[v6]:port"; nothing means localhost. Raises ValueError, saying what is allowed."""
    text = (endpoint or "").strip()
    if not text:
        return "localhost", default_port
    # Brackets around everything: an IPv6 address alone, its colons are no port's.
    host, colon, port = (text, "", "") if text[0] == "[" and text[-1] == "]" else text.rpartition(":")
    if not colon:
        host = text
    elif not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"the port of the rendezvous endpoint {text!r} is not a number from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not re.fullmatch(r"[\w.:-]+", host):
        raise ValueError(f"the host of the rendezvous endpoint {text!r} is no name, IPv4 or IPv6 address")
    return host, int(port) if colon else default_port
