"""How things ended: one worker (``Exit``), what went wrong (``Failure``), the run (``Outcome``)."""

from __future__ import annotations

import signal as signals

from rallypoint.model import exits
from rallypoint.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


ALL = -1
"""In place of a local rank: all of this node."""


class WorkerId(Value):
    """One start of one worker on this node: ``round`` tells incarnations apart, and within it ``life`` (0 first)."""

    round: int
    local_rank: int
    life: int = 0

    def __str__(self) -> str:
        return f"worker {self.local_rank} of round {self.round}"


class WorkerError(Value):
    """What a worker wrote down about its own end (torch's error file, or ours in the same format)."""

    type: str
    message: str
    traceback: str = ""
    timestamp: float = 0.0

    @property
    def headline(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class Exit(Value):
    """How one worker process ended, with all the evidence the node has.

    ``code`` is the exit status, or None when ``signal`` (a number) ended it. ``oom`` is the
    evidence of an out-of-memory kill in words ("cgroup memory.max of 2.0 GiB reached"), or "".
    ``last_lines`` are the last lines of its output, oldest first, without line ends. ``progress`` is
    what it said last of how far it was (``rallypoint.worker.safe_point``), -1 if nothing.
    """

    pid: int
    code: int | None
    signal: int | None = None
    core_dumped: bool = False
    oom: str = ""
    error: WorkerError | None = None
    last_lines: tuple[str, ...] = ()
    error_file: str = ""
    progress: int = -1

    @property
    def succeeded(self) -> bool:
        return self.code == 0

    @property
    def status(self) -> int:
        """The shell's number for it: the code, or 128 + signal."""
        return self.code if self.code is not None else exits.SIGNAL_BASE + (self.signal or 0)

    @property
    def words(self) -> str:
        """In words: "exit code 3", "SIGKILL", "SIGSEGV (segmentation fault, core dumped)"."""
        if self.signal is None:
            return f"exit code {self.code}"
        meaning = _MEANINGS.get(self.signal, "")
        notes = [n for n in (meaning, self.oom, "core dumped" if self.core_dumped else "") if n]
        return signal_name(self.signal) + (f" ({', '.join(notes)})" if notes else "")


_MEANINGS: dict[int, str] = {
    signals.SIGSEGV: "segmentation fault",
    signals.SIGBUS: "bus error",
    signals.SIGABRT: "aborted",
    signals.SIGFPE: "arithmetic error",
    signals.SIGILL: "illegal instruction",
    signals.SIGXCPU: "CPU time limit",
    signals.SIGPIPE: "wrote to a closed pipe",
}


def signal_name(number: int) -> str:
    """Return "SIGTERM" for 15; "signal 40" for one without a name."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Failure(Value):
    """One thing that went wrong, made once, on the node where it happened.

    ``kind``: "worker" (a worker ended badly), "spawn" (a worker could not be started),
    "overdue" (``--success-timeout``), "node" (a node was lost).
    ``rank`` is the global rank, -1 if none. ``order`` is its place among the failures of the
    round (0 first), given by the store, never by a wall clock. ``consequence`` says that it
    followed from another failure (a peer's broken connection). ``status`` is the exit status
    that this failure asks the launcher to end with. ``progress``: see ``Exit``. ``life``: see ``WorkerId``.
    """

    kind: str
    round: int
    node: str
    host: str
    words: str
    status: int
    rank: int = -1
    local_rank: int = -1
    pid: int = 0
    signal: int | None = None
    error: WorkerError | None = None
    last_lines: tuple[str, ...] = ()
    error_file: str = ""
    order: int = 0
    consequence: bool = False
    progress: int = -1
    life: int = 0

    @property
    def headline(self) -> str:
        """One line without place: "ValueError: bad input (exit code 1)"."""
        return f"{self.error.headline} ({self.words})" if self.error else self.words

    @property
    def place(self) -> str:
        """Where: "rank 3 (local 1) on host2, pid 4711", or "node host2:17:ab"."""
        if self.rank < 0:
            return f"node {self.node}"
        return f"rank {self.rank} (local {self.local_rank}) on {self.host}" + (f", pid {self.pid}" if self.pid else "")

    @property
    def summary(self) -> str:
        """Where and what, in one line: the reason that a view gives for the end of a round."""
        return f"{self.place}: {self.headline}"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form (see ``from_json``)."""
        content = self.as_dict()
        content["error"] = self.error.as_dict() if self.error else None
        content["last_lines"] = list(self.last_lines)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Failure:
        """Read the JSON form. Raises TypeError, KeyError or ValueError for anything else."""
        known = {f: content[f] for f in cls._fields if f in content}
        for field, kinds in _FAILURE_TYPES.items():
            if field in known and not isinstance(known[field], kinds):
                raise TypeError(f"Failure.{field}: {known[field]!r}")
        error = known.get("error")
        if error and not all(isinstance(error.get(field, ""), str) for field in ("type", "message", "traceback")):
            raise TypeError(f"Failure.error: {error!r}")
        known["error"] = WorkerError(**error) if error else None
        known["last_lines"] = tuple(str(line) for line in known.get("last_lines", ()))
        return cls(**known)


_FAILURE_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("kind", "node", "host", "words", "error_file"), (str,)),
    **dict.fromkeys(("round", "status", "rank", "local_rank", "pid", "order", "progress", "life"), (int,)),
    "signal": (int, type(None)),
    "error": (dict, type(None)),
    "last_lines": (list, tuple),
    "consequence": (bool,),
}
"""What another node may have written in each field."""


class Outcome(Value):
    """How the run ended on this node. ``exit_code`` is what ``rallyrun`` exits with.

    ``status``: "succeeded", "failed" (see ``failures``, the cause first), "stopped" (by
    ``signal``), "timeout" (rendezvous), "refused", "error" (the launcher's own). ``results`` maps
    global rank -> what the function returned, for this node's workers, if it was a function and succeeded.
    """

    status: str
    exit_code: int
    reason: str = ""
    failures: tuple[Failure, ...] = ()
    signal: int | None = None
    rounds: int = 0
    restarts: int = 0
    results: Mapping[int, object] = {}
    errors: Mapping[int, BaseException] = {}
    """Global rank -> what the function of that worker of this node raised, if it failed and the exception could be
    brought over; its ``__cause__`` is the worker's traceback."""
