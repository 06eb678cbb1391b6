"""``rallypoint.launch``: run a function in many processes, on one node or many, and return what they returned.

import rallypoint
losses = rallypoint.launch(train, args=("data",), nproc=4)
"""

from __future__ import annotations

import os
import signal as signals

from rallypoint.model.errors import RallypointError, UsageError
from rallypoint.model.spec import DEFAULT_STORE_PORT, ERR, OUT, Call, LogSpec, Spec, Timing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from rallypoint.model.result import Failure, Outcome

__all__ = ["LaunchError", "StoppedError", "WorkerFailedError", "launch"]


class LaunchError(RallypointError):
    """The run did not succeed; ``outcome`` says how it ended on this node."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome

    def __str__(self) -> str:
        return self.outcome.reason or self.outcome.status


class WorkerFailedError(LaunchError):
    """A worker failed. Raised where its own exception is not to be had; ``failures`` tells all, the cause first."""

    @property
    def failures(self) -> tuple[Failure, ...]:
        return self.outcome.failures

    def __str__(self) -> str:
        cause = self.failures[0]
        words = [f"{cause.place}: {cause.headline}"]
        if cause.error is not None and cause.error.traceback:
            words.append(cause.error.traceback.rstrip())
        elif cause.last_lines:
            words += ["its last lines:", *cause.last_lines]
        return "\n".join(words)


class StoppedError(LaunchError):
    """A signal ended the run; ``signal`` is its number."""

    @property
    def signal(self) -> int:
        return self.outcome.signal or signals.SIGTERM


def launch(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    nproc: int = 1,
    nnodes: int | tuple[int, int] = 1,
    endpoint: str = "",
    run_id: str = "",
    node_rank: int | None = None,
    role: str = "default",
    max_restarts: int = 0,
    start_method: str = "spawn",
    env: Mapping[str, str] | None = None,
    log_dir: str | None = None,
    tee: bool = True,
    join_timeout: float = 600.0,
    shutdown_timeout: float = 30.0,
    success_timeout: float | None = None,
    numa: str | None = None,
    local_addr: str | None = None,
) -> list[Any]:
    """Run ``fn(*args, **kwargs)`` in ``nproc`` processes of this node; return what they returned, by rank.

    See above for the arguments. Raises the exception that a worker raised, with the worker's traceback as its
    cause; WorkerFailedError if there is none or it cannot be brought over; KeyboardInterrupt after Ctrl-C,
    StoppedError after another signal; UsageError for what cannot be started, LaunchError where the nodes do not
    come together. Outside the main thread no signals are handled (said once).
    """
    spec = _spec(locals())
    from rallypoint.driver.run import run

    return _results(run(spec, _notices(), report=False))


def _spec(given: Mapping[str, Any]) -> Spec:
    """Return the validated Spec for the arguments of ``launch``, by name."""
    nnodes, nproc, log_dir = given["nnodes"], given["nproc"], given["log_dir"]
    least, most = nnodes if isinstance(nnodes, tuple) else (nnodes, nnodes)
    streams = {-1: OUT | ERR} if log_dir is not None else {}
    times = ("join_timeout", "shutdown_timeout", "success_timeout")
    args, kwargs = tuple(given["args"]), dict(given["kwargs"] or {})
    return Spec(
        argv=(),
        environ={**os.environ, **(given["env"] or {})},
        hook=False,
        run_id=given["run_id"] or ("none" if most > 1 else os.urandom(8).hex()),
        role=given["role"],
        min_nodes=least,
        max_nodes=most,
        nproc=nproc,
        **_meeting(most, given["endpoint"], given["node_rank"]),
        local_addr=given["local_addr"],
        max_restarts=given["max_restarts"],
        timing=Timing(**{name: given[name] for name in times}),
        logs=LogSpec(directory=log_dir, tee=streams if given["tee"] else {}, redirects=streams),
        call=_call(given["fn"], args, kwargs, nproc, given["start_method"]),
        numa=given["numa"],
        omp="",
    ).validate()


def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], nproc: int, method: str) -> Call:
    if kwargs:
        import functools

        fn = functools.partial(fn, **kwargs)
    return Call(fn, dict.fromkeys(range(nproc), args), method)


def _meeting(most: int, endpoint: str, node_rank: int | None) -> dict[str, Any]:
    """Return the fields of Spec about where the nodes meet."""
    from rallypoint.net import join_endpoint, split_endpoint

    if not endpoint:
        if most > 1:
            raise UsageError("endpoint", endpoint, "host:port of one node is needed for more than one node")
        return {"backend": "memory"}
    host, port = split_endpoint(endpoint, DEFAULT_STORE_PORT, "endpoint")
    fields = {"endpoint": join_endpoint(host, port)}
    if node_rank is None:
        return {"backend": "tcp", **fields}
    return {"backend": "static", "node_rank": node_rank, **fields}


_said: list[bool] = []


def _notices() -> tuple[str, ...]:
    """Say, once in a process, what works differently in this thread."""
    import threading

    if threading.current_thread() is threading.main_thread() or _said:
        return ()
    _said.append(True)
    return ("not in the main thread: signals end the program as they always do, not this run",)


def _results(outcome: Outcome) -> list[Any]:
    """Return the results by rank, or raise how the run ended."""
    if outcome.status == "succeeded":
        return [outcome.results[rank] for rank in sorted(outcome.results)]
    if outcome.status == "failed":
        raise _raised(outcome)
    if outcome.status == "stopped":
        if outcome.signal == signals.SIGINT:
            raise KeyboardInterrupt
        raise StoppedError(outcome)
    raise LaunchError(outcome)


def _raised(outcome: Outcome) -> BaseException:
    """Return the exception of the first failure that has one here; consequences are no answer."""
    cause = outcome.failures[0]
    error = outcome.errors.get(cause.rank)
    if error is None or not isinstance(error, Exception):
        return WorkerFailedError(outcome)
    return error
