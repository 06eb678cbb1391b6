"""Decides where each stream of a worker goes, and connects it."""

from __future__ import annotations

import os

from rallypoint.logs.files import LogFile, Matching
from rallypoint.logs.lines import Lines, Raw, colored
from rallypoint.logs.pump import Stream, make_pipe
from rallypoint.logs.recent import Recent
from rallypoint.model.spec import ERR, OUT
from rallypoint.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rallypoint.logs.outlet import Console, Outlet
    from rallypoint.logs.pump import Sink
    from rallypoint.model.reactor import Reactor
    from rallypoint.model.spec import Destination, LogSpec

PIPE_SIZE = 1 << 20
"""Bytes in each worker's pipe, so that a busy launcher does not slow the workers down at once."""
PIPE_BUDGET = 32 << 20
"""Bytes in all pipes together: half of what the kernel allows one user by default."""
_NAMES = {OUT: "stdout", ERR: "stderr"}


class Place(Value):
    """Who a worker is, as far as its output is concerned. ``directory`` "": there is no room for files.

    ``destination``: where its output goes, if somebody else has decided that.
    """

    attempt: int
    rank: int
    local_rank: int
    local_world_size: int
    directory: str
    destination: Destination | None = None


class Route(Value):
    """The way of one stream: into the file ``path`` ("": none), and to the console if ``shown``.

    ``tee``: it was asked for both, so its lines are named as torch names them.
    """

    path: str
    tee: bool
    shown: bool


class Connection:
    """What is open for one start of one worker."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.recent = Recent()
        self.streams: list[Stream] = []
        self.child_ends: list[int] = []

    def started(self) -> None:
        """Close the child's ends on our side."""
        while self.child_ends:
            os.close(self.child_ends.pop())

    def drain(self) -> None:
        for stream in self.streams:
            stream.drain()

    def close(self) -> None:
        self.started()
        for stream in self.streams:
            stream.close()

    def __repr__(self) -> str:
        return f"<Connection {self.place}: {self.streams}>"


