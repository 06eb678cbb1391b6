"""The store that the nodes of a round share, with the methods of torch's ``Store``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta

from rallypoint.worker.store import Store

LOOK = 0.001
"""Seconds given to ``check``: the store answers a wait at once if the keys are there."""


class NodeStore:
    """A client of the store at ``host``:``port``; keys lie under ``prefix``. May be used by several threads.

    Every method raises ConnectionError when the store is gone, and TimeoutError for a wait that was too long.
    """

    def __init__(self, host: str, port: int, prefix: str = "", timeout: float = 300.0) -> None:
        self.host = host
        self.port = port
        self._seconds = timeout
        self._client = Store(host, port, prefix, timeout)
        self._lock = threading.Lock()

    @property
    def timeout(self) -> timedelta:
        """How long ``get`` and ``wait`` wait."""
        return timedelta(seconds=self._seconds)

    def set_timeout(self, timeout: timedelta) -> None:
        self._seconds = timeout.total_seconds()

    def set(self, key: str, value: str | bytes) -> None:
        """Give ``key`` a value."""
        with self._lock:
            self._client.set(key, _bytes(value))

    def get(self, key: str) -> bytes:
        """Return the value of ``key`` as soon as it has one."""
        with self._lock:
            return self._client.get(key, self._seconds)

    def add(self, key: str, amount: int) -> int:
        """Add to the counter ``key`` and return the sum."""
        with self._lock:
            return self._client.add(key, amount)

    def delete_key(self, key: str) -> bool:
        """Remove ``key``; say whether it was there."""
        with self._lock:
            return self._client.delete(key)

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Return when all ``keys`` have a value."""
        with self._lock:
            self._client.wait(list(keys), self._seconds if timeout is None else timeout.total_seconds())

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all ``keys`` have a value."""
        try:
            self.wait(keys, timedelta(seconds=LOOK))
        except TimeoutError:
            return False
        return True

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """Return the values of ``keys`` as soon as all have one."""
        return [self.get(key) for key in keys]

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes]) -> None:
        """Give each of ``keys`` its value."""
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def close(self) -> None:
        """Hang up; safe to call again."""
        with self._lock:
            self._client.close()

    def __repr__(self) -> str:
        return f"<NodeStore {self._client!r}>"


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
