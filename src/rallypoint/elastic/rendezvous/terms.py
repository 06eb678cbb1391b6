"""``RendezvousParameters`` -> the fields of ``Spec`` about how nodes meet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rallypoint.elastic.rendezvous.utils import parse_rendezvous_endpoint
from rallypoint.model.errors import UsageError
from rallypoint.model.spec import DEFAULT_ETCD_PORT, DEFAULT_STORE_PORT
from rallypoint.model.terms import BACKENDS, KEYS, STORE_KEYS, TLS_KEYS, check_several, read_token, timing
from rallypoint.model.value import Secret
from rallypoint.net import join_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.elastic.rendezvous.api import RendezvousParameters

NO_PORT = -1


def meeting(params: RendezvousParameters) -> dict[str, Any]:
    """Return the fields. Raises ValueError for what cannot work; nothing has been opened then."""
    backend = BACKENDS[params.backend]
    if backend == "etcd":
        return _shared(params, backend) | {"endpoint": _members(params), "store": _etcd(params)}
    if backend == "file" or (backend == "tcp" and _store_type(params) == "file" and params.endpoint.strip()):
        return _shared(params, "file") | {"endpoint": _folder(params)}
    if backend == "tcp" and "," in params.endpoint:
        return _hosted(params, backend) | {"endpoint": _several(params)}
    host, port = _place(params, backend)
    if backend != "memory" and params.max_nodes == 1 and (port == 0 or not params.endpoint.strip()):
        backend = "memory"  # alone, and at no port that others are to know
    elif backend == "memory" and params.max_nodes > 1:
        raise ValueError(f"max_nodes is {params.max_nodes}: the backend {params.backend!r} is for one node")
    elif backend != "memory" and port == 0:
        raise ValueError(f"{params.max_nodes} nodes need one port that all of them know, not 0")
    return _hosted(params, backend) | {"endpoint": "" if backend == "memory" else join_endpoint(host, port)}


def _hosted(params: RendezvousParameters, backend: str) -> dict[str, Any]:
    """Return the fields of a backend whose store the nodes bring along."""
    return _shared(params, backend) | {
        "is_host": params.get_as_bool("is_host") if backend == "tcp" else None,
        "node_rank": _node_rank(params) if backend == "static" else -1,
        "min_nodes": params.max_nodes if backend == "static" else params.min_nodes,
        "token": _token(params) if backend != "memory" else Secret(""),
        "store": _tls(params) if backend != "memory" else {},
    }


def _shared(params: RendezvousParameters, backend: str) -> dict[str, Any]:
    """Return the fields that every backend has."""
    _check_rest(params)
    return {
        "backend": backend,
        "run_id": params.run_id,
        "min_nodes": params.min_nodes,
        "max_nodes": params.max_nodes,
        "local_addr": params.local_addr,
        "timing": _timing(params),
    }


def _members(params: RendezvousParameters) -> str:
    """Return etcd's members as a comma list, each with a port."""
    if not params.endpoint.strip():
        raise ValueError("rdzv_endpoint is empty: with etcd it is HOST:PORT,... of its members")
    places = [parse_rendezvous_endpoint(place.strip(), DEFAULT_ETCD_PORT) for place in params.endpoint.split(",")]
    return ",".join(join_endpoint(*place) for place in places)


def _several(params: RendezvousParameters) -> str:
    """Return the endpoints of which a majority decides who serves the store."""
    places = tuple(parse_rendezvous_endpoint(place.strip(), DEFAULT_STORE_PORT) for place in params.endpoint.split(","))
    try:
        check_several("rdzv_endpoint", params.endpoint, places)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return ",".join(join_endpoint(*place) for place in places)


def _folder(params: RendezvousParameters) -> str:
    path = os.path.abspath(params.endpoint.strip())
    if not params.endpoint.strip() or not os.path.isdir(os.path.dirname(path)) or os.path.isfile(path):
        raise ValueError(f"rdzv_endpoint {params.endpoint!r}: with file it is a folder that all nodes share")
    return path


def _store_type(params: RendezvousParameters) -> str:
    return str(params.get("store_type", "tcp")).strip().lower()


def _etcd(params: RendezvousParameters) -> dict[str, str]:
    from rallypoint.store.etcd.settings import settings

    return _checked(params, STORE_KEYS, lambda conf: settings("rdzv_configs", conf))


def _tls(params: RendezvousParameters) -> dict[str, str]:
    from rallypoint.store.tls import identity

    hosts = params.get_as_bool("is_host") is not False
    return _checked(params, TLS_KEYS, lambda conf: identity("rdzv_configs", conf, hosts))


def _checked(params: RendezvousParameters, keys: tuple[str, ...], check: Callable[..., object]) -> dict[str, str]:
    conf = {key: str(params.config[key]) for key in keys if params.config.get(key) is not None}
    try:
        check(conf)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return conf


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


def _token(params: RendezvousParameters) -> Secret:
    conf = {"token_file": str(params.config["token_file"])} if params.config.get("token_file") else {}
    try:
        return read_token("rdzv_configs", conf, os.environ)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _check_rest(params: RendezvousParameters) -> None:
    if _store_type(params) not in ("tcp", "file"):
        raise ValueError(f"rdzv_configs store_type is {params.get('store_type')!r}; it is tcp or file")
    if unknown := sorted(set(params.config) - set(KEYS)):
        import logging

        words = "rdzv_configs: %s has no effect; there are %s"
        logging.getLogger(__name__).warning(words, ", ".join(unknown), ", ".join(KEYS))
