"""One frozen configuration. Flags and environment are read once into it and nowhere else."""

from __future__ import annotations

import signal

from rallypoint.model.errors import UsageError
from rallypoint.model.value import Secret, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEFAULT_STORE_PORT = 29400  # torch's for c10d
DEFAULT_ETCD_PORT = 2379
DEFAULT_MASTER_PORT = 29500  # torch's for static
STACK_SIGNAL = signal.SIGRTMAX - 3
"""On which the worker hook writes all stacks; a signal that neither programs nor schedulers use."""

OUT, ERR = 1, 2  # bits of torch's Std: which streams an option means


class Destination(Value):
    """Where the output of one start of one worker goes, if somebody else than we decides it.

    A stream's path is "" for the console, os.devnull for nowhere, else a file; ``tee_*``: to the console too.
    ``filtered_*`` are files that the starts of all workers share, for lines that a filter lets through.
    """

    stdout: str = ""
    stderr: str = ""
    tee_stdout: bool = False
    tee_stderr: bool = False
    error_file: str = ""
    filtered_stdout: str = ""
    filtered_stderr: str = ""


class LogSpec(Value):
    """Where the workers' output goes.

    ``redirects`` and ``tee`` map local rank -> OUT|ERR bits (-1: every other rank). ``shown`` are the
    local ranks whose output reaches the console (None: all). ``template`` is torch's
    ``TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE`` ("${role_name} ${rank} ${local_rank}"), None: ours.
    ``mode``: "pipe" (through the launcher, line-atomic) or "inherit" (the terminal itself).
    ``directory`` None: a fresh one under the system's temporary directory, if anything is to be written.
    ``reify``: somebody else decides, at each start: from the environments of this node's workers by local rank
    (which it may change) to their destinations; ``directory``, ``redirects``, ``tee`` and ``shown`` are its own affair.
    """

    directory: str | None = None
    redirects: Mapping[int, int] = {}
    tee: Mapping[int, int] = {}
    shown: tuple[int, ...] | None = None
    stdout_filters: tuple[str, ...] = ()
    stderr_filters: tuple[str, ...] = ()
    template: str | None = None
    mode: str = "pipe"
    reify: Callable[[dict[int, dict[str, str]]], Mapping[int, Destination]] | None = None


class Timing(Value):
    """All times in seconds. Names and defaults are torch's ``--rdzv-conf`` keys."""

    join_timeout: float = 600.0
    """Without enough nodes for this long, the run gives up."""
    last_call_timeout: float = 30.0
    """With ``min_nodes`` there, how long to wait for more, up to ``max_nodes``."""
    close_timeout: float = 30.0
    """How long the store's host stays for the others to learn the end."""
    read_timeout: float = 60.0
    """How long the store may take for one answer."""
    keep_alive_interval: float = 5.0
    keep_alive_max_attempt: int = 3
    shutdown_timeout: float = 30.0
    """From the first signal to KILL, on every path that stops workers."""
    kill_timeout: float = 5.0
    """From KILL to giving a worker up as uninterruptible."""
    success_timeout: float | None = None
    """Once a worker has succeeded, how long the others may take; None: as long as they like."""
    regroup_grace: float = 0.0
    """After a node was lost, how long a replacement may take before the others go on smaller."""

    @property
    def lease(self) -> float:
        """A node unheard of for this long is lost."""
        return self.keep_alive_interval * self.keep_alive_max_attempt

    def validate(self) -> None:
        """Raises UsageError, naming the key, for a time that cannot work."""
        for name, value in self.as_dict().items():
            if value is not None and value <= 0 and name not in _MAY_BE_ZERO:
                raise UsageError(name, value, "a time in seconds above 0")
            if value is not None and value < 0:
                raise UsageError(name, value, "a time in seconds, 0 or more")


_MAY_BE_ZERO = ("last_call_timeout", "shutdown_timeout", "regroup_grace")

NOW, AT_RESTART, WHEN_READY = "now", "at-restart", "when-ready"
ADMISSIONS = (NOW, AT_RESTART, WHEN_READY)


class Membership(Value):
    """Who may come, when, and who has to go. The same on all nodes, but for ``topology`` and ``leave_signals``.

    ``admit``: when newcomers are taken into a run that runs (one of ADMISSIONS). ``join_interval``: seconds for which
    they are gathered. ``spares``: nodes to keep standing by before the run grows beyond its minimum. ``topology``:
    this node's place in the network ("" unknown). ``leave_signals`` tell this node to leave the run.
    ``notice_signal`` goes to the workers ``notice_grace`` seconds before a planned stop.
    ``max_node_failures``: a node that was the cause of so many failures is put aside (None: never).
    """

    admit: str = NOW
    join_interval: float = 1.0
    spares: int = 0
    topology: str = ""
    leave_signals: tuple[int, ...] = ()
    notice_signal: int | None = None
    notice_grace: float = 30.0
    max_node_failures: int | None = None


RESTART, FAIL, REPLACE_NODE, IGNORE = "restart", "fail", "replace-node", "ignore"
ACTIONS = (RESTART, FAIL, REPLACE_NODE, IGNORE)
JOB, NODE, WORKER = "job", "node", "worker"
SCOPES = (JOB, NODE, WORKER)


class ExitRule(Value):
    """What a failure means: ``what`` is an exit status ("17"), a signal's name ("SIGKILL") or an exception's type."""

    what: str
    action: str


class RestartPolicy(Value):
    """What follows a failure, beside the budget ``max_restarts``. The same on all nodes.

    ``window``: only restarts of the last so many seconds count against the budget (None: all). ``delay``: seconds
    before a restart, doubled up to ``max_delay`` for each failure that follows at once. ``rules``: the first that
    fits a failure says what it means. ``scope``: what a worker's failure restarts (one of SCOPES).
    """

    window: float | None = None
    delay: float = 0.0
    max_delay: float = 60.0
    rules: tuple[ExitRule, ...] = ()
    scope: str = JOB


