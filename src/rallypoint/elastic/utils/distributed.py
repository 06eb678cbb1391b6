"""Free ports, and torch's store."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from rallypoint.elastic.utils.api import get_socket_with_port

__all__ = ["create_c10d_store", "get_free_port", "get_socket_with_port"]

_MEMBERS = "_tcp_store/num_members"
_IN_USE = "in use"


def get_free_port() -> int:
    """Return a port of localhost that was free just now; nothing keeps it so."""
    with closing(get_socket_with_port()) as sock:
        return int(sock.getsockname()[1])


def create_c10d_store(
    is_server: bool,
    server_addr: str,
    server_port: int = -1,
    world_size: int = 1,
    timeout: float = 60 * 10,
    wait_for_workers: bool = True,
    retries: int = 3,
    use_libuv: bool | None = None,
) -> Any:
    """Return a ``torch.distributed.TCPStore``: this needs torch, which is imported here and not before.

    Port -1 means a free one (for one process), tried ``retries`` times. ``timeout`` is in seconds.
    Raises ValueError for several processes without a port, TimeoutError if some do not come,
    RuntimeError if the port is taken. ``use_libuv`` has no effect, as in torch.
    """
    if server_port == -1 and world_size > 1:
        raise ValueError(f"{world_size} processes need one port that all of them know: give server_port")
    attempts = retries if server_port == -1 else 1
    for attempt in range(attempts):
        port = get_free_port() if server_port == -1 else server_port
        try:
            return _tcp_store(is_server, server_addr, port, world_size, timeout, wait_for_workers)
        except RuntimeError as error:
            if _IN_USE not in str(error):
                raise
            if attempt == attempts - 1:
                raise RuntimeError(f"on {server_addr}, port: {port} already in use") from error
    raise ValueError(f"retries: {retries}, and at least one attempt is needed")


def _tcp_store(is_server: bool, host: str, port: int, world_size: int, timeout: float, wait: bool) -> Any:
    import datetime
    import os
    from importlib import import_module

    from rallypoint.elastic.utils.store import barrier

    dist: Any = import_module("torch.distributed")
    store = dist.TCPStore(
        host_name=host,
        port=port,
        world_size=world_size,
        is_master=is_server,
        timeout=datetime.timedelta(seconds=timeout),
        wait_for_workers=wait,
        use_libuv=os.environ.get("USE_LIBUV", "1") == "1",
    )
    if wait:
        try:
            barrier(store, world_size, key_prefix=_MEMBERS, barrier_timeout=timeout)
        except dist.DistStoreError as error:
            raise TimeoutError(f"not all of {world_size} processes came within {timeout:g} s") from error
    return store
