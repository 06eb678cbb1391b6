"""torch's hook for a health check of one's own. (Rallypoint's own answers on TORCHELASTIC_HEALTH_CHECK_PORT.)"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["HealthCheckServer", "create_healthcheck_server"]


class HealthCheckServer:
    """To be subclassed: ``start`` and ``stop`` a server at ``port`` that asks ``alive_callback()`` (epoch seconds)."""

    def __init__(self, alive_callback: Callable[[], int], port: int, timeout: int) -> None:
        self._alive_callback = alive_callback
        self._port = port
        self._timeout = timeout

    def start(self) -> None:
        """Nothing is served here."""

    def stop(self) -> None:
        """Nothing was served here."""

    @property
    def alive_callback(self) -> Callable[[], int]:
        """What says when the agent was last known to live."""
        return self._alive_callback

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for port {self._port}>"


def create_healthcheck_server(alive_callback: Callable[[], int], port: int, timeout: int) -> HealthCheckServer:
    """Return a server that serves nothing, as torch's; platforms put theirs in its place."""
    return HealthCheckServer(alive_callback, port, timeout)
