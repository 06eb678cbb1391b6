"""The keys of ``--rdzv-conf`` that concern etcd, made into the arguments of ``EtcdStore``."""

from __future__ import annotations

from rallypoint.model.errors import UsageError
from rallypoint.store.etcd.wire import DEFAULT_PREFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from typing import TypedDict

    class Settings(TypedDict):
        """What ``EtcdStore`` takes besides the place."""

        prefix: str
        user: str
        password: str
        context: ssl.SSLContext | None


def settings(where: str, conf: Mapping[str, str]) -> Settings:
    """Read ``protocol``, ``ca_cert``, ``ssl_cert``, ``ssl_cert_key``, ``user``, ``password_file``, ``etcd_prefix``.

    ``where`` names the option for people. Raises UsageError for what cannot work, before anything is opened.
    """
    prefix = "/" + conf.get("etcd_prefix", DEFAULT_PREFIX).strip("/")
    user = conf.get("user", "")
    if bool(user) != ("password_file" in conf):
        key, other = ("user", "password_file") if user else ("password_file", "user")
        raise UsageError(f"{where} {key}", conf.get(key, ""), f"it needs {other} beside it")
    return {
        "prefix": prefix,
        "user": user,
        "password": _password(f"{where} password_file", conf["password_file"]) if user else "",
        "context": _context(where, conf),
    }


def _password(where: str, path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(where, path, f"it cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _context(where: str, conf: Mapping[str, str]) -> ssl.SSLContext | None:
    files = [conf.get(key, "") for key in ("ca_cert", "ssl_cert", "ssl_cert_key")]
    protocol = conf.get("protocol", "https" if any(files) else "http").lower()
    if protocol not in ("http", "https"):
        raise UsageError(f"{where} protocol", protocol, "it is http or https")
    if protocol == "http":
        return None
    from rallypoint.store.tls import client_context

    return client_context(where, *files)
