"""Contexts: processes that were started together, and end together. torch's names and behaviour.

Beyond torch: ``wait`` sleeps until something happens instead of looking every ``period`` seconds; workers of both
kinds lead sessions of their own, and what they leave behind ends with them; a second signal while a context is being
closed kills at once; nothing survives this process, whatever ends it.
"""

from __future__ import annotations

import abc
import os
import signal
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field

from rallypoint.elastic.multiprocessing.crew import Crew, interrupt
from rallypoint.elastic.multiprocessing.destinations import DefaultLogsSpecs, LogsDest, LogsSpecs
from rallypoint.elastic.multiprocessing.errors import ProcessFailure
from rallypoint.elastic.multiprocessing.output import Output
from rallypoint.elastic.multiprocessing.std import Std, to_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from typing import Any

    from rallypoint.elastic.numa import NumaOptions
    from rallypoint.model.result import Exit
    from rallypoint.proc.pack import Packed

__all__ = [
    "DefaultLogsSpecs",
    "LogsDest",
    "LogsSpecs",
    "MultiprocessContext",
    "PContext",
    "RunProcsResult",
    "SignalException",
    "Std",
    "SubprocessContext",
    "get_std_cm",
    "to_map",
]

_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"
_LONG = 1e9  # seconds that no epoll can count
_told_of_threads = threading.Event()


class SignalException(Exception):  # noqa: N818  torch's name
    """This process was told to stop, by the signal ``sigval``."""

    def __init__(self, msg: str, sigval: signal.Signals) -> None:
        super().__init__(msg)
        self.sigval = sigval

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.sigval)


def _terminate_process_handler(signum: int, frame: object) -> None:
    """Raise SignalException; from within ``wait``, when its work is done."""
    sigval = signal.Signals(signum)
    error = SignalException(f"Process {os.getpid()} got signal: {sigval}", sigval=sigval)
    if not interrupt(error):
        raise error


def _validate_full_rank(d: Mapping[int, Any], nprocs: int, what: str) -> None:
    actual_keys, expected_keys = set(d.keys()), set(range(nprocs))
    if actual_keys != expected_keys:
        raise RuntimeError(f"{what}, local rank mapping mismatch, expected: {expected_keys}, actual: {actual_keys}")


def get_std_cm(std_rd: str, redirect_fn: Callable[[str], Any]) -> AbstractContextManager[Any]:
    """Return ``redirect_fn(std_rd)``, or nothing to do for the path ""."""
    return redirect_fn(std_rd) if std_rd else nullcontext()


@dataclass
class RunProcsResult:
    """What came of the processes, by local rank. ``return_values`` of commands are None; "" is no file."""

    return_values: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, ProcessFailure] = field(default_factory=dict)
    stdouts: dict[int, str] = field(default_factory=dict)
    stderrs: dict[int, str] = field(default_factory=dict)

    def is_failed(self) -> bool:
        """Say whether any process failed."""
        return len(self.failures) > 0


