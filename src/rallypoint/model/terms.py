"""How one says how nodes are to meet: the backends' names, and the keys of ``--rdzv-conf``."""

from __future__ import annotations

from rallypoint.model.reading import seconds, whole
from rallypoint.model.spec import Timing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

BACKENDS = {"c10d": "tcp", "tcp": "tcp", "static": "static", "memory": "memory"}
"""What a user says -> ``Spec.backend``."""
LATER = ("etcd", "etcd-v2", "file")
"""Names that torch knows and this version does not serve."""
SECONDS = ("join_timeout", "last_call_timeout", "close_timeout", "read_timeout", "keep_alive_interval")
KEYS = (*SECONDS, "keep_alive_max_attempt", "timeout", "is_host", "rank", "store_type", "heartbeat_timeout")


def timing(where: str, conf: Mapping[str, str]) -> Timing:
    """Read the times in ``conf`` (``timeout`` is another name for ``join_timeout``, which wins). Raises UsageError."""
    times: dict[str, Any] = {
        key: seconds(f"{where} {key}", conf[key], zero=key == "last_call_timeout") for key in SECONDS if key in conf
    }
    if "keep_alive_max_attempt" in conf:
        times["keep_alive_max_attempt"] = whole(f"{where} keep_alive_max_attempt", conf["keep_alive_max_attempt"], 1)
    if "timeout" in conf:
        times.setdefault("join_timeout", seconds(f"{where} timeout", conf["timeout"]))
    return Timing(**times)
