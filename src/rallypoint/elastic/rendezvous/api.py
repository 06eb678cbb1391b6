"""The words of rendezvous: what is asked for (parameters), who answers (handlers), what comes back (info), errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = [
    "RendezvousClosedError",
    "RendezvousConnectionError",
    "RendezvousError",
    "RendezvousGracefulExitError",
    "RendezvousHandler",
    "RendezvousHandlerCreator",
    "RendezvousHandlerRegistry",
    "RendezvousInfo",
    "RendezvousParameters",
    "RendezvousStateError",
    "RendezvousStoreInfo",
    "RendezvousTimeoutError",
    "rendezvous_handler_registry",
]

_YES = ("1", "true", "t", "yes", "y")
_NO = ("0", "false", "f", "no", "n")


class RendezvousError(Exception):
    """Base of what can go wrong while nodes meet."""


class RendezvousClosedError(RendezvousError):
    """The run is over; nobody can join it any more."""


class RendezvousTimeoutError(RendezvousError):
    """Too few nodes came in time."""


class RendezvousConnectionError(RendezvousError):
    """The backend cannot be reached."""


class RendezvousStateError(RendezvousError):
    """What the backend holds makes no sense."""


class RendezvousGracefulExitError(RendezvousError):
    """This node is not needed and is to end, without having failed."""


@dataclass
class RendezvousStoreInfo:
    """Where the workers' store is: MASTER_ADDR and MASTER_PORT."""

    MASTER_ADDR_KEY: ClassVar[str] = "MASTER_ADDR"
    MASTER_PORT_KEY: ClassVar[str] = "MASTER_PORT"
    master_addr: str
    master_port: int

    @staticmethod
    def build(rank: int, store: Any, local_addr: str | None, server_port: int | None = None) -> RendezvousStoreInfo:
        """Let the node of ``rank`` 0 tell the others, by ``store``, where the workers' store is to be.

        ``store`` is any object with ``set(key, bytes)`` and a ``get(key)`` that waits. Without ``server_port``
        a port is taken that is free now; it may not be when it is used.
        """
        if rank == 0:
            host, port = local_addr or _own_name(), server_port or _free_port()
            store.set(RendezvousStoreInfo.MASTER_ADDR_KEY, host.encode())
            store.set(RendezvousStoreInfo.MASTER_PORT_KEY, str(port).encode())
        host = store.get(RendezvousStoreInfo.MASTER_ADDR_KEY).decode()
        port = int(store.get(RendezvousStoreInfo.MASTER_PORT_KEY).decode())
        return RendezvousStoreInfo(master_addr=host, master_port=port)


class RendezvousInfo:
    """The outcome of one meeting: this node's ``rank`` among ``world_size`` nodes, and the ``store`` they share."""

    def __init__(self, store: Any, rank: int, world_size: int, bootstrap_store_info: RendezvousStoreInfo) -> None:
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._bootstrap_store_info = bootstrap_store_info

    @property
    def store(self) -> Any:
        """The nodes' own store, for this round alone."""
        return self._store

    @property
    def rank(self) -> int:
        """The place of this node."""
        return self._rank

    @property
    def world_size(self) -> int:
        """The number of nodes."""
        return self._world_size

    @property
    def bootstrap_store_info(self) -> RendezvousStoreInfo | None:
        """Where the workers' store is."""
        return self._bootstrap_store_info

    def __repr__(self) -> str:
        return f"<RendezvousInfo rank {self._rank} of {self._world_size}, {self._bootstrap_store_info}>"


