"""``WorkerSpec`` -> ``Spec``, and our refusals -> torch's."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rallypoint.driver.destinations import destinations
from rallypoint.elastic.rendezvous.own import OwnRendezvousHandler
from rallypoint.model.errors import UsageError
from rallypoint.model.reading import FOREVER, signals
from rallypoint.model.spec import Call, LogSpec, Spec, Timing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rallypoint.elastic.agent.server.api import WorkerSpec
    from rallypoint.elastic.multiprocessing import LogsSpecs

LOCAL_RANK = "${local_rank}"
SIGNALS = "TORCHELASTIC_SIGNALS_TO_HANDLE"
DEFAULT_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"


def spec_of(
    workers: WorkerSpec,
    logs_specs: LogsSpecs,
    *,
    start_method: str,
    template: str | None,
    shutdown_timeout: float,
    stuck_timeout: float | None,
) -> Spec:
    """Return the validated Spec. Raises UsageError, ValueError, FileNotFoundError or PermissionError."""
    if workers.max_restarts < 0:
        raise ValueError(f"max_restarts is {workers.max_restarts}; it is 0 or more")
    if shutdown_timeout < 0:
        raise ValueError(f"shutdown_timeout is {shutdown_timeout}; it is a time in seconds, 0 or more")
    fields = _meeting(workers)
    times: dict[str, Any] = {"shutdown_timeout": float(shutdown_timeout)}
    if stuck_timeout:
        times["kill_timeout"] = float(stuck_timeout)
    spec = Spec(
        environ=dict(os.environ),
        role=workers.role,
        nproc=workers.local_world_size,
        max_restarts=workers.max_restarts,
        signals=signals(SIGNALS, os.environ.get(SIGNALS, DEFAULT_SIGNALS)),
        virtual_local_rank=workers.virtual_local_rank,
        logs=_logs(workers, logs_specs, template),
        numa=workers.numa_options.affinity_mode.value if workers.numa_options else None,
        omp="",
        **_program(workers, start_method),
        **(fields | {"timing": fields["timing"].replace(**times)}),
    )
    # How strangers meet is not for us to judge.
    return spec.validate() if isinstance(workers.rdzv_handler, OwnRendezvousHandler) else spec


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a UsageError into what torch raises: the pickler's own error, or ValueError."""
    try:
        yield
    except UsageError as error:
        cause = error.__cause__
        if cause is not None:
            cause.add_note(str(error))
            raise cause from None
        raise ValueError(str(error)) from None


def _meeting(workers: WorkerSpec) -> dict[str, Any]:
    handler = workers.rdzv_handler
    if isinstance(handler, OwnRendezvousHandler):
        local = {"local_addr": workers.local_addr} if workers.local_addr else {}
        return {**handler.fields, **local}
    return {
        "run_id": handler.get_run_id(),
        "local_addr": workers.local_addr,
        "agent_store": bool(handler.use_agent_store),
        "timing": Timing(join_timeout=FOREVER),  # the handler has a patience of its own
    }


def _program(workers: WorkerSpec, start_method: str) -> dict[str, Any]:
    entrypoint, args = workers.entrypoint, tuple(workers.args)
    if callable(entrypoint):
        own = any(isinstance(arg, str) and LOCAL_RANK in arg for arg in args)
        ranks = range(workers.local_world_size)
        each = {rank: _substituted(args, rank) for rank in ranks} if own else dict.fromkeys(ranks, args)
        return {"argv": (), "hook": False, "call": Call(entrypoint, each, start_method)}
    path = _command(str(entrypoint))
    is_python = os.path.realpath(path) == os.path.realpath(sys.executable)
    return {"argv": (str(entrypoint), *map(str, args)), "hook": is_python}


def _substituted(args: tuple[Any, ...], local_rank: int) -> tuple[Any, ...]:
    return tuple(arg.replace(LOCAL_RANK, str(local_rank)) if isinstance(arg, str) else arg for arg in args)


def _command(name: str) -> str:
    """Look where exec would look. Raises what exec would raise, before anything is started."""
    found = shutil.which(name)
    if found is None and LOCAL_RANK not in name:
        import errno

        if os.path.isfile(name) and "/" in name:
            raise PermissionError(errno.EACCES, "the command is not executable (chmod +x it)", name)
        where = "there is no such command" if "/" in name else "the command is in no directory of PATH"
        raise FileNotFoundError(errno.ENOENT, where, name)
    return found or name


def _logs(workers: WorkerSpec, logs_specs: LogsSpecs, template: str | None) -> LogSpec:
    common: dict[str, Any] = {
        "stdout_filters": tuple(workers.duplicate_stdout_filters or ()),
        "stderr_filters": tuple(workers.duplicate_stderr_filters or ()),
        "template": template or os.environ.get("TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE") or None,
    }
    if type(logs_specs).reify.__qualname__ != "DefaultLogsSpecs.reify":  # ours, or torch's own
        return LogSpec(reify=destinations(logs_specs.reify), **common)
    shown = logs_specs._local_ranks_filter
    return LogSpec(
        directory=logs_specs.root_log_dir,
        redirects=_streams(logs_specs._redirects),
        tee=_streams(logs_specs._tee),
        shown=tuple(sorted(shown)) if shown else None,
        **common,
    )


def _streams(value: int | Mapping[int, int]) -> dict[int, int]:
    """Return local rank -> bits; torch's one value for all is -1 here."""
    if isinstance(value, int):
        return {-1: int(value)} if value else {}
    return {rank: int(bits) for rank, bits in value.items()}