class Call(Value):
    """A Python function as the worker, instead of a command.

    ``args`` maps local rank -> positional arguments. ``start_method``: "spawn" (a fresh interpreter;
    function and arguments are pickled), "fork" or "forkserver".
    """

    function: Callable[..., object]
    args: Mapping[int, tuple[object, ...]]
    start_method: str = "spawn"


class Spec(Value):
    """Everything a run needs to know, on one node.

    ``argv`` is the worker's whole command, ``${local_rank}`` still in it; ``hook`` says that it is a
    Python program into which the worker hook (traceback capture) may be put.
    ``backend``: "tcp" (hosted by whoever can bind ``endpoint``), "static" (places fixed by
    ``node_rank``, the store at ``endpoint``), "memory" (this node alone), "etcd" (``endpoint`` is a comma list of
    its members), "file" (``endpoint`` is a folder that all nodes share).
    ``call`` replaces ``argv``. ``numa``: an affinity mode of torch's. ``devices``: the accelerators to share
    out, one entry for each worker (None: all). ``omp``: OMP_NUM_THREADS if it is unset, "auto": the
    allowed cores divided by the workers, "": leave it unset. ``agent_store``: the workers' store is a launcher's
    (else the worker of rank 0 serves it).
    ``warm_start``: modules that parked interpreters import (None: park none).
    ``preflight``: look before joining, and run this command ("" none); None: do not look.
    ``token``: what nodes and store prove to each other to know ("": nothing).
    ``store``: what else the store wants to know, by the keys of ``terms.STORE_KEYS``.
    """

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    hook: bool = True
    run_id: str = "none"
    role: str = "default"
    min_nodes: int = 1
    max_nodes: int = 1
    nproc: int = 1
    backend: str = "memory"
    endpoint: str = ""
    is_host: bool | None = None
    node_rank: int = -1
    local_addr: str | None = None
    max_restarts: int = 0
    timing: Timing = Timing()
    signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    forward_signals: tuple[int, ...] = ()
    virtual_local_rank: bool = False
    logs: LogSpec = LogSpec()
    verbosity: int = 0
    log_format: str = "text"
    color: bool | None = None
    call: Call | None = None
    numa: str | None = None
    devices: tuple[str, ...] | None = None
    omp: str = "1"
    agent_store: bool = True
    store: Mapping[str, str] = {}
    token: Secret = Secret("")
    warm_start: tuple[str, ...] | None = ()
    membership: Membership = Membership()
    restart: RestartPolicy = RestartPolicy()
    preflight: str | None = None

    @property
    def parks(self) -> bool:
        """Whether interpreters are started ahead of a restart: of Python programs that may be started again."""
        again = self.max_restarts > 0 or self.max_nodes > 1
        return again and self.warm_start is not None and self.hook and self.logs.mode == "pipe" and self.call is None

    @property
    def agreed(self) -> dict[str, str]:
        """What all nodes of a run must have alike: option -> text."""
        members, restart = self.membership, self.restart
        return {
            "--nnodes": f"{self.min_nodes}:{self.max_nodes}",
            "--max-restarts": str(self.max_restarts),
            "--admit": members.admit,
            "--join-interval": f"{members.join_interval:g}",
            "--spares": str(members.spares),
            "--max-node-failures": str(members.max_node_failures or "none"),
            "--notice-signal": str(members.notice_signal or "none"),
            "--notice-grace": f"{members.notice_grace:g}",
            "--restart-window": "none" if restart.window is None else f"{restart.window:g}",
            "--restart-delay": f"{restart.delay:g}:{restart.max_delay:g}",
            "--restart-scope": restart.scope,
            "--on-exit": ",".join(f"{rule.what}={rule.action}" for rule in restart.rules),
        }

    def validate(self) -> Spec:
        """Return self. Raises UsageError, naming the option, for what cannot work."""
        nodes, scope, static = f"{self.min_nodes}:{self.max_nodes}", self.restart.scope, self.backend == "static"
        late = self.timing.success_timeout
        one_number = "one number with --rdzv-backend static, which cannot scale; use --rdzv-backend c10d for MIN:MAX"
        alone = self.backend == "memory"
        checks = (
            (self.nproc < 1, "--nproc-per-node", self.nproc, "a number of at least 1, or auto, cpu, gpu, xpu"),
            (self.min_nodes < 1, "--nnodes", nodes, "at least one node is needed"),
            (self.min_nodes > self.max_nodes, "--nnodes", nodes, "MIN:MAX with MIN no larger than MAX"),
            (self.max_restarts < 0, "--max-restarts", self.max_restarts, "0 or more"),
            (not self.run_id, "--rdzv-id", self.run_id, "a name for the run, the same on every node"),
            (not self.argv and self.call is None, "training_script", "", "the program to run"),
            (static and self.min_nodes != self.max_nodes, "--nnodes", nodes, one_number),
            (
                static and not 0 <= self.node_rank < self.max_nodes,
                "--node-rank",
                self.node_rank,
                f"0 to {self.max_nodes - 1} (one of --nnodes {self.max_nodes})",
            ),
            (
                alone and self.max_nodes > 1,
                "--nnodes",
                nodes,
                "1 with a store in memory; give --rdzv-endpoint for more nodes",
            ),
            (
                scope != JOB and late is not None,
                "--success-timeout",
                late,
                f"not used with --restart-scope {scope}, where nobody waits for anybody",
            ),
        )
        for wrong, where, value, allowed in checks:
            if wrong:
                raise UsageError(where, value, allowed)
        self.timing.validate()
        return self
