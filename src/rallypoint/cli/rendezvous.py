"""What the options say about how nodes meet -> backend, endpoint, run id, place and times.

said                                         backend
--standalone                                 memory
nothing, one node                            memory
--rdzv-backend c10d, one node, port 0        memory (also without an endpoint)
--rdzv-backend c10d                          tcp     port 29400 unless said; one endpoint, or three and more
--rdzv-backend etcd, etcd-v2                 etcd    its members, port 2379 unless said
--rdzv-backend file, c10d with store_type=file  file the endpoint is a folder that all nodes share
--master-port, --rdzv-endpoint or more nodes static  port 29500 unless said
"""

from __future__ import annotations

import os

from rallypoint.cli import convert
from rallypoint.model.errors import UsageError
from rallypoint.model.spec import DEFAULT_ETCD_PORT, DEFAULT_MASTER_PORT, DEFAULT_STORE_PORT, Timing
from rallypoint.model.terms import BACKENDS, KEYS, STORE_KEYS, TLS_KEYS, check_several, read_token, timing
from rallypoint.model.value import Secret, Value
from rallypoint.net import join_endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rallypoint.cli.parse import Given


PORTS = {"tcp": DEFAULT_STORE_PORT, "static": DEFAULT_MASTER_PORT, "etcd": DEFAULT_ETCD_PORT}
"""The port that an endpoint has unless it is said."""
FREE = ("tcp", "etcd", "file")
"""Backends with which nodes find their places themselves, and may come and go."""
WITH_TOKEN = ("tcp", "static")


class Rendezvous(Value):
    """The fields of ``Spec`` that this module decides."""

    backend: str
    endpoint: str
    run_id: str
    node_rank: int
    is_host: bool | None
    timing: Timing
    token: Secret
    store: dict[str, str]


def rendezvous(given: Given, max_nodes: int, environ: Mapping[str, str]) -> tuple[Rendezvous, list[str]]:
    """Return the decision and, one line each, what was said in vain. Raises UsageError."""
    where = given.where("rdzv_conf")
    conf = _conf(given)
    _master_port(given)  # a wrong value is told even where it would not count
    host = convert.truth(f"{where} is_host", conf["is_host"]) if "is_host" in conf else None
    backend = _backend(given, max_nodes, conf)
    vain = _vain(given, backend, conf)
    fixed = Rendezvous(
        backend=backend,
        endpoint=_endpoint(given, backend, max_nodes),
        run_id=_run_id(given, backend),
        node_rank=_node_rank(given, conf, backend, max_nodes),
        is_host=host if backend == "tcp" else None,
        timing=timing(where, conf),
        token=read_token(where, conf, environ) if backend in WITH_TOKEN else Secret(""),
        store=_store(where, conf, backend, host is not False),
    )
    return fixed, vain


def _backend(given: Given, max_nodes: int, conf: Mapping[str, str]) -> str:
    name = given.text("rdzv_backend")
    if given.flag("standalone"):
        if max_nodes > 1:
            raise given.wrong("nnodes", "it is 1 with --standalone, which is for one node")
        return "memory"
    if name not in BACKENDS:
        raise given.wrong("rdzv_backend", "it is c10d, static, etcd or file")
    backend = BACKENDS[name]
    if backend == "tcp" and conf.get("store_type", "").lower() == "file":  # as torch has it
        return "memory" if max_nodes == 1 and not given.text("rdzv_endpoint").strip() else "file"
    if backend in ("etcd", "file"):
        return backend
    if max_nodes == 1 and _no_place_to_meet(given, backend):
        return "memory"
    if backend == "memory" and max_nodes > 1:
        raise given.wrong("nnodes", "it is 1 with --rdzv-backend memory, which is for one node")
    return backend


def _no_place_to_meet(given: Given, backend: str) -> bool:
    """One node that names no port (or port 0, "any") is alone: it needs no port that others could reach."""
    if given.text("rdzv_endpoint").strip():
        return convert.endpoints(given.where("rdzv_endpoint"), given.text("rdzv_endpoint"), -1)[0][1] == 0
    return backend != "static" or not given.said("master_port") or _master_port(given) == 0


def _endpoint(given: Given, backend: str, max_nodes: int) -> str:
    if backend == "memory":
        return ""
    text = given.text("rdzv_endpoint").strip()
    if backend == "file":
        return _folder(given, text)
    default = PORTS[backend]
    if backend == "etcd":
        if not text:
            raise given.wrong("rdzv_endpoint", "HOST:PORT,... of etcd's members is needed")
        places = convert.endpoints(given.where("rdzv_endpoint"), text, default)
        return ",".join(join_endpoint(host, port) for host, port in places)
    if "," in text and backend == "tcp":
        return _several(given, text)
    if text:
        host, port = convert.endpoint(given.where("rdzv_endpoint"), text, default)
    elif backend == "static":
        host, port = convert.host(given.where("master_addr"), given.text("master_addr")), _master_port(given)
    else:
        name = given.text("rdzv_backend")
        raise given.wrong("rdzv_endpoint", f"HOST:PORT of one node is needed with --rdzv-backend {name}")
    if port == 0:
        dest = "rdzv_endpoint" if text else "master_port"
        raise given.wrong(dest, f"{max_nodes} nodes need one port that all of them know, not 0")
    return join_endpoint(host, port)


def _several(given: Given, text: str) -> str:
    """Return the endpoints of which a majority decides who serves the store."""
    where = given.where("rdzv_endpoint")
    places = convert.endpoints(where, text, DEFAULT_STORE_PORT)
    check_several(where, text, places)
    return ",".join(join_endpoint(host, port) for host, port in places)


