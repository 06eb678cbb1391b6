"""Environment, sockets, and what is replaced in a worker's arguments."""

from __future__ import annotations

import os
import socket
from string import Template
from typing import Any

__all__ = ["get_env_variable_or_raise", "get_socket_with_port", "macros"]


def get_env_variable_or_raise(env_name: str) -> str:
    """Return the environment variable ``env_name``. Raises ValueError if it is not set."""
    value = os.environ.get(env_name)
    if value is None:
        raise ValueError(f"the environment variable {env_name} is not set, and it has to be")
    return value


def get_socket_with_port() -> socket.socket:
    """Return a socket that listens at a free port of localhost, and so keeps it; the caller closes it.

    Raises RuntimeError if localhost has no address at which that works.
    """
    reason: OSError | None = None
    for family, kind, protocol, _, _ in socket.getaddrinfo("localhost", None, socket.AF_UNSPEC, socket.SOCK_STREAM):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # IPv6 may be named and switched off
            reason = error
            continue
        try:
            sock.bind(("localhost", 0))
            sock.listen(0)
        except OSError as error:
            sock.close()
            reason = error
            continue
        return sock
    raise RuntimeError(f"no socket can listen at localhost: {reason}") from reason


class macros:  # noqa: N801  torch's name
    """What may stand in a worker's arguments."""

    local_rank = "${local_rank}"

    @staticmethod
    def substitute(args: list[Any], local_rank: str) -> list[str]:
        """Return ``args`` with the macro replaced in its strings; ``$$`` becomes ``$``, as in torch."""
        return [Template(arg).safe_substitute(local_rank=local_rank) if isinstance(arg, str) else arg for arg in args]
