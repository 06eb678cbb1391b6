"""The options about output, devices, and those accepted for compatibility."""

from __future__ import annotations

from rallypoint.cli.option import ACTION, COUNT, FLAG, OWN, Option

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
        "--logs-specs",
        "NAME",
        "",
        "A class that says where the workers' output goes: the name of an entry point of torchrun.logs_specs.",
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
)
