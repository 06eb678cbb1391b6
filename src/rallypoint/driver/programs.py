"""What the workers run: a command, or a Python function. The node starts both in the same way."""

from __future__ import annotations

from rallypoint.proc.environment import worker_argv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rallypoint.model.event import Event, Exited
    from rallypoint.model.reactor import Reactor
    from rallypoint.model.result import Outcome, WorkerId
    from rallypoint.model.spec import Spec
    from rallypoint.proc.pack import Packed
    from rallypoint.proc.processes import Processes


class Commands:
    """Workers that are ``spec.argv``."""

    def __init__(self, spec: Spec, processes: Processes) -> None:
        self._spec = spec
        self._processes = processes

    def spawn(self, worker: WorkerId, rank: int, env: Mapping[str, str], stdio: tuple[int, int, int]) -> None:
        """Start a worker; ends as Spawned or SpawnFailed."""
        self._processes.spawn(worker, worker_argv(self._spec, worker.local_rank), env, stdio)

    def ended(self, event: Exited) -> Exited:
        """Return the end of a worker as the program tells it."""
        return event

    def completed(self, outcome: Outcome) -> Outcome:
        """Return the outcome with what the program adds to it."""
        return outcome

    def close(self) -> None:
        """Release everything."""


class Functions:
    """Workers that are ``spec.call``; keeps what the functions of the last round returned or raised."""

    def __init__(self, reactor: Reactor, processes: Processes, packed: Packed, emit: Callable[[Event], None]) -> None:
        from rallypoint.proc.calls import Calls

        self._calls = Calls(reactor, processes, packed, emit)
        self._ranks: dict[WorkerId, int] = {}
        self._results: dict[int, object] = {}
        self._errors: dict[int, BaseException] = {}

    def spawn(self, worker: WorkerId, rank: int, env: Mapping[str, str], stdio: tuple[int, int, int]) -> None:
        """Start a worker; ends as Spawned or SpawnFailed."""
        if all(known.round != worker.round for known in self._ranks):
            self._ranks, self._results, self._errors = {}, {}, {}
        self._ranks[worker] = rank
        self._calls.spawn(worker, env, stdio)

    def ended(self, event: Exited) -> Exited:
        """Take what the function returned or raised; a value that cannot be read makes the end a failure."""
        result = self._calls.result(event.worker, event.exit)
        if (rank := self._ranks.get(event.worker)) is not None:
            if result.exit.succeeded:
                self._results[rank] = result.value
            elif result.error is not None:
                self._errors[rank] = result.error
        return event.replace(exit=result.exit)

    def completed(self, outcome: Outcome) -> Outcome:
        """Return the outcome with ``results``, if the run succeeded, or ``errors``."""
        if outcome.status == "succeeded":
            return outcome.replace(results=dict(sorted(self._results.items())))
        return outcome.replace(errors=dict(sorted(self._errors.items())))

    def close(self) -> None:
        """Release everything."""
        self._calls.close()

    def __repr__(self) -> str:
        return f"<Functions of {len(self._ranks)} workers: {len(self._results)} returned, {len(self._errors)} raised>"
