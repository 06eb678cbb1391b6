"""Meeting points in a store. Any object with the methods of torch's ``Store`` will do; torch is not needed."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["barrier", "get_all", "store_timeout", "synchronize"]

_NUM_MEMBERS = "/num_members"
_LAST_MEMBER = "/last_member"
_TRACE = "/TRACE"
_TRACED = "/TRACING_GATE"
_NAMED = 16
"""Missing ranks that are named: more say nothing more."""
_SHORT = timedelta(milliseconds=1)
_IGNORED = "<val_ignored>"


@contextmanager
def store_timeout(store: Any, timeout: float) -> Iterator[None]:
    """Within the block, waits in ``store`` take at most ``timeout`` seconds; then it is as before."""
    before = store.timeout
    store.set_timeout(timedelta(seconds=timeout))
    try:
        yield
    finally:
        store.set_timeout(before)


def get_all(store: Any, rank: int, prefix: str, world_size: int) -> list[bytes]:
    """Return the values of ``prefix``0 to ``prefix``N-1; rank 0, who may host the store, waits for the others."""
    values: list[bytes] = store.multi_get([f"{prefix}{index}" for index in range(world_size)])
    last = _arrive(store, world_size, f"{prefix}/finished")
    if rank == 0:
        store.wait([last])
    return values


def synchronize(
    store: Any, data: bytes, rank: int, world_size: int, key_prefix: str, timeout: float = 300
) -> list[bytes]:
    """Give everybody's ``data`` to everybody, by rank. A prefix serves once. ``timeout`` is in seconds."""
    with store_timeout(store, timeout):
        store.set(f"{key_prefix}{rank}", data)
        return get_all(store, rank, key_prefix, world_size)


def barrier(
    store: Any,
    world_size: int,
    key_prefix: str,
    barrier_timeout: float = 300,
    rank: int | None = None,
    rank_tracing_decoder: Callable[[int], str] | None = None,
    trace_timeout: float = 10,
) -> None:
    """Return when ``world_size`` have called this. A prefix serves once. Times are in seconds.

    Raises the store's own error (TimeoutError, torch's DistStoreError) after ``barrier_timeout``. With
    ``rank`` it says who is missing, as ``rank_tracing_decoder`` names them; rank 0 finds that out, within
    ``trace_timeout``.
    """
    if rank is None and rank_tracing_decoder is not None:
        raise AssertionError("rank_tracing_decoder needs rank: who is missing is found out by rank 0")
    with store_timeout(store, barrier_timeout):
        last = _arrive(store, world_size, key_prefix)
        try:
            store.wait([last])
        except Exception as error:
            if rank is None or not _timed_out(error):
                raise
            missing = _missing(store, world_size, key_prefix, rank, rank_tracing_decoder or str, trace_timeout)
            if missing is None:
                raise
            raise type(error)(
                f"Timed out waiting on barrier on rank {rank}, for key prefix: {key_prefix} "
                f"(world_size={world_size}, missing_ranks=[{', '.join(missing)}], timeout={barrier_timeout})"
            ) from None


def _arrive(store: Any, world_size: int, key_prefix: str) -> str:
    """Count this one in, and return the key that the last one sets."""
    last = key_prefix + _LAST_MEMBER
    if store.add(key_prefix + _NUM_MEMBERS, 1) == world_size:
        store.set(last, _IGNORED)
    return last


def _missing(
    store: Any, world_size: int, key_prefix: str, rank: int, name: Callable[[int], str], seconds: float
) -> list[str] | None:
    """Return the names of those who did not come; None if that cannot be known."""
    store.set(f"{key_prefix}{rank}{_TRACE}", _IGNORED)
    if rank != 0:
        try:
            store.wait([f"{key_prefix}{_TRACED}"])
        except Exception as error:
            if _timed_out(error):
                return None
            raise
        return [f"[<check rank 0 ({name(0)}) for missing rank info>]"]
    missing: list[str] = []
    for other in range(1, world_size):
        if len(missing) == _NAMED:
            break
        try:  # once one is missing, the others have had their time
            store.wait([f"{key_prefix}{other}{_TRACE}"], _SHORT if missing else timedelta(seconds=seconds))
        except Exception as error:
            if not _timed_out(error):
                raise
            missing.append(name(other))
    store.set(f"{key_prefix}{_TRACED}", _IGNORED)
    return missing


def _timed_out(error: Exception) -> bool:
    """Say whether a store's error may be a wait that was too long. (torch's has no class but this for that.)"""
    return isinstance(error, TimeoutError) or any(kind.__name__ == "DistStoreError" for kind in type(error).__mro__)
