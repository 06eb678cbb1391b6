"""What a node arranges beside the run, and only if it is asked to: health check, file timer, places for workers.

Each costs nothing, not even its import, where nobody asks for it.
"""

from __future__ import annotations

import os
from contextlib import nullcontext

from rallypoint.model.errors import UsageError
from rallypoint.model.spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from rallypoint.driver.health import Health
    from rallypoint.driver.places import Places
    from rallypoint.model.order import Decision
    from rallypoint.model.reactor import Reactor
    from rallypoint.proc.deadlines import TimerFile

HEALTH_PORT = "TORCHELASTIC_HEALTH_CHECK_PORT"
ENABLE_TIMER = "TORCHELASTIC_ENABLE_FILE_TIMER"
TIMER_FILE = "TORCHELASTIC_TIMER_FILE"


class Services:
    """An observer, too: call it with every decision. ``mark`` tells this run's processes from others.

    ``spec`` is the one given, with what the workers must be told added to its environment.
    Raises UsageError for a timer file that cannot be made.
    """

    def __init__(self, spec: Spec, reactor: Reactor, mark: str, warn: Callable[[str], None]) -> None:
        self.spec = spec
        self._places: Places | None = None
        self._timer: TimerFile | None = None
        self._health: Health | None = None
        if spec.environ.get(ENABLE_TIMER) == "1":
            self._open_timer(reactor, mark, warn)
        if spec.environ.get(HEALTH_PORT):
            from rallypoint.driver.health import open_health

            self._health = open_health(spec, reactor, warn)
        if spec.numa is not None or spec.omp == "auto":
            from rallypoint.driver.places import Places

            self._places = Places(self.spec, warn)

    def __call__(self, decision: Decision) -> None:
        if self._health is not None:
            self._health(decision)

    def place(self, local_rank: int) -> AbstractContextManager[None]:
        """Return the context in which worker ``local_rank`` is to be started."""
        return self._places.of(local_rank) if self._places else nullcontext()

    def cores(self, local_rank: int) -> int:
        """Return the worker's share of cores, for ``--omp auto``; 0 if nobody wants to know."""
        return self._places.cores(local_rank) if self._places and self.spec.omp == "auto" else 0

    def close(self) -> None:
        for service in (self._health, self._timer):
            if service is not None:
                service.close()

    def _open_timer(self, reactor: Reactor, mark: str, warn: Callable[[str], None]) -> None:
        from rallypoint.proc.deadlines import TimerFile
        from rallypoint.proc.procfs import carries

        environ = self.spec.environ
        path = environ.get(TIMER_FILE) or os.path.join(environ.get("TMPDIR") or "/tmp", f"watchdog_timer_{mark}")
        try:
            self._timer = TimerFile(reactor, path, lambda pid: carries(pid, mark), warn)
        except OSError as error:
            raise UsageError(TIMER_FILE, path, f"a named pipe cannot be made there: {error.strerror}") from None
        self.spec = self.spec.replace(environ={**environ, TIMER_FILE: path})

    def __repr__(self) -> str:
        return f"<Services {[s for s in (self._health, self._timer, self._places) if s is not None]}>"