def _folder(given: Given, text: str) -> str:
    if not text:
        raise given.wrong("rdzv_endpoint", "a folder that all nodes share is needed")
    path = os.path.abspath(text)
    if os.path.exists(path) and not os.path.isdir(path):
        raise given.wrong("rdzv_endpoint", "it is a file; a folder that all nodes share is needed")
    if not os.path.isdir(os.path.dirname(path)):
        raise given.wrong("rdzv_endpoint", f"there is no folder {os.path.dirname(path)} in which to make it")
    return path


def _store(where: str, conf: Mapping[str, str], backend: str, hosts: bool) -> dict[str, str]:
    """Return what is the store's affair. Raises UsageError for what cannot work with it."""
    found = {key: conf[key] for key in _STORE_KEYS.get(backend, ()) if key in conf}
    if found and backend == "etcd":
        from rallypoint.store.etcd.settings import settings

        settings(where, found)
    elif found:
        from rallypoint.store.tls import identity

        identity(where, found, hosts)
    return found


def _master_port(given: Given) -> int:
    return convert.whole(given.where("master_port"), given.text("master_port"), 0, 65535)


def _run_id(given: Given, backend: str) -> str:
    text = given.text("rdzv_id")
    if given.said("rdzv_id") and not text.strip():
        raise given.wrong("rdzv_id", "it is a name for the run, the same on every node")
    return os.urandom(8).hex() if backend == "memory" and not given.said("rdzv_id") else text


def _node_rank(given: Given, conf: dict[str, str], backend: str, max_nodes: int) -> int:
    """Return the fixed place; -1 where nodes find their places themselves."""
    where, text = given.where("node_rank"), given.text("node_rank")
    if "rank" in conf:
        if given.said("node_rank") and conf["rank"] != text.strip():
            raise UsageError(where, text, f"{given.where('rdzv_conf')} says rank={conf['rank']}")
        where, text = f"{given.where('rdzv_conf')} rank", conf["rank"]
    place = convert.whole(where, text)
    if backend in FREE or given.flag("standalone"):
        return -1
    if place >= max_nodes:
        nodes = f"{given.where('nnodes')} is {max_nodes}"
        raise UsageError(
            where, text, f"it is 0 to {max_nodes - 1} ({nodes})" if max_nodes > 1 else f"it is 0 ({nodes})"
        )
    return place if backend == "static" else -1


def _conf(given: Given) -> dict[str, str]:
    where = given.where("rdzv_conf")
    conf = convert.pairs(where, given.text("rdzv_conf"))
    for key, value in conf.items():
        if key not in KEYS:
            raise UsageError(f"{where} {key}", value, "there is no such key; there are " + ", ".join(KEYS))
    if conf.get("store_type", "tcp").lower() not in ("tcp", "file"):
        raise UsageError(f"{where} store_type", conf["store_type"], "it is tcp or file")
    return conf


def _vain(given: Given, backend: str, conf: dict[str, str]) -> list[str]:
    """Say what has no effect here: torchrun ignores most of it silently, and the user believes in it."""
    name = given.text("rdzv_backend")
    by_backend = "with --standalone" if given.flag("standalone") else f"with --rdzv-backend {name}"
    dests, reason = _unused(given, backend, by_backend)
    lines = [f"{given.where(d)} has no effect {reason}" for d in dests if given.said(d)]
    keys = given.where("rdzv_conf")
    if backend in FREE or given.flag("standalone"):
        if given.text("node_rank").strip() != "0":
            lines.append(f"{given.where('node_rank')} has no effect {by_backend}")
        if "rank" in conf:
            lines.append(f"{keys} rank has no effect {by_backend}")
    if "is_host" in conf and backend != "tcp":
        lines.append(f"{keys} is_host has no effect " + ("on one node alone" if backend == "memory" else by_backend))
    if "token_file" in conf and backend not in WITH_TOKEN:
        lines.append(f"{keys} token_file has no effect {_UNGUARDED[backend]}")
    if name == "etcd-v2" and backend == "etcd":
        lines.append("etcd-v2 means etcd here: what is spoken is etcd's v3 API, the only one that it still has")
    for key in STORE_KEYS:
        if key in conf and key not in _STORE_KEYS.get(backend, ()):
            lines.append(f"{keys} {key} has no effect " + (by_backend if backend != "memory" else "on one node alone"))
    if "heartbeat_timeout" in conf:
        silence = "a node is lost after keep_alive_interval times keep_alive_max_attempt"
        lines.append(f"{keys} heartbeat_timeout has no effect: {silence}")
    return lines


_STORE_KEYS = {"etcd": STORE_KEYS, "tcp": TLS_KEYS, "static": TLS_KEYS}
_UNGUARDED = {
    "memory": "on one node alone: nobody else can reach its store",
    "etcd": "with etcd, which knows users and certificates itself (user, password_file, ca_cert)",
    "file": "with file: who may write in the folder takes part",
}


def _unused(given: Given, backend: str, by_backend: str) -> tuple[tuple[str, ...], str]:
    """Return the options about the meeting place that do not count here, and why."""
    address: tuple[str, ...] = ("master_addr", "master_port")
    if given.flag("standalone"):
        return ("rdzv_backend", "rdzv_endpoint", *address), by_backend
    if given.text("rdzv_endpoint").strip() and given.text("rdzv_backend") == "static":
        return address, f"with {given.where('rdzv_endpoint')}"
    if backend == "static":
        return (), ""
    if given.text("rdzv_backend") == "static":
        return ("master_addr",), "on one node alone that names no port"
    return (("rdzv_endpoint", *address) if given.text("rdzv_backend") == "memory" else address), by_backend
