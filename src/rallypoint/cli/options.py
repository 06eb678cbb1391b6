"""The option table of ``rallyrun``: every option once, as data, in the order in which ``--help`` tells them.

torchrun's options keep their names, meanings and defaults. All come from ``PET_<DEST>`` too,
where DEST is the long name in capitals with underscores (``--nproc-per-node``: PET_NPROC_PER_NODE).
``cli.parse`` reads a command line against this table, ``cli.help`` prints it, ``docs/options.md`` explains it.
"""

from __future__ import annotations

from rallypoint.model.value import Value

TORCHRUN = "torchrun"  # torchrun has it: an abbreviation of it stays one, whatever we add
OWN = "own"  # Rallypoint's addition
LEGACY = "legacy"  # only in python -m rallypoint.launch

VALUE = "value"  # takes one value
FLAG = "flag"  # is there or not
COUNT = "count"  # may be given several times
ACTION = "action"  # answers and ends at once; not taken from the environment


class Option(Value):
    """One option. ``default`` is written as a user would write it; "" means none."""

    name: str
    metavar: str
    default: str
    help: str
    short: str = ""
    kind: str = VALUE
    choices: tuple[str, ...] = ()
    origin: str = TORCHRUN

    @property
    def dest(self) -> str:
        """The name in the program and, in capitals after ``PET_``, in the environment."""
        return self.name[2:].replace("-", "_")

    @property
    def variable(self) -> str:
        return "PET_" + self.dest.upper()


WHAT = (
    Option(
        "--module",
        "",
        "",
        "The program is a module: run it as python -m does.",
        short="-m",
        kind=FLAG,
    ),
    Option(
        "--no-python",
        "",
        "",
        "The program is any command: run it as it is, without python in front.",
        kind=FLAG,
    ),
    Option(
        "--run-path",
        "",
        "",
        "Run the script with runpy.run_path under the launcher's own interpreter. Goes before --no-python.",
        kind=FLAG,
    ),
    Option(
        "--use-env",
        "",
        "",
        "Do not pass --local-rank=N to the script; it reads LOCAL_RANK.",
        kind=FLAG,
        origin=LEGACY,
    ),
)

NODES = (
    Option(
        "--nnodes",
        "MIN[:MAX]",
        "1:1",
        "Number of nodes, or a range: start with MIN, take in more up to MAX.",
    ),
    Option(
        "--nproc-per-node",
        "N",
        "1",
        "Workers on this node: a number, cpu (one for each core allowed), gpu or xpu (one for each NVIDIA or Intel GPU "
        "visible), auto (the first of gpu, xpu, cpu that there is).",
    ),
    Option(
        "--node-rank",
        "N",
        "0",
        "This node's place, from 0, with --rdzv-backend static.",
    ),
    Option(
        "--role",
        "NAME",
        "default",
        "What the workers of this node are called (ROLE_NAME).",
    ),
    Option(
        "--local-addr",
        "ADDR",
        "",
        "Address at which other nodes reach this one. Without it: the address from which this node reached the store.",
    ),
)

RENDEZVOUS = (
    Option(
        "--standalone",
        "",
        "",
        "One node, with a private store. So it is too when nothing is said about rendezvous.",
        kind=FLAG,
    ),
    Option(
        "--rdzv-backend",
        "NAME",
        "static",
        "c10d: nodes meet at --rdzv-endpoint and may come and go. static: each has its --node-rank.",
    ),
    Option(
        "--rdzv-endpoint",
        "HOST[:PORT]",
        "",
        "Where the nodes meet, the same on every node. Port if not said: 29400 (c10d), 29500 (static).",
    ),
    Option(
        "--rdzv-id",
        "ID",
        "none",
        "Name of the run, the same on every node. One node alone makes up a random one.",
    ),
    Option(
        "--rdzv-conf",
        "KEY=VALUE,...",
        "",
        "join_timeout (600 s), last_call_timeout (30), close_timeout (30), read_timeout (60), keep_alive_interval (5), "
        "keep_alive_max_attempt (3), is_host, rank, timeout (torch's other name for join_timeout), store_type (tcp).",
    ),
    Option(
        "--master-addr",
        "ADDR",
        "127.0.0.1",
        "Address of node 0, with static.",
    ),
    Option(
        "--master-port",
        "PORT",
        "29500",
        "Port on node 0, with static.",
    ),
)