class Wiring:
    """Connects workers' streams to files and console, as ``spec`` asks.

    A stream that is tee'd goes through us to its file and to the console; one that is redirected goes
    to its file; any other goes to the console alone (in mode "inherit" it is the console itself).
    """

    def __init__(
        self,
        spec: LogSpec,
        reactor: Reactor,
        role: str,
        console: Console,
        *,
        color: bool | None,
        warn: Callable[[str], None],
    ) -> None:
        self._spec = spec
        self._reactor = reactor
        self._role = role
        self._console = console
        self._color = color
        self._warn = warn
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._filtered: dict[tuple[int, str], LogFile] = {}  # by attempt and path

    def connect(self, place: Place) -> tuple[Connection, tuple[int, int, int]]:
        """Open everything for one worker; return it with the child's three descriptors. Raises OSError."""
        connection = Connection(place)
        try:
            if self._raw(place, OUT) and self._raw(place, ERR) and self._console.out is self._console.err:
                # One worker, one console: one pipe for both keeps the order between the two streams.
                raw = Raw(self._console.out, connection)
                stdout = stderr = self._through_pipe(connection, (raw,), self._console.out, rests=False)
            else:
                stdout, stderr = self._open(connection, OUT), self._open(connection, ERR)
        except OSError:
            connection.close()
            raise
        return connection, (self._stdin(place), stdout, stderr)

    def release(self, attempt: int) -> None:
        """Close what the workers of one attempt shared."""
        for key in [key for key in self._filtered if key[0] == attempt]:
            self._filtered.pop(key).end()

    def close(self) -> None:
        if self._null >= 0:
            os.close(self._null)
            self._null = -1

    def _stdin(self, place: Place) -> int:
        """One process may read what is typed or piped in: the first, as scripts expect of rank 0.

        torch lets all workers inherit it; several readers of one input each get random parts of it.
        """
        first = place.rank if self._spec.mode == "inherit" else place.local_rank
        return 0 if first == 0 and _is_open(0) else self._null

    def _open(self, connection: Connection, bit: int) -> int:
        """Return the descriptor for the child's stream ``bit``."""
        place = connection.place
        route = self._route(place, bit)
        if self._spec.mode == "inherit" and not route.path:
            return self._console.fds[bit - 1] if route.shown else self._null
        sinks: list[Sink] = [LogFile(route.path, self._warn)] if route.path else []
        if not route.shown:
            return self._through_pipe(connection, sinks, None)
        if route.tee and route.path and (needles := (self._spec.stdout_filters, self._spec.stderr_filters)[bit - 1]):
            sinks.append(Matching(self._filter_file(place, bit), self._prefix(place, True), needles))
        outlet = self._console.outlet(bit)
        if raw := self._raw(place, bit):
            sinks.append(Raw(outlet, connection))
        else:
            sinks.append(Lines(self._reactor, outlet, self._prefix(place, route.tee, outlet)))
        return self._through_pipe(connection, sinks, outlet, rests=not raw)

    def _route(self, place: Place, bit: int) -> Route:
        if (given := place.destination) is not None:
            path, tee = (given.stdout, given.tee_stdout) if bit == OUT else (given.stderr, given.tee_stderr)
            return Route("" if path == os.devnull else path, tee and bool(path), not path or tee)
        tee = bool(_bits(self._spec.tee, place) & bit)
        redirected = bool(_bits(self._spec.redirects, place) & bit) and not tee
        file = (tee or redirected) and place.directory
        path = os.path.join(place.directory, f"{_NAMES[bit]}.log") if file else ""
        shown = self._spec.shown is None or place.local_rank in self._spec.shown
        return Route(path, tee, shown and not redirected)

    def _through_pipe(
        self, connection: Connection, sinks: tuple[Sink, ...] | list[Sink], outlet: Outlet | None, rests: bool = True
    ) -> int:
        size = min(PIPE_SIZE, PIPE_BUDGET // (2 * connection.place.local_world_size))
        read_end, write_end = make_pipe(size)
        connection.child_ends.append(write_end)
        connection.streams.append(Stream(self._reactor, read_end, connection.recent, sinks, outlet=outlet, rests=rests))
        return write_end

    def _raw(self, place: Place, bit: int) -> bool:
        """Tell whether this stream is the only worker's, and goes to the console as it is."""
        route = self._route(place, bit)
        alone = place.local_world_size == 1 and self._spec.template is None and self._spec.mode == "pipe"
        return alone and route.shown and not route.path and not route.tee

    def _prefix(self, place: Place, tee: bool, outlet: Outlet | None = None) -> bytes:
        """Return what stands before each line, for ``outlet`` (None: for a file).

        The template wins; tee'd lines are named as torch names them, for scripts parse that; else a
        terminal shows the rank. Only a terminal gets colours, unless they were asked for.
        """
        if self._spec.template is not None:
            from string import Template

            names = {"role_name": self._role, "rank": place.rank, "local_rank": place.local_rank}
            return Template(self._spec.template).safe_substitute(names).encode(errors="surrogateescape")
        if tee:
            text, end = f"[{self._role}{place.local_rank}]:", ""
        elif outlet and outlet.terminal:
            text, end = f"[{place.rank}]", " "
        else:
            return b""
        color = outlet is not None and (outlet.terminal if self._color is None else self._color)
        return ((colored(place.rank, text) if color else text) + end).encode(errors="surrogateescape")

    def _filter_file(self, place: Place, bit: int) -> LogFile:
        if (given := place.destination) is not None:
            path = given.filtered_stdout if bit == OUT else given.filtered_stderr
        else:
            path = os.path.join(os.path.dirname(place.directory), f"filtered_{_NAMES[bit]}.log")
        key = (place.attempt, path)
        if key not in self._filtered:
            self._filtered[key] = LogFile(path, self._warn)
        return self._filtered[key]


def _bits(streams: Mapping[int, int], place: Place) -> int:
    return streams.get(place.local_rank, streams.get(-1, 0))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
