"""``RendezvousParameters`` -> the fields of ``Spec`` about how nodes meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rallypoint.elastic.rendezvous.utils import parse_rendezvous_endpoint
from rallypoint.model.errors import UsageError
from rallypoint.model.spec import DEFAULT_STORE_PORT
from rallypoint.model.terms import BACKENDS, KEYS, timing
from rallypoint.net import join_endpoint

if TYPE_CHECKING:
    from rallypoint.elastic.rendezvous.api import RendezvousParameters

NO_PORT = -1


def meeting(params: RendezvousParameters) -> dict[str, Any]:
    """Return the fields. Raises ValueError for what cannot work; nothing has been opened then."""
    backend = BACKENDS[params.backend]
    host, port = _place(params, backend)
    if backend != "memory" and params.max_nodes == 1 and (port == 0 or not params.endpoint.strip()):
        backend = "memory"  # alone, and at no port that others are to know
    elif backend == "memory" and params.max_nodes > 1:
        raise ValueError(f"max_nodes is {params.max_nodes}: the backend {params.backend!r} is for one node")
    elif backend != "memory" and port == 0:
        raise ValueError(f"{params.max_nodes} nodes need one port that all of them know, not 0")
    fields = {
        "backend": backend,
        "endpoint": "" if backend == "memory" else join_endpoint(host, port),
        "is_host": params.get_as_bool("is_host") if backend == "tcp" else None,
        "node_rank": _node_rank(params) if backend == "static" else -1,
        "run_id": params.run_id,
        "min_nodes": params.max_nodes if backend == "static" else params.min_nodes,
        "max_nodes": params.max_nodes,
        "local_addr": params.local_addr,
        "timing": _timing(params),
    }
    _check_rest(params)
    return fields


def _place(params: RendezvousParameters, backend: str) -> tuple[str, int]:
    if backend != "static":
        return parse_rendezvous_endpoint(params.endpoint, DEFAULT_STORE_PORT)
    _node_rank(params)
    if not params.endpoint.strip():
        raise ValueError("rdzv_endpoint is empty: with static it is HOST:PORT of the node of rank 0")
    host, port = parse_rendezvous_endpoint(params.endpoint, NO_PORT)
    if port == NO_PORT:
        raise ValueError(f"rdzv_endpoint {params.endpoint!r} has no port: with static it is HOST:PORT, as {host}:29500")
    return host, port


def _node_rank(params: RendezvousParameters) -> int:
    place = params.get_as_int("rank")
    if place is None:
        raise ValueError('rank is missing: with static, rdzv_configs={"rank": N} tells each node its place, from 0')
    if not 0 <= place < params.max_nodes:
        raise ValueError(f"rank is {place}; with max_nodes {params.max_nodes} it is 0 to {params.max_nodes - 1}")
    return place


def _timing(params: RendezvousParameters) -> Any:
    try:
        return timing("rdzv_configs", {key: str(value) for key, value in params.config.items() if value is not None})
    except UsageError as error:
        raise ValueError(str(error)) from None


def _check_rest(params: RendezvousParameters) -> None:
    if str(params.get("store_type", "tcp")).strip().lower() != "tcp" and params.max_nodes > 1:
        raise ValueError("rdzv_configs store_type=file is for one machine and not available here; leave it out")
    if unknown := sorted(set(params.config) - set(KEYS)):
        import logging

        words = "rdzv_configs: %s has no effect; there are %s"
        logging.getLogger(__name__).warning(words, ", ".join(unknown), ", ".join(KEYS))