class PContext(abc.ABC):
    """Processes that were started together: all succeed, or the first failure ends the others.

    ``start``, ``wait`` until it returns a result, ``close`` in any case. Any thread may do so, also
    ``close`` while another waits.
    """

    def __init__(
        self,
        name: str,
        entrypoint: Callable[..., Any] | str,
        args: dict[int, tuple[Any, ...]],
        envs: dict[int, dict[str, str]],
        logs_specs: LogsSpecs,
        log_line_prefixes: dict[int, str] | None = None,
        duplicate_stdout_filters: list[str] | None = None,
        duplicate_stderr_filters: list[str] | None = None,
    ) -> None:
        self.name = name
        self.nprocs = len(args)
        dest = self._dest = logs_specs.reify(envs)
        _validate_full_rank(dest.stdouts, self.nprocs, "stdouts")
        _validate_full_rank(dest.stderrs, self.nprocs, "stderrs")
        self.entrypoint = entrypoint
        self.args = args
        self.envs = envs
        self.stdouts = dest.stdouts
        self.stderrs = dest.stderrs
        self.error_files = dest.error_files
        self._prefixes = log_line_prefixes
        self._filters = (duplicate_stdout_filters, duplicate_stderr_filters)

    def start(self) -> None:
        """Start the processes.

        In the main thread, the signals of TORCHELASTIC_SIGNALS_TO_HANDLE raise SignalException from now on.
        """
        if threading.current_thread() is threading.main_thread():
            _handle_signals(os.environ.get("TORCHELASTIC_SIGNALS_TO_HANDLE", _SIGNALS))
        elif not _told_of_threads.is_set():
            _told_of_threads.set()
            _log("signals are left to the program: handlers can only be set by its main thread, which this is not")
        self._start()

    @abc.abstractmethod
    def _start(self) -> None:
        """Start the processes."""
        raise NotImplementedError

    @abc.abstractmethod
    def _poll(self) -> RunProcsResult | None:
        """Return the result if all have succeeded or any has failed, None otherwise; does not wait."""
        raise NotImplementedError

    def _pause(self, seconds: float, period: float) -> None:
        """Wait until something may have happened, at most ``seconds``."""
        time.sleep(min(period, seconds))

    def wait(self, timeout: float = -1, period: float = 1) -> RunProcsResult | None:
        """Return the result when there is one; None after ``timeout`` seconds (0: only look; negative: no limit).

        ``period`` is kept for compatibility: what happens is seen at once.
        """
        end = time.monotonic() + (timeout if timeout >= 0 else threading.TIMEOUT_MAX)
        while (result := self._poll()) is None and (left := end - time.monotonic()) > 0:
            self._pause(left, period)
        return result

    @abc.abstractmethod
    def pids(self) -> dict[int, int]:
        """Return the pids of the processes by local rank."""
        raise NotImplementedError

    @abc.abstractmethod
    def _close(self, death_sig: signal.Signals, timeout: int = 30) -> None:
        """End all processes and release everything."""
        raise NotImplementedError

    def close(self, death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
        """End all processes: ``death_sig`` (SIGTERM) now, SIGKILL after ``timeout`` seconds. Safe to call again."""
        self._close(death_sig=death_sig or signal.SIGTERM, timeout=timeout)


class _CrewContext(PContext):
    """What both kinds have in common: a crew, and who may turn its loop."""

    _crew: Crew | None = None
    _output: Output | None = None
    _packed: Packed | None = None
    _result: RunProcsResult | None = None
    _numa_options: NumaOptions | None = None

    def _begin(self, inherit_stdin: bool) -> None:
        """Start all processes; whatever fails, ``close`` releases the rest."""
        self._turning = threading.RLock()
        self._closers: list[object] = []
        places = _places(self._numa_options, self.nprocs)
        output = self._output = Output(self.name, self._dest, self._prefixes, self._filters)
        crew = self._crew = Crew(self._packed)
        for rank in range(self.nprocs):
            with places(rank):
                env = os.environ | self.envs[rank]
                crew.spawn(rank, self._command(rank), env, output.descriptors(rank, inherit_stdin))
        crew.settle(self.nprocs)
        output.start()

    def _command(self, rank: int) -> list[str]:
        return []

    def _poll(self) -> RunProcsResult | None:
        if self._crew is None:
            raise AssertionError("the context was not started")
        if self._result is None and self._turning.acquire(blocking=False):
            try:
                self._crew.turn(0)
                self._result = self._finished(self._crew)
            finally:
                self._turning.release()
        return self._result

    def _pause(self, seconds: float, period: float) -> None:
        end = time.monotonic() + seconds
        if self._closers:
            time.sleep(min(seconds, 0.01))  # another thread is closing: leave it the loop
        elif self._turning.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            try:
                if self._crew is not None and not self._result and not self._closers:
                    left = end - time.monotonic()
                    self._crew.turn(left if left < _LONG else None)
            finally:
                self._turning.release()

    @abc.abstractmethod
    def _finished(self, crew: Crew) -> RunProcsResult | None:
        """Return the result, if there is one; closes the context then."""

    def _failure(self, rank: int, exit: Exit) -> ProcessFailure:
        code = exit.code if exit.code is not None else -(exit.signal or 0)
        return ProcessFailure(rank, exit.pid, code, self.error_files[rank])

    def pids(self) -> dict[int, int]:
        """Return the pids of the processes by local rank."""
        return dict(sorted(self._crew.pids.items())) if self._crew is not None else {}

    def _close(self, death_sig: signal.Signals, timeout: int = 30) -> None:
        if self._crew is not None:
            me = object()
            self._closers.append(me)
            self._crew.wake()
            with self._turning:
                try:
                    self._crew.stop(death_sig, timeout, _log)
                finally:
                    self._closers.remove(me)
                    self._crew.close()
        if self._output is not None:
            self._output.close()
        if self._packed is not None:
            self._packed.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self._crew or 'not started'}>"


