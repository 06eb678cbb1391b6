"""Which store a run uses: from the Spec to an open one."""

from __future__ import annotations

from rallypoint.net import split_endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.c10d.server import WorkerStore
    from rallypoint.model.reactor import Reactor
    from rallypoint.model.spec import Spec
    from rallypoint.store.api import Store, StoreWatcher


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
    from rallypoint.store.tcp import open_tcp

    if spec.max_nodes > MANY_NODES:
        raise_descriptor_limit()
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
        door={C10D_FIRST_BYTE: workers.adopt} if static else None,
    )
