"""The option table of ``rallyrun``: every option once, as data, in the order in which ``--help`` tells them.

torchrun's options keep their names, meanings and defaults. All come from ``PET_<DEST>`` too,
where DEST is the long name in capitals with underscores (``--nproc-per-node``: PET_NPROC_PER_NODE).
``cli.parse`` reads a command line against this table, ``cli.help`` prints it, ``docs/options.md`` explains it.
"""

from __future__ import annotations

from rallypoint.cli.option import LEGACY, Option
from rallypoint.cli.options_meeting import MEMBERSHIP, NODES, RENDEZVOUS, WHAT
from rallypoint.cli.options_output import COMPATIBILITY, DEVICES, LOGS
from rallypoint.cli.options_restarts import STOPPING

GROUPS = (
    ("What to run", WHAT),
    ("Nodes and workers", NODES),
    ("Rendezvous", RENDEZVOUS),
    ("Joining and leaving", MEMBERSHIP),
    ("Restarts and stopping", STOPPING),
    ("Logs and messages", LOGS),
    ("Devices", DEVICES),
    ("Accepted for compatibility", COMPATIBILITY),
)


def options(legacy: bool) -> tuple[Option, ...]:
    """Return all options of ``rallyrun``; with ``legacy``, of ``python -m rallypoint.launch``."""
    return tuple(o for _, group in GROUPS for o in group if legacy or o.origin != LEGACY)
