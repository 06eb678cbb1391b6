"""``rallypoint doctor``: what ``--preflight`` looks at, by hand and explained, and whether the store can be reached."""

from __future__ import annotations

import os
import sys

from rallypoint.cli.parse import parse
from rallypoint.cli.settings import settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rallypoint.proc.checks import Check

HELP = """\
usage: rallypoint doctor [OPTIONS OF rallyrun]

Looks whether this machine is fit to run workers, and whether the store that the options name can be
reached from here: the same as --preflight looks at, without starting anything. Exit status 1 if a check failed.
"""


def doctor(words: Sequence[str]) -> int:
    """Check, print a line for each check and what to do about it, and return the exit status."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP, end="")
        return 0
    # The options are those of a run; what it would run does not matter.
    spec = settle(parse([*words, os.devnull], os.environ), os.environ).spec
    from rallypoint.driver.doctor import examine

    checks = examine(spec)
    for check in checks:
        _print(check)
    failed = sum(check.state == "failed" for check in checks)
    amiss = sum(check.state == "warning" for check in checks)
    print(f"{len(checks)} checks: {failed} failed, {amiss} warnings" if failed or amiss else "all is well")
    return 1 if failed else 0


def _print(check: Check) -> None:
    color = {"ok": "32", "warning": "33", "failed": "31"}[check.state] if sys.stdout.isatty() else ""
    state = f"\x1b[{color}m{check.state:8}\x1b[0m" if color else f"{check.state:8}"
    print(f"{state}{check}")
    if check.mend:
        print(f"        {check.mend}")