STOPPING = (
    Option(
        "--max-restarts",
        "N",
        "0",
        "How many failures the whole run survives by starting all workers again.",
    ),
    Option(
        "--success-timeout",
        "SECONDS",
        "",
        "Once a worker has succeeded, the others have this long to end. Without it: as long as they like.",
        origin=OWN,
    ),
    Option(
        "--shutdown-timeout",
        "SECONDS",
        "30",
        "From asking workers to stop to killing them. Also from TORCH_ELASTIC_SHUTDOWN_TIMEOUT.",
    ),
    Option(
        "--signals-to-handle",
        "NAMES",
        "SIGTERM,SIGINT,SIGHUP,SIGQUIT",
        "Signals that stop the run, passed on to the workers.",
    ),
    Option(
        "--forward-signals",
        "NAMES",
        "",
        "Signals, such as USR1,USR2, that are passed on to the workers while the run goes on.",
        origin=OWN,
    ),
)

LOGS = (
    Option(
        "--log-dir",
        "DIR",
        "",
        "Where log files go; each start gets a directory of its own. Without it: under the temporary directory.",
    ),
    Option(
        "--redirects",
        "STREAMS",
        "0",
        "Write to files instead of the console: 1 stdout, 2 stderr, 3 both, or by local rank: 0:3,1:2.",
        short="-r",
    ),
    Option(
        "--tee",
        "STREAMS",
        "0",
        "Write to files and to the console; STREAMS as for --redirects.",
        short="-t",
    ),
    Option(
        "--local-ranks-filter",
        "RANKS",
        "",
        "Show only these local ranks on the console, as 0,2,3. Files keep all.",
    ),
    Option(
        "--duplicate-stdout-filters",
        "TEXTS",
        "",
        "Copy stdout lines that contain one of these (comma list; ,, is a comma) to a file of all workers.",
    ),
    Option(
        "--duplicate-stderr-filters",
        "TEXTS",
        "",
        "The same for stderr.",
    ),
    Option(
        "--logs",
        "MODE",
        "pipe",
        "pipe: line by line through the launcher. inherit: the terminal itself, so that breakpoint() works.",
        choices=("pipe", "inherit"),
        origin=OWN,
    ),
    Option(
        "--log-format",
        "FORMAT",
        "text",
        "The launcher's own messages as text, or as json, one object a line.",
        choices=("text", "json"),
        origin=OWN,
    ),
    Option(
        "--event-log-handler",
        "NAME",
        "null",
        "Where events in torch's form go: null, console, or the name of an entry point of torchrun.event_handlers.",
    ),
    Option(
        "--verbose",
        "",
        "",
        "Say more; twice: still more.",
        short="-v",
        kind=COUNT,
        origin=OWN,
    ),
    Option(
        "--version",
        "",
        "",
        "Print the version and end.",
        kind=ACTION,
        origin=OWN,
    ),
    Option(
        "--help",
        "",
        "",
        "Print this and end.",
        short="-h",
        kind=ACTION,
    ),
)

DEVICES = (
    Option(
        "--virtual-local-rank",
        "",
        "",
        "Each worker sees one device and LOCAL_RANK=0.",
        kind=FLAG,
    ),
    Option(
        "--devices",
        "LIST",
        "",
        "GPUs to share out, as 1,3,5: worker i of this node sees the i-th of them alone. Their number is the number of "
        "workers unless --nproc-per-node says less.",
        origin=OWN,
    ),
    Option(
        "--numa-binding",
        "MODE",
        "",
        "Bind each worker to the CPUs of its GPU's NUMA node (node), socket, its own cores of the node (exclusive) or "
        "cores that share a cache (core-complex). Without GPUs workers are spread over the nodes.",
        choices=("node", "socket", "exclusive", "core-complex"),
    ),
    Option(
        "--omp",
        "N",
        "1",
        "OMP_NUM_THREADS of the workers if it is not set: a number, or auto: the cores allowed, divided by the "
        "workers. A single worker gets none unless this is said.",
        origin=OWN,
    ),
)

COMPATIBILITY = (
    Option(
        "--monitor-interval",
        "SECONDS",
        "0.1",
        "Without effect: nothing polls.",
    ),
    Option(
        "--start-method",
        "NAME",
        "spawn",
        "Without effect on programs: it concerns Python functions.",
        choices=("spawn", "fork", "forkserver"),
    ),
    Option(
        "--logs-specs",
        "NAME",
        "",
        "Not available in this version: refused.",
    ),
)

GROUPS = (
    ("What to run", WHAT),
    ("Nodes and workers", NODES),
    ("Rendezvous", RENDEZVOUS),
    ("Restarts and stopping", STOPPING),
    ("Logs and messages", LOGS),
    ("Devices", DEVICES),
    ("Accepted for compatibility", COMPATIBILITY),
)


def options(legacy: bool) -> tuple[Option, ...]:
    """Return all options of ``rallyrun``; with ``legacy``, of ``python -m rallypoint.launch``."""
    return tuple(o for _, group in GROUPS for o in group if legacy or o.origin != LEGACY)