class RendezvousHandler(ABC):
    """One node's way to meet the others, again and again. ``next_rendezvous`` blocks; everything else is quick."""

    @abstractmethod
    def get_backend(self) -> str:
        """Return the backend's name."""

    @property
    def use_agent_store(self) -> bool:
        """Whether the launcher's side serves the workers' store (else the worker of rank 0 does)."""
        return False

    @abstractmethod
    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until a round is formed that this node is in, and return its place there.

        Raises RendezvousClosedError, RendezvousConnectionError, RendezvousStateError, RendezvousTimeoutError,
        and RendezvousGracefulExitError if this node is to end without having failed.
        """

    @abstractmethod
    def is_closed(self) -> bool:
        """Whether the run is over: nobody will meet any more."""

    @abstractmethod
    def set_closed(self) -> None:
        """End the run for all nodes; they see it sooner or later."""

    @abstractmethod
    def num_nodes_waiting(self) -> int:
        """Return how many nodes wait to be let in; above 0, call ``next_rendezvous`` again."""

    @abstractmethod
    def get_run_id(self) -> str:
        """Return the name of the run."""

    @abstractmethod
    def shutdown(self) -> bool:
        """Release everything; returns whether that worked."""


class RendezvousParameters:
    """What a handler is made from; ``kwargs`` are the backend's own settings (``config``).

    Raises ValueError for an empty ``backend`` and for numbers of nodes that cannot be.
    """

    def __init__(
        self,
        backend: str,
        endpoint: str,
        run_id: str,
        min_nodes: int,
        max_nodes: int,
        local_addr: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not backend:
            raise ValueError("the rendezvous backend is empty; it is a name, as c10d or static")
        if min_nodes < 1:
            raise ValueError(f"min_nodes is {min_nodes}; at least one node is needed")
        if max_nodes < min_nodes:
            raise ValueError(f"max_nodes is {max_nodes}, less than min_nodes, {min_nodes}")
        self.backend = backend
        self.endpoint = endpoint
        self.run_id = run_id
        self.min_nodes = min_nodes
        self.max_nodes = max_nodes
        self.config = kwargs
        self.local_addr = local_addr

    def get(self, key: str, default: Any = None) -> Any:
        """Return the setting ``key``, or ``default``."""
        return self.config.get(key, default)

    def get_as_bool(self, key: str, default: bool | None = None) -> bool | None:
        """Return the setting ``key`` as a truth. Raises ValueError if it is none."""
        value = self.get(key, default)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (int, str)):
            word = str(value).lower()
            if word in _YES + _NO:
                return word in _YES
        raise ValueError(f"the rendezvous setting {key}={value!r} is no truth; true and false are")

    def get_as_int(self, key: str, default: int | None = None) -> int | None:
        """Return the setting ``key`` as a whole number. Raises ValueError if it is none."""
        value = self.get(key, default)
        if value is None:
            return value
        try:
            return int(value)
        except ValueError:
            raise ValueError(f"the rendezvous setting {key}={value!r} is no whole number") from None

    def __repr__(self) -> str:
        where = f" at {self.endpoint}" if self.endpoint else ""
        return (
            f"<RendezvousParameters of {self.run_id}: {self.backend}{where}, {self.min_nodes}:{self.max_nodes} nodes>"
        )


RendezvousHandlerCreator = Callable[[RendezvousParameters], RendezvousHandler]


class RendezvousHandlerRegistry:
    """The backends by name."""

    _registry: dict[str, RendezvousHandlerCreator]

    def __init__(self) -> None:
        self._registry = {}

    def register(self, backend: str, creator: RendezvousHandlerCreator) -> None:
        """Have ``creator`` make the handlers of ``backend``. Raises ValueError for an empty or taken name."""
        if not backend:
            raise ValueError("the rendezvous backend is empty; register it under a name")
        holder = self._registry.get(backend)
        if holder is not None and holder != creator:
            raise ValueError(f"the rendezvous backend {backend!r} is registered already, with {holder}; not {creator}")
        self._registry[backend] = creator

    def create_handler(self, params: RendezvousParameters) -> RendezvousHandler:
        """Make a handler. Raises ValueError for an unknown backend, RuntimeError if the handler says it is another."""
        try:
            creator = self._registry[params.backend]
        except KeyError:
            known = ", ".join(sorted(self._registry)) or "none"
            raise ValueError(
                f"the rendezvous backend {params.backend!r} is unknown; known are {known}. "
                "Others are added by rendezvous_handler_registry.register() or an entry point in torchrun.handlers"
            ) from None
        handler = creator(params)
        if handler.get_backend() != params.backend:
            raise RuntimeError(f"asked for backend {params.backend!r}, the handler is for {handler.get_backend()!r}")
        return handler

    def __repr__(self) -> str:
        return f"<RendezvousHandlerRegistry of {', '.join(sorted(self._registry)) or 'nothing'}>"


rendezvous_handler_registry = RendezvousHandlerRegistry()


def _own_name() -> str:
    import socket

    return socket.getfqdn()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
