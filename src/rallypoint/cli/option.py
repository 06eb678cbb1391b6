"""What one option is, as data."""

from __future__ import annotations

from rallypoint.model.value import Value

TORCHRUN = "torchrun"  # torchrun has it: an abbreviation of it stays one, whatever we add
OWN = "own"  # Rallypoint's addition
LEGACY = "legacy"  # only in python -m rallypoint.launch

VALUE = "value"  # takes one value
FLAG = "flag"  # is there or not
COUNT = "count"  # may be given several times
MAYBE = "maybe"  # is there or not, and may have a value after "="
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
