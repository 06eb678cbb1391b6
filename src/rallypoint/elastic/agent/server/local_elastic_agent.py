"""The agent of this machine: ``WorkerSpec`` to ``Spec``, the driver's run, its outcome in torch's words."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rallypoint.elastic.agent.server.api import DEFAULT_ROLE, ElasticAgent, RunResult, WorkerGroup, WorkerState
from rallypoint.elastic.metrics.api import _measured, put_metric

if TYPE_CHECKING:
    from rallypoint.driver.node import Observer
    from rallypoint.elastic.agent.server.api import WorkerSpec
    from rallypoint.elastic.agent.server.health_check_server import HealthCheckServer
    from rallypoint.elastic.multiprocessing import LogsSpecs
    from rallypoint.elastic.rendezvous.foreign import Meeting
    from rallypoint.model.result import Outcome
    from rallypoint.model.spec import Spec

__all__ = [
    "TORCHELASTIC_ENABLE_FILE_TIMER",
    "TORCHELASTIC_HEALTH_CHECK_PORT",
    "TORCHELASTIC_TIMER_FILE",
    "TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT",
    "LocalElasticAgent",
]

TORCHELASTIC_ENABLE_FILE_TIMER = "TORCHELASTIC_ENABLE_FILE_TIMER"
TORCHELASTIC_HEALTH_CHECK_PORT = "TORCHELASTIC_HEALTH_CHECK_PORT"
TORCHELASTIC_TIMER_FILE = "TORCHELASTIC_TIMER_FILE"
TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT = "TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT"


class LocalElasticAgent(ElasticAgent):
    """Runs ``spec``'s workers as processes of this machine.

    ``start_method`` (spawn, fork, forkserver) concerns functions. ``exit_barrier_timeout`` (seconds): how long to
    wait for the other nodes' end with somebody else's rendezvous handler; with our own the run ends for all at
    once. ``shutdown_timeout`` (seconds): from the first signal to KILL. ``health_check_server`` is started before
    the nodes meet and stopped at the end. ``uninterruptible_state_timeout`` (seconds): how long after KILL a
    worker that the kernel does not end is waited for.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        logs_specs: LogsSpecs,
        start_method: str = "spawn",
        exit_barrier_timeout: float = 300,
        log_line_prefix_template: str | None = None,
        shutdown_timeout: int = 30,
        health_check_server: HealthCheckServer | None = None,
        uninterruptible_state_timeout: float | None = None,
    ) -> None:
        self._group = WorkerGroup(spec)
        self._logs_specs = logs_specs
        self._start_method = start_method
        self._exit_barrier_timeout = exit_barrier_timeout
        self._log_line_prefix_template = log_line_prefix_template
        self._shutdown_timeout = shutdown_timeout
        self._health_check_server = health_check_server
        self._stuck_timeout = uninterruptible_state_timeout
        self._outcome: Outcome | None = None

    def get_worker_group(self, role: str = DEFAULT_ROLE) -> WorkerGroup:
        return self._group

    def run(self, role: str = DEFAULT_ROLE) -> RunResult:
        """Run the workers until they have succeeded, or failed with no restart left.

        A graceful exit (see ``RendezvousGracefulExitError``) is a success without workers. Raises SignalException
        when a signal ended it, the rendezvous errors, and for what cannot be started ValueError, FileNotFoundError
        or what pickle raised; then nothing was started. Metrics are told of by the names of torch's agent.
        """
        # The class that measures it in torch is one that we do not have.
        result: RunResult = _measured(self._run, "SimpleElasticAgent.run", "torchelastic")()
        return result

    def _run(self) -> RunResult:
        from rallypoint.driver.run import run
        from rallypoint.elastic.agent.server.translate import refusals, spec_of
        from rallypoint.elastic.agent.server.watch import GroupWatch

        with refusals():
            spec = spec_of(
                self._group.spec,
                self._logs_specs,
                start_method=self._start_method,
                template=self._log_line_prefix_template,
                shutdown_timeout=self._shutdown_timeout,
                stuck_timeout=self._stuck_timeout,
            )
            watch = GroupWatch(self._group)
            observers: tuple[Observer, ...] = (watch, *self._recorders(spec))
            meeting = self._meeting()
            if self._health_check_server is not None:
                self._health_check_server.start()
            try:
                outcome = self._outcome = run(spec, (), observers, meeting, report=False)
            finally:
                if self._health_check_server is not None:
                    self._health_check_server.stop()
        result = self._told(outcome, meeting)
        if outcome.status == "succeeded":
            watch.measure(WorkerState.SUCCEEDED)
        if outcome.status in ("succeeded", "failed"):
            self._measure(result.is_failed(), watch.restarts)
        return result

    def _measure(self, failed: bool, restarts: int) -> None:
        """Tell metrics how the run went, by the names of torch's agent."""
        spec = self._group.spec
        retried = restarts > 0
        values = {
            "flakiness": 100 if failed else int(100.0 * restarts / (spec.max_restarts + 1)),
            "run_total": 1,
            "run_success_with_retries": int(not failed and retried),
            "run_success_no_retries": int(not failed and not retried),
            "run_failed_with_retries": int(failed and retried),
            "run_failed_no_retries": int(failed and not retried),
        }
        for name, value in values.items():
            put_metric(f"workers.{spec.role}.{name}", value)

    def _meeting(self) -> Meeting | None:
        """How to meet, if by a handler that is not ours."""
        from rallypoint.elastic.rendezvous.own import OwnRendezvousHandler

        spec = self._group.spec
        if isinstance(spec.rdzv_handler, OwnRendezvousHandler):
            return None
        from rallypoint.elastic.rendezvous.foreign import Meeting

        master = (spec.master_addr, spec.master_port)
        return Meeting(spec.rdzv_handler, [], spec.monitor_interval, self._exit_barrier_timeout, master)

    def _recorders(self, spec: Spec) -> tuple[Observer, ...]:
        if self._group.spec.event_log_handler == "null":
            return ()
        from rallypoint.observe.torch_events import TorchEvents

        return (TorchEvents(spec, self._group.spec.event_log_handler),)

    def _told(self, outcome: Outcome, meeting: Meeting | None) -> RunResult:
        """Say in torch's words how it ended."""
        from rallypoint.elastic.agent.server.outcome import error_of, failures_of
        from rallypoint.elastic.rendezvous import RendezvousGracefulExitError

        if outcome.status == "succeeded":
            self._group.state = WorkerState.SUCCEEDED
            ranks = [worker.global_rank for worker in self._group.workers if worker.global_rank >= 0]
            return RunResult(self._group.state, {rank: outcome.results.get(rank) for rank in ranks})
        if meeting is not None and meeting.errors:
            if isinstance(meeting.errors[0], RendezvousGracefulExitError):
                return RunResult(WorkerState.SUCCEEDED)
            raise meeting.errors[0]
        self._group.state = WorkerState.FAILED if outcome.status == "failed" else WorkerState.STOPPED
        if outcome.status != "failed":
            raise error_of(outcome)
        return RunResult(self._group.state, failures=failures_of(outcome))

    def __repr__(self) -> str:
        return f"<LocalElasticAgent (pid {os.getpid()}) of {self._group!r}, {self._outcome or 'not over'}>"
