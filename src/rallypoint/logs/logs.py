"""The workers' standard streams, from their making to their end."""

from __future__ import annotations

import os

from rallypoint.logs.directory import RunDirectory
from rallypoint.logs.outlet import Console
from rallypoint.logs.recent import readable
from rallypoint.logs.wiring import Connection, Place, Wiring
from rallypoint.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.reactor import Reactor
    from rallypoint.model.result import WorkerId
    from rallypoint.model.spec import Destination, LogSpec

CLOSE_LIMIT = 2.0
"""Seconds that ``close`` waits for a slow console."""


class Stdio(Value):
    """What a worker is started with: three descriptors, its error file and the directory of that.

    ``error_file`` and ``directory`` are "" if no directory could be made.
    """

    stdin: int
    stdout: int
    stderr: int
    error_file: str
    directory: str


class Logs:
    """All output of this node's workers, and the launcher's own lines between theirs.

    For each worker: ``prepare``, start it, ``spawned``; when it has ended ``drain``, ``last_lines``,
    ``finish``. ``console`` are the descriptors of the launcher's standard output and error.
    ``color`` None: if the console is a terminal. ``warn`` is told of troubles that cost output;
    by default they are said on standard error. Raises UsageError for an unusable ``--log-dir``.
    """

    def __init__(
        self,
        spec: LogSpec,
        reactor: Reactor,
        run_id: str,
        role: str,
        console: tuple[int, int] = (1, 2),
        *,
        color: bool | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        if spec.directory == os.devnull:  # torch's way to say: no files at all, whatever -r and -t ask for
            spec = spec.replace(directory=None, redirects={}, tee={})
        self._kept = bool(spec.directory or any(spec.redirects.values()) or any(spec.tee.values()))
        self._reactor = reactor
        self._warn = warn or self.say
        self._directory = RunDirectory(spec.directory, run_id)
        self._console = Console(reactor, console, self._warn)
        self._wiring = Wiring(spec, reactor, role, self._console, color=color, warn=self._warn)
        self._workers: dict[WorkerId, Connection] = {}

    @property
    def directory(self) -> str | None:
        """The run's log directory, once something is there; None if no logs are kept."""
        return self._directory.path if self._kept else None

    def prepare(
        self, worker: WorkerId, attempt: int, rank: int, local_world_size: int, destination: Destination | None = None
    ) -> Stdio:
        """Open what the worker is to be started with. ``attempt`` counts this node's starts.

        ``destination``: where its output goes, if somebody else has decided that. Raises OSError if no pipe can be
        had. A log directory that cannot be written to costs the files only.
        """
        directory = ""
        if destination is None:
            try:
                directory = self._directory.rank(attempt, worker.local_rank)
            except OSError as error:
                self._warn(f"no log and error files for {worker}: {error}")
        place = Place(attempt, rank, worker.local_rank, local_world_size, directory, destination)
        self._workers[worker], descriptors = self._wiring.connect(place)
        error_file = os.path.join(directory, "error.json") if directory else ""
        return Stdio(*descriptors, destination.error_file if destination else error_file, directory)

    def spawned(self, worker: WorkerId) -> None:
        """Close the child's ends here: it has them now."""
        if connection := self._workers.get(worker):
            connection.started()

    def drain(self, worker: WorkerId) -> None:
        """Read all that the worker has written so far, even if the console is blocked."""
        if connection := self._workers.get(worker):
            connection.drain()

    def last_lines(self, worker: WorkerId, count: int = 20) -> tuple[str, ...]:
        """Return its last lines, oldest first, both streams in order of arrival; () once it is finished."""
        if (connection := self._workers.get(worker)) is None:
            return ()
        return readable(connection.recent.lines(count))

    def finish(self, worker: WorkerId) -> None:
        """Drain, end unfinished lines, and close all that is open for the worker, if it is still known."""
        if (connection := self._workers.pop(worker, None)) is None:
            return
        connection.close()
        attempt = connection.place.attempt
        if all(other.place.attempt != attempt for other in self._workers.values()):
            self._wiring.release(attempt)

    def say(self, text: str, stream: int = 2) -> None:
        """Write whole lines of the launcher's own between the workers' lines."""
        self._console.say(text, stream)

    def flush(self, limit_seconds: float) -> bool:
        """Block until the console has taken everything, at most ``limit_seconds`` (0: only ask); True if it has."""
        return self._console.flush(self._reactor.now() + limit_seconds)

    def close(self, keep: bool = False) -> None:
        """End everything; blocks up to ``CLOSE_LIMIT`` for a slow console. Nothing can be said after it.

        ``keep``: leave the temporary directory of error files, because a report names one of them.
        """
        for worker in list(self._workers):
            self.finish(worker)
        self.flush(CLOSE_LIMIT)
        self._console.close()
        self._wiring.close()
        if not keep and not self._kept:
            self._directory.remove()

    def __repr__(self) -> str:
        return f"<Logs {len(self._workers)} workers, {self._console!r}, {self._directory!r}>"
