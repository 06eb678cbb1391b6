"""What the workers run: a command, or a Python function. The node starts both in the same way."""

from __future__ import annotations

from rallypoint.proc.environment import worker_argv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from rallypoint.model.event import Event, Exited
    from rallypoint.model.reactor import Reactor
    from rallypoint.model.result import Outcome, WorkerId
    from rallypoint.model.spec import Spec
    from rallypoint.proc.pack import Packed
    from rallypoint.proc.parking import Parking
    from rallypoint.proc.processes import Processes


class Commands:
    """Workers that are ``spec.argv``. ``place``: the context in which the worker of a local rank is to be started."""

    def __init__(
        self, spec: Spec, reactor: Reactor, processes: Processes, place: Callable[[int], AbstractContextManager[None]]
    ) -> None:
        self._spec = spec
        self._processes = processes
        self._place = place
        self._parking: Parking | None = None
        if spec.parks:
            from rallypoint.proc.parking import Parking

            self._parking = Parking(reactor, place, spec.warm_start or (), processes.guard)
            processes.parked = self._parking.pids

    def spawn(self, worker: WorkerId, rank: int, env: Mapping[str, str], stdio: tuple[int, int, int]) -> None:
        """Start a worker, or let go one that was parked for it; ends as Spawned or SpawnFailed."""
        argv = worker_argv(self._spec, worker.local_rank)
        if self._parking and (parked := self._parking.take(worker.local_rank, argv, env, stdio)):
            self._processes.adopt(worker, *parked)
        else:
            with self._place(worker.local_rank):
                self._processes.spawn(worker, argv, env, stdio)
        if self._parking and (pid := self._processes.pid(worker)):
            self._parking.started(worker.local_rank, pid, argv, env)

    def ended(self, event: Exited) -> Exited:
        """Return the end of a worker as the program tells it."""
        return event

    def completed(self, outcome: Outcome) -> Outcome:
        """Return the outcome with what the program adds to it."""
        return outcome

    def close(self) -> None:
        """End what is parked."""
        if self._parking:
            self._parking.close()


class Functions:
    """Workers that are ``spec.call``; keeps what the functions of the last round returned or raised."""

    def __init__(
        self,
        reactor: Reactor,
        processes: Processes,
        packed: Packed,
        emit: Callable[[Event], None],
        place: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        from rallypoint.proc.calls import Calls

        self._place = place

        self._calls = Calls(reactor, processes, packed, emit)
        self._ranks: dict[WorkerId, int] = {}
        self._results: dict[int, object] = {}
        self._errors: dict[int, BaseException] = {}

    def spawn(self, worker: WorkerId, rank: int, env: Mapping[str, str], stdio: tuple[int, int, int]) -> None:
        """Start a worker; ends as Spawned or SpawnFailed."""
        if all(known.round != worker.round for known in self._ranks):
            self._ranks, self._results, self._errors = {}, {}, {}
        self._ranks[worker] = rank
        with self._place(worker.local_rank):
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


def open_program(
    spec: Spec,
    reactor: Reactor,
    processes: Processes,
    packed: Packed | None,
    emit: Callable[[Event], None],
    place: Callable[[int], AbstractContextManager[None]],
) -> Commands | Functions:
    """Return what the workers are: ``packed``, if it is a function, else the command of ``spec``."""
    if packed is None:
        return Commands(spec, reactor, processes, place)
    return Functions(reactor, processes, packed, emit, place)
