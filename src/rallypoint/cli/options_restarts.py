"""The options about restarting and stopping."""

from __future__ import annotations

from rallypoint.cli.option import OWN, Option

STOPPING = (
    Option(
        "--max-restarts",
        "N",
        "0",
        "How many failures the whole run survives by starting all workers again.",
    ),
    Option(
        "--restart-window",
        "SECONDS",
        "",
        "Count only the restarts of this last time against --max-restarts. Without it: all.",
        origin=OWN,
    ),
    Option(
        "--restart-delay",
        "FIRST[:MAX]",
        "0",
        "Seconds before a restart; doubled, up to MAX (60), for each failure that follows at once.",
        origin=OWN,
    ),
    Option(
        "--restart-scope",
        "SCOPE",
        "job",
        "What a worker's failure restarts: all workers (job), those of its node, or it alone; the others run on then.",
        choices=("job", "node", "worker"),
        origin=OWN,
    ),
    Option(
        "--on-exit",
        "RULES",
        "",
        "What an end means, as 17=fail,SIGKILL=restart,OutOfMemoryError=replace-node: an exit status, signal "
        "or exception type, and restart, fail, replace-node or ignore. The first rule that fits counts.",
        origin=OWN,
    ),
    Option(
        "--warm-start",
        "WHAT",
        "on",
        "Start the interpreters of the next restart ahead of time (on) or not (off); with names, as torch,numpy, they "
        "import these modules too.",
        origin=OWN,
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