class MultiprocessContext(_CrewContext):
    """Processes that run a function. The failure in the result is the first one alone."""

    def __init__(
        self,
        name: str,
        entrypoint: Callable[..., Any],
        args: dict[int, tuple[Any, ...]],
        envs: dict[int, dict[str, str]],
        start_method: str,
        logs_specs: LogsSpecs,
        log_line_prefixes: dict[int, str] | None = None,
        numa_options: NumaOptions | None = None,
        duplicate_stdout_filters: list[str] | None = None,
        duplicate_stderr_filters: list[str] | None = None,
    ) -> None:
        filters = (duplicate_stdout_filters, duplicate_stderr_filters)
        super().__init__(name, entrypoint, args, envs, logs_specs, log_line_prefixes, *filters)
        self.start_method = start_method
        self._numa_options = numa_options

    def _start(self) -> None:
        from rallypoint.model.spec import Call

        _only_once(self._crew)
        self._packed = _packed(Call(self.entrypoint, self.args, self.start_method))  # type: ignore[arg-type]
        self._begin(inherit_stdin=False)

    def _finished(self, crew: Crew) -> RunProcsResult | None:
        failed = [(rank, exit) for rank, exit in crew.exits.items() if not exit.succeeded]
        if not failed and len(crew.exits) < self.nprocs:
            return None
        result = RunProcsResult(stdouts=self.stdouts, stderrs=self.stderrs)
        for rank, exit in failed[:1]:
            result.failures[rank] = self._failure(rank, exit)
        self.close()
        if not failed:
            result.return_values = dict(sorted(crew.values.items()))
        return result

    def pids(self) -> dict[int, int]:
        """Return the pids of the processes by local rank."""
        if self._crew is None:
            raise AssertionError("the context was not started")
        return super().pids()


class SubprocessContext(_CrewContext):
    """Processes that run a command. The failures in the result include those that the first one brought about."""

    def __init__(
        self,
        name: str,
        entrypoint: str,
        args: dict[int, tuple[Any, ...]],
        envs: dict[int, dict[str, str]],
        logs_specs: LogsSpecs,
        log_line_prefixes: dict[int, str] | None = None,
        numa_options: NumaOptions | None = None,
        duplicate_stdout_filters: list[str] | None = None,
        duplicate_stderr_filters: list[str] | None = None,
    ) -> None:
        filters = (duplicate_stdout_filters, duplicate_stderr_filters)
        super().__init__(name, entrypoint, args, envs, logs_specs, log_line_prefixes, *filters)
        self._numa_options = numa_options

    def _start(self) -> None:
        _only_once(self._crew)
        self._begin(inherit_stdin=True)

    def _command(self, rank: int) -> list[str]:
        return [str(self.entrypoint), *map(str, self.args[rank])]

    def _finished(self, crew: Crew) -> RunProcsResult | None:
        result = RunProcsResult(stdouts=self.stdouts, stderrs=self.stderrs)
        self._collect(crew, result)
        if not result.failures and len(crew.exits) < self.nprocs:
            return None
        self.close()
        self._collect(crew, result)
        if not result.failures:
            result.return_values = dict.fromkeys(range(self.nprocs))
        return result

    def _collect(self, crew: Crew, result: RunProcsResult) -> None:
        for rank, exit in crew.exits.items():
            if not exit.succeeded and rank not in result.failures:
                result.failures[rank] = self._failure(rank, exit)


def _only_once(crew: Crew | None) -> None:
    if crew is not None:
        raise ValueError("the context was started already: start was called twice")


def _packed(call: Any) -> Packed:
    """Pack a function. Raises what ``multiprocessing`` raises, in words that help."""
    from rallypoint.model.errors import UsageError
    from rallypoint.proc.pack import pack

    try:
        return pack(call)
    except UsageError as error:
        cause = error.__cause__
        if cause is None:
            raise ValueError(str(error)) from None
        try:
            told = type(cause)(str(error))
        except Exception:  # an exception of the user's own, from a __reduce__
            told = cause
        raise told from None


def _places(options: NumaOptions | None, nprocs: int) -> Callable[[int], AbstractContextManager[None]]:
    if options is None:
        return lambda _rank: nullcontext()
    from rallypoint.driver.places import Places
    from rallypoint.model.spec import Spec

    spec = Spec(argv=(), environ=os.environ, nproc=nprocs, numa=options.affinity_mode.value)
    return Places(spec, _log).of


def _handle_signals(names: str) -> None:
    for name in names.split(","):
        try:
            signal.signal(getattr(signal, name.strip()), _terminate_process_handler)
        except (AttributeError, ValueError, OSError) as error:
            _log(f"no handler for signal {name!r} of TORCHELASTIC_SIGNALS_TO_HANDLE: {error}")


def _log(text: str) -> None:
    import logging

    logging.getLogger(__name__).warning(text)
