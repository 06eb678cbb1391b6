"""The text of ``--help``, from the option table."""

from __future__ import annotations

import textwrap

from rallypoint.cli.option import LEGACY, MAYBE, VALUE, Option
from rallypoint.cli.options import GROUPS

WIDTH = 96
_COLUMN = 34

_INTRODUCTION = """\
usage: {name} [options] SCRIPT [arguments...]
       {name} [options] -m MODULE [arguments...]
       {name} [options] --no-python COMMAND [arguments...]

Starts workers of one job on this node, meets the other nodes, watches, restarts, and tells why
something failed. The command line is torchrun's.
"""

_EPILOGUE = """
Everything after SCRIPT reaches it untouched, except that ${local_rank} is replaced.
Options may be spelled with - or _, and shortened as long as they stay unique.
Each option may come from a variable: --nproc-per-node also from PET_NPROC_PER_NODE, a flag from
PET_STANDALONE=1. The command line goes before the variable; an empty variable says nothing.
PYTHON_EXEC is the workers' Python, if it is set.

Exit status
  0      all workers on all nodes succeeded
  N      the status of the worker that failed first; 128 + N if signal N ended it or the launcher
  2      wrong option, value or variable; nothing was started
  70     the launcher itself failed
  75     too few nodes came in time
  77     the run refused this node (another run id, number of nodes, version; or --preflight failed)
  124    --success-timeout passed

Examples
  {name} --nproc-per-node 4 train.py --lr 0.1
  {name} --nnodes 2:4 --rdzv-backend c10d --rdzv-endpoint node1 train.py
"""


def render(name: str, legacy: bool = False) -> str:
    """Return the whole help of the command ``name``."""
    parts = [_INTRODUCTION.replace("{name}", name)]
    for title, group in GROUPS:
        parts.append(f"\n{title}\n")
        parts += [_entry(option) for option in group if legacy or option.origin != LEGACY]
    parts.append(_EPILOGUE.replace("{name}", name))
    return "".join(parts)


def _entry(option: Option) -> str:
    head = "  " + (f"{option.short}, " if option.short else "    ") + option.name
    gap = "" if option.kind == MAYBE else " "
    head += f"{gap}{option.metavar}" if option.metavar else ""
    text = option.help
    if option.choices and len(option.choices) > 2:
        text += f" One of {', '.join(option.choices)}."
    if option.default and option.kind == VALUE:
        text += f" Default: {option.default}."
    lines = textwrap.wrap(text, WIDTH - _COLUMN, break_on_hyphens=False, break_long_words=False)
    indent = " " * _COLUMN
    if len(head) + 2 > _COLUMN:
        return f"{head}\n" + "".join(f"{indent}{line}\n" for line in lines)
    return f"{head:<{_COLUMN}}" + f"\n{indent}".join(lines) + "\n"
