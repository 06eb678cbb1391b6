"""Which store a run uses: from the Spec to an open one."""

from __future__ import annotations

from rallypoint.model.errors import UsageError
from rallypoint.model.spec import DEFAULT_ETCD_PORT
from rallypoint.net import split_endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.c10d.server import WorkerStore
    from rallypoint.model.reactor import Reactor
    from rallypoint.model.spec import Spec
    from rallypoint.store.api import Store, StoreWatcher
    from rallypoint.store.client import Member
    from rallypoint.store.tls import Tls


C10D_FIRST_BYTE = 0
"""Every client of torch's TCPStore begins with VALIDATE, which is 0."""


MANY_NODES = 256
"""From here on the host of a store may need more descriptors than the usual soft limit of 1,024."""


def raise_descriptor_limit() -> None:
    """Allow this process as many descriptors as it may give itself: a store holds one for each node."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_store(
    spec: Spec, node: str, reactor: Reactor, watcher: StoreWatcher, *, workers: WorkerStore, warn: Callable[[str], None]
) -> Store:
    """Open the store that ``spec.backend`` names. What it costs to import is paid only if it is used.

    For ``static`` the node of rank 0 hosts it, and the same port serves the ``workers``' store too.
    """
    if spec.backend == "memory":
        from rallypoint.store.memory import open_memory

        return open_memory(reactor, watcher, spec.run_id, node)
    if spec.backend == "etcd":
        return _open_etcd(spec, node, reactor, watcher)
    if spec.backend == "file":
        from rallypoint.store.file.store import FileStore

        return FileStore(reactor, watcher, spec.endpoint, _member(spec, node))
    if spec.max_nodes > MANY_NODES:
        raise_descriptor_limit()
    if "," in spec.endpoint:
        from rallypoint.store.seats.store import SeatsStore

        places = tuple(split_endpoint(place, 0) for place in spec.endpoint.split(","))
        member = _member(spec, node).replace(token=spec.token, tls=_tls(spec, False))
        return SeatsStore(reactor, watcher, places, member, is_host=spec.is_host, warn=warn)
    return _open_tcp(spec, node, reactor, watcher, workers, warn)


def _open_tcp(
    spec: Spec, node: str, reactor: Reactor, watcher: StoreWatcher, workers: WorkerStore, warn: Callable[[str], None]
) -> Store:
    from rallypoint.store.tcp import open_tcp

    host, port = split_endpoint(spec.endpoint, 0)
    static = spec.backend == "static"
    return open_tcp(
        reactor,
        watcher,
        host,
        port,
        spec.run_id,
        node,
        ttl=spec.timing.lease,
        keep_alive_interval=spec.timing.keep_alive_interval,
        is_host=spec.node_rank == 0 if static else spec.is_host,
        warn=warn,
        local_addr=spec.local_addr,
        elastic=spec.max_nodes > 1,
        token=spec.token,
        tls=_tls(spec, static),
        door={C10D_FIRST_BYTE: workers.adopt} if static else None,
    )


def _open_etcd(spec: Spec, node: str, reactor: Reactor, watcher: StoreWatcher) -> Store:
    try:
        from rallypoint.store.etcd.store import open_etcd
    except ModuleNotFoundError as error:
        if error.name != "h11":
            raise
        reason = "it needs the extra etcd: pip install 'rallypoint[etcd]'"
        raise UsageError("--rdzv-backend", "etcd", reason) from None
    endpoints = [split_endpoint(place, DEFAULT_ETCD_PORT) for place in spec.endpoint.split(",")]
    return open_etcd(reactor, watcher, endpoints, _member(spec, node), spec.store)


def _tls(spec: Spec, static: bool) -> Tls | None:
    if not spec.store:
        return None
    from rallypoint.store.tls import identity

    return identity("--rdzv-conf", spec.store, spec.node_rank == 0 if static else spec.is_host is not False)


def _member(spec: Spec, node: str) -> Member:
    from rallypoint.store.client import Member

    timing = spec.timing
    return Member(spec.run_id, node, timing.lease, timing.keep_alive_interval, spec.local_addr)
