"""How one says how nodes are to meet: the backends' names, and the keys of ``--rdzv-conf``."""

from __future__ import annotations

from rallypoint.model.errors import UsageError
from rallypoint.model.reading import seconds, whole
from rallypoint.model.spec import Timing
from rallypoint.model.value import Secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

BACKENDS = {
    "c10d": "tcp",
    "tcp": "tcp",
    "static": "static",
    "memory": "memory",
    "etcd": "etcd",
    "etcd-v2": "etcd",
    "file": "file",
}
"""What a user says -> ``Spec.backend``."""
SECONDS = (
    "join_timeout",
    "last_call_timeout",
    "close_timeout",
    "read_timeout",
    "keep_alive_interval",
    "regroup_grace",
)
_ZERO = ("last_call_timeout", "regroup_grace")
STORE_KEYS = ("protocol", "ca_cert", "ssl_cert", "ssl_cert_key", "user", "password_file", "etcd_prefix")
"""Keys that are the affair of a store; they reach it as ``Spec.store``."""
TLS_KEYS = ("ca_cert", "ssl_cert", "ssl_cert_key")
"""Those of them that a store hosted by a launcher knows as well."""
_OTHERS = ("keep_alive_max_attempt", "timeout", "is_host", "rank", "store_type", "heartbeat_timeout", "token_file")
KEYS = (*SECONDS, *_OTHERS, *STORE_KEYS)


def timing(where: str, conf: Mapping[str, str]) -> Timing:
    """Read the times in ``conf`` (``timeout`` is another name for ``join_timeout``, which wins). Raises UsageError."""
    times: dict[str, Any] = {
        key: seconds(f"{where} {key}", conf[key], zero=key in _ZERO) for key in SECONDS if key in conf
    }
    if "keep_alive_max_attempt" in conf:
        times["keep_alive_max_attempt"] = whole(f"{where} keep_alive_max_attempt", conf["keep_alive_max_attempt"], 1)
    if "timeout" in conf:
        times.setdefault("join_timeout", seconds(f"{where} timeout", conf["timeout"]))
    return Timing(**times)


def check_several(where: str, text: str, places: tuple[tuple[str, int], ...]) -> None:
    """Check endpoints of which a majority is to say who serves the store. Raises UsageError, naming ``where``."""
    if len(set(places)) < len(places):
        raise UsageError(where, text, "it names one place twice")
    if len(places) == 2:
        reason = "of two, neither can take over: is the other dead, or only cut off? Name one, or three and more"
        raise UsageError(where, text, reason)
    if any(port == 0 for _, port in places):
        raise UsageError(where, text, "several nodes need ports that all of them know, not 0")


TOKEN = "RALLYPOINT_TOKEN"


def read_token(where: str, conf: Mapping[str, str], environ: Mapping[str, str]) -> Secret:
    """Return the run's token: from ``token_file`` (``where`` names the keys), else the variable; "" if there is none.

    Raises UsageError for a file that cannot be read, is empty, or that others may read.
    """
    if "token_file" not in conf:
        return Secret(environ.get(TOKEN, "").strip())
    return token_of_file(f"{where} token_file", conf["token_file"])


def token_of_file(where: str, path: str) -> Secret:
    """Return the token in a file. Raises UsageError."""
    import os
    import stat

    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read(1 << 16).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(where, path, f"it cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        raise UsageError(where, path, f"others may read it: chmod 600 {path}")
    if not token:
        raise UsageError(where, path, "it is empty; it holds a secret, such as the output of openssl rand -hex 32")
    return Secret(token)
