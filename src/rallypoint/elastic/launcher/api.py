"""``elastic_launch(LaunchConfig(...), function_or_command)(*args)``: run it on every node."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rallypoint.elastic.multiprocessing import DefaultLogsSpecs, LogsSpecs, SignalException
from rallypoint.elastic.multiprocessing.errors import ChildFailedError

if TYPE_CHECKING:
    from rallypoint.elastic.agent.server.api import RunResult, WorkerSpec
    from rallypoint.elastic.agent.server.health_check_server import HealthCheckServer
    from rallypoint.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from rallypoint.elastic.numa import NumaOptions

__all__ = ["LaunchConfig", "elastic_launch", "launch_agent"]

_FOREVER = 900
"""Seconds: torch's time for nodes to meet, if nothing else is said."""


@dataclass
class LaunchConfig:
    """What to run where.

    ``min_nodes`` to ``max_nodes`` nodes with ``nproc_per_node`` workers each take part. ``rdzv_backend``,
    ``rdzv_endpoint`` and ``rdzv_configs`` say how they meet: ``c10d`` (one node alone needs no endpoint),
    ``static`` (``rdzv_configs={"rank": N}``), or a registered one. ``rdzv_timeout`` (seconds) is an old name for
    ``rdzv_configs["timeout"]``. ``max_restarts`` counts for the whole run. ``monitor_interval`` (seconds) is how
    often somebody else's rendezvous handler is asked for newcomers; nothing else polls. ``start_method``: spawn,
    fork or forkserver, for functions. ``log_line_prefix_template`` has ${role_name}, ${rank} and ${local_rank}.
    ``local_addr`` is where other nodes reach this one. ``signals_to_handle`` end the run. ``shutdown_timeout``
    (seconds, default TORCH_ELASTIC_SHUTDOWN_TIMEOUT or 30): from the first signal to KILL.
    Raises ValueError for a negative ``shutdown_timeout``.
    """

    min_nodes: int
    max_nodes: int
    nproc_per_node: int
    logs_specs: LogsSpecs | None = None
    run_id: str = ""
    role: str = "default_role"
    rdzv_endpoint: str = ""
    rdzv_backend: str = "c10d"
    rdzv_configs: dict[str, Any] = field(default_factory=dict)
    rdzv_timeout: int = -1
    max_restarts: int = 3
    monitor_interval: float = 0.1
    start_method: str = "spawn"
    log_line_prefix_template: str | None = None
    metrics_cfg: dict[str, str] = field(default_factory=dict)
    local_addr: str | None = None
    event_log_handler: str = "null"
    numa_options: NumaOptions | None = None
    signals_to_handle: str = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"
    duplicate_stdout_filters: list[str] | None = None
    duplicate_stderr_filters: list[str] | None = None
    virtual_local_rank: bool = False
    shutdown_timeout: int | None = None

    def __post_init__(self) -> None:
        if self.rdzv_timeout != -1:
            self.rdzv_configs["timeout"] = self.rdzv_timeout
        else:
            self.rdzv_configs.setdefault("timeout", _FOREVER)
        if self.logs_specs is None:
            self.logs_specs = DefaultLogsSpecs()
        if self.shutdown_timeout is None:
            self.shutdown_timeout = int(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30"))
        elif self.shutdown_timeout < 0:
            raise ValueError(f"shutdown_timeout is {self.shutdown_timeout}; it is a time in seconds, 0 or more")


class elastic_launch:  # noqa: N801  torch's name
    """Call it with the arguments of ``entrypoint`` (a function or a command): see ``launch_agent``."""

    def __init__(
        self,
        config: LaunchConfig,
        entrypoint: Callable[..., Any] | str | None,
        health_check_server: HealthCheckServer | None = None,
    ) -> None:
        self._config = config
        self._entrypoint = entrypoint
        self._health_check_server = health_check_server

    def __call__(self, *args: Any) -> dict[int, Any]:
        return launch_agent(self._config, self._entrypoint, list(args), health_check_server=self._health_check_server)

    def __repr__(self) -> str:
        return f"<elastic_launch of {_name(self._entrypoint, [])!r} on {self._config.min_nodes} nodes or more>"


def launch_agent(
    config: LaunchConfig,
    entrypoint: Callable[..., Any] | str | None,
    args: list[Any],
    health_check_server: HealthCheckServer | None = None,
) -> dict[int, Any]:
    """Run ``entrypoint`` with ``args`` in this node's workers, together with the other nodes.

    Returns, by global rank, what this node's workers returned (None for each, if it is a command); nothing at all
    after a graceful exit. Raises ChildFailedError with all failures by global rank, SignalException if a signal
    ended the run, the rendezvous errors, and for what cannot be started ValueError, AssertionError,
    FileNotFoundError or the pickler's error; then nothing was started. In another thread than the main one no
    signals are handled.
    """
    from rallypoint.elastic.agent.server.local_elastic_agent import LocalElasticAgent

    if not config.run_id:
        config.run_id = os.urandom(16).hex()
    _say_once_without_signals()
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = config.signals_to_handle
    spec = _worker_spec(config, entrypoint, args)
    agent = LocalElasticAgent(
        spec=spec,
        logs_specs=config.logs_specs or DefaultLogsSpecs(),
        start_method=config.start_method,
        log_line_prefix_template=config.log_line_prefix_template,
        shutdown_timeout=config.shutdown_timeout or 0,
        health_check_server=health_check_server,
    )
    result = _run(agent, config, spec)
    if result.is_failed():
        raise ChildFailedError(name=_name(entrypoint, args), failures=result.failures)
    return result.return_values


def _run(agent: LocalElasticAgent, config: LaunchConfig, spec: WorkerSpec) -> RunResult:
    shutdown = True
    try:
        if config.metrics_cfg:
            from rallypoint.elastic.metrics import MetricsConfig, initialize_metrics

            initialize_metrics(MetricsConfig(config.metrics_cfg))
        return agent.run()
    except SignalException:
        shutdown = False  # the others go on, and this node may come back
        raise
    finally:
        if shutdown:
            spec.rdzv_handler.shutdown()


def _worker_spec(config: LaunchConfig, entrypoint: Callable[..., Any] | str | None, args: list[Any]) -> WorkerSpec:
    from rallypoint.elastic.agent.server.api import WorkerSpec
    from rallypoint.elastic.rendezvous import RendezvousParameters
    from rallypoint.elastic.rendezvous.registry import get_rendezvous_handler

    params = RendezvousParameters(
        backend=config.rdzv_backend,
        endpoint=config.rdzv_endpoint,
        run_id=config.run_id,
        min_nodes=config.min_nodes,
        max_nodes=config.max_nodes,
        local_addr=config.local_addr,
        **config.rdzv_configs,
    )
    return WorkerSpec(
        role=config.role,
        local_world_size=config.nproc_per_node,
        entrypoint=entrypoint,
        args=tuple(args),
        rdzv_handler=get_rendezvous_handler(params),
        max_restarts=config.max_restarts,
        monitor_interval=config.monitor_interval,
        local_addr=config.local_addr,
        event_log_handler=config.event_log_handler,
        numa_options=config.numa_options,
        duplicate_stdout_filters=config.duplicate_stdout_filters,
        duplicate_stderr_filters=config.duplicate_stderr_filters,
        virtual_local_rank=config.virtual_local_rank,
    )


def _name(entrypoint: Callable[..., Any] | str | None, args: list[Any]) -> str:
    """Name the job: the function, the command, or the script that is given to this Python."""
    if callable(entrypoint):
        return getattr(entrypoint, "__name__", repr(entrypoint))
    if entrypoint == sys.executable:
        return next((str(arg) for arg in args if not str(arg).startswith("-")), "")
    return entrypoint or ""


_said: list[bool] = []


def _say_once_without_signals() -> None:
    import threading

    if threading.current_thread() is not threading.main_thread() and not _said:
        import logging

        _said.append(True)
        words = "not in the main thread: signals end the program as they always do, not this run (said once)"
        logging.getLogger(__name__).warning(words)
