"""A small blocking client of the worker store, for workers without torch.

The launcher serves the store at MASTER_ADDR:MASTER_PORT (torch's TCPStore protocol). Workers meet there::

    from rallypoint.worker import store
    with store.connect() as meeting:
        meeting.set("address", b"10.0.0.1:4711")      # rank 0
        address = meeting.get("address")              # all: waits until it is there

Every key is put under a prefix of its own, so it collides neither with torch's keys nor with those
of an earlier start of the same workers. A client belongs to one thread of one process.
"""

from __future__ import annotations

import os
import socket
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType
    from typing import Self

MAGIC = 0x3C85F7CE
VALIDATE, SET, GET, ADD, WAIT, DELETE, CANCEL_WAIT, PING = 0, 1, 3, 4, 6, 8, 12, 13
ARRIVED, CANCELED = 0, 1  # answers to WAIT
NONCE = 0x52414C4C
RETRY = 0.1  # seconds between attempts to connect
CHUNK = 1 << 20
SIZE_LIMIT = 1 << 34  # a longer value is no value: the peer speaks something else


def connect(timeout: float = 300.0, environ: Mapping[str, str] = os.environ) -> Store:
    """Connect to the store of this worker's launcher; ``timeout`` (seconds) is also each wait's default.

    Raises KeyError outside a launcher's worker, ConnectionError when nobody answers or what answers
    is no store, both naming what was tried.
    """
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not environ.get(name):
            raise KeyError(f"{name} is not set: this process was not started by rallyrun or torchrun")
    run = environ.get("TORCHELASTIC_RUN_ID", "")
    prefix = f"rallypoint/worker/{run}/{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/"
    return Store(environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), prefix, timeout)


class Store:
    """A connection to the store at ``host``:``port``. All times are in seconds.

    Any method raises ConnectionError when the connection is lost (the client is closed then).
    """

    def __init__(self, host: str, port: int, prefix: str = "", timeout: float = 300.0) -> None:
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._prefix = prefix
        self._timeout = timeout
        self._sock: socket.socket | None = self._reach(host, port, time.monotonic() + timeout)
        self._send(struct.pack("<BIBI", VALIDATE, MAGIC, PING, NONCE))
        if self._number("<I") != NONCE:
            self.close()
            raise ConnectionError(f"what listens at {self.address} is no worker store (wrong answer to a ping)")

    def set(self, key: str, value: bytes) -> None:
        """Give ``key`` a value, or another one."""
        self._send(bytes([SET]) + self._key(key) + _sized(value))

    def get(self, key: str, timeout: float | None = None) -> bytes:
        """Return the value of ``key`` as soon as it has one. Raises TimeoutError."""
        self.wait([key], timeout)
        self._send(bytes([GET]) + self._key(key))
        size = self._number("<Q")
        if size > SIZE_LIMIT:
            self.close()
            raise ConnectionError(f"the worker store at {self.address} announced a value of {size} bytes")
        return self._receive(size)

    def add(self, key: str, number: int) -> int:
        """Add to the counter ``key`` (from 0) in one step and return the sum."""
        self._send(bytes([ADD]) + self._key(key) + struct.pack("<q", number))
        return self._number("<q")

    def delete(self, key: str) -> bool:
        """Remove ``key``; say whether it was there."""
        self._send(bytes([DELETE]) + self._key(key))
        return self._number("<q") > 0

    def wait(self, keys: Iterable[str], timeout: float | None = None) -> None:
        """Return when all ``keys`` have a value. Raises TimeoutError; the client stays usable."""
        keys = list(keys)
        limit = self._timeout if timeout is None else timeout
        self._send(struct.pack("<BQ", WAIT, len(keys)) + b"".join(map(self._key, keys)))
        try:
            answer = self._receive(1, limit)[0]
        except TimeoutError:
            # The answer may be under way: then it comes first, and the cancelling is answered all the same.
            self._send(bytes([CANCEL_WAIT]))
            answer = self._receive(1)[0]
            if answer == ARRIVED:
                self._receive(1)
        if answer == CANCELED:
            names = ", ".join(repr(key) for key in keys)
            raise TimeoutError(f"nobody set {names} in the worker store at {self.address} within {limit:g} s")

    def barrier(self, name: str, world_size: int, timeout: float | None = None) -> None:
        """Return when ``world_size`` callers are here; may be used again and again. Raises TimeoutError."""
        place = self.add(f"barrier/{name}", 1) - 1
        done = f"barrier/{name}/{place // world_size}"
        if place % world_size == world_size - 1:
            self.set(done, b"")
        self.wait([done], timeout)

    def close(self) -> None:
        """Hang up; safe to call again."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Store at {self.address}, prefix {self._prefix!r}{'' if self._sock else ', closed'}>"

    def _reach(self, host: str, port: int, deadline: float) -> socket.socket:
        """Connect, again and again until ``deadline``: the listener may come up after us."""
        while True:
            left = deadline - time.monotonic()
            try:
                sock = socket.create_connection((host, port), max(left, RETRY))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            except OSError as error:
                if left <= RETRY:
                    why = f"no worker store at {self.address} within {self._timeout:g} s: {error}"
                    raise ConnectionError(why + self._hint()) from None
            time.sleep(RETRY)

    @staticmethod
    def _hint() -> str:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "True") == "True":
            return ""
        return " (TORCHELASTIC_USE_AGENT_STORE is not True: this launcher leaves the store to rank 0)"

    def _key(self, key: str) -> bytes:
        return _sized((self._prefix + key).encode())

    def _send(self, data: bytes) -> None:
        sock = self._connected()
        try:
            sock.settimeout(self._timeout)
            sock.sendall(data)
        except OSError as error:
            raise self._lost(str(error)) from None

    def _number(self, form: str) -> int:
        number: int = struct.unpack(form, self._receive(struct.calcsize(form)))[0]
        return number

    def _receive(self, size: int, patience: float | None = None) -> bytes:
        """Read exactly ``size`` bytes. Raises TimeoutError only with ``patience`` for the first of them."""
        sock = self._connected()
        data = bytearray()
        sock.settimeout(self._timeout if patience is None else max(patience, 0.001))
        while len(data) < size:
            try:
                piece = sock.recv(min(size - len(data), CHUNK))
            except TimeoutError:
                if patience is not None and not data:
                    raise
                raise self._lost(f"no answer within {self._timeout:g} s") from None
            except OSError as error:
                raise self._lost(str(error)) from None
            if not piece:
                raise self._lost("it hung up")
            data += piece
        return bytes(data)

    def _connected(self) -> socket.socket:
        if self._sock is None:
            raise ConnectionError(f"the connection to the worker store at {self.address} is closed")
        return self._sock

    def _lost(self, reason: str) -> ConnectionError:
        self.close()
        return ConnectionError(f"lost the worker store at {self.address}: {reason}")


def _sized(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data
