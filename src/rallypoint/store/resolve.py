"""From a host's name to addresses, without blocking the loop and without asking where there is nothing to ask."""

from __future__ import annotations

import socket

from rallypoint.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.reactor import Reactor

LOCALHOST = "127.0.0.1"


def numeric(host: str) -> str | None:
    """Return the address that ``host`` spells out (or means: "localhost"), None if it is a name to resolve."""
    if host.lower() == "localhost":
        return LOCALHOST  # no resolver may say otherwise (RFC 6761), and all must take the same family
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):
            continue
        return host
    return None


def loopback(address: str) -> bool:
    """Say whether ``address`` (numeric) can be reached from its own machine only."""
    return address.startswith("127.") or address in ("::1", "::ffff:127.0.0.1")


class Found(Value):
    """What a name means: numeric addresses, or the reason in words why there are none."""

    addresses: tuple[str, ...] = ()
    reason: str = ""


def resolve(reactor: Reactor, host: str, done: Callable[[Found], None]) -> None:
    """Call ``done`` from the loop, later, with the addresses of ``host``, a name; a helper thread asks for them."""
    import threading

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            answer = Found(tuple(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except (OSError, UnicodeError) as error:
            answer = Found((), f"the name {host!r} does not resolve: {getattr(error, 'strerror', None) or error}")
        reactor.soon(lambda: done(answer))

    # A daemon: a resolver may take minutes to give up, and nobody waits for it then.
    threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()


def way_to(address: str, port: int = 9) -> str:
    """Return this machine's own address on the way to ``address`` (numeric); a loopback one if there is no way."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, port))  # sends nothing
        except OSError:
            return LOCALHOST
        return str(sock.getsockname()[0])
