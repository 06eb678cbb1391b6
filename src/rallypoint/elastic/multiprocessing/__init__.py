"""Start copies of a function or a command, and see them through to a common end::

    context = start_processes("trainer", train, args={0: (1,), 1: (2,)}, envs={0: {}, 1: {}},
                              logs_specs=DefaultLogsSpecs(tee=Std.ALL))
    result = context.wait()

Names, signatures and behaviour are those of ``torch.distributed.elastic.multiprocessing``.
"""

from __future__ import annotations

from rallypoint.elastic.multiprocessing.api import (
    DefaultLogsSpecs,
    LogsDest,
    LogsSpecs,
    MultiprocessContext,
    PContext,
    RunProcsResult,
    SignalException,
    Std,
    SubprocessContext,
    _validate_full_rank,
    to_map,
)
from rallypoint.elastic.multiprocessing.errors import ProcessFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rallypoint.elastic.numa import NumaOptions

__all__ = [
    "DefaultLogsSpecs",
    "LogsDest",
    "LogsSpecs",
    "MultiprocessContext",
    "PContext",
    "ProcessFailure",
    "RunProcsResult",
    "SignalException",
    "Std",
    "SubprocessContext",
    "start_processes",
    "to_map",
]


def start_processes(
    name: str,
    entrypoint: Callable[..., Any] | str,
    args: dict[int, tuple[Any, ...]],
    envs: dict[int, dict[str, str]],
    logs_specs: LogsSpecs,
    log_line_prefixes: dict[int, str] | None = None,
    start_method: str = "spawn",
    numa_options: NumaOptions | None = None,
    duplicate_stdout_filters: list[str] | None = None,
    duplicate_stderr_filters: list[str] | None = None,
) -> PContext:
    """Start a process for each local rank in ``args`` and ``envs``, which must be 0 to n-1 in both.

    ``entrypoint``: a function (``start_method`` says how: spawn, fork, forkserver), or a command, whose arguments
    become strings. ``envs`` are added to this process's environment. The filters copy lines of tee'd streams that
    contain one of these texts to one file for all workers.

    Raises RuntimeError for wrong ranks; OSError for a command that cannot be started; PicklingError, AttributeError
    or TypeError for a function that cannot be pickled, ValueError for an unknown start method. Nothing runs then.
    """
    _validate_full_rank(args, len(args), "args")
    _validate_full_rank(envs, len(args), "envs")
    context: PContext
    filters = (duplicate_stdout_filters, duplicate_stderr_filters)
    if isinstance(entrypoint, str):
        context = SubprocessContext(name, entrypoint, args, envs, logs_specs, log_line_prefixes, numa_options, *filters)
    else:
        context = MultiprocessContext(
            name, entrypoint, args, envs, start_method, logs_specs, log_line_prefixes, numa_options, *filters
        )
    try:
        context.start()
    except BaseException:
        context.close()
        raise
    return context
