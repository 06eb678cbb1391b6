"""One thing that the launcher says, and its two forms: a line of text, a line of JSON."""

from __future__ import annotations

from rallypoint.model.value import Value
from rallypoint.observe.wording import PREFIX, moment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# How much has to be asked for: nothing, -v, -vv.
ALWAYS, MORE, ALL = 0, 1, 2


class Message(Value):
    """``event`` names it for machines, ``text`` says it to people (without prefix and line end).

    ``detail`` is the verbosity from which on it is written, as text; ``machine_detail`` the same
    for JSON where that differs (-1: as ``detail``). ``fields`` are its facts, fit for JSON.
    """

    event: str
    text: str
    level: str = "info"
    detail: int = ALWAYS
    machine_detail: int = -1
    fields: Mapping[str, Any] = {}

    def wanted(self, verbosity: int, machine: bool) -> bool:
        """Whether it is written at ``verbosity``."""
        own = machine and self.machine_detail >= 0
        return verbosity >= (self.machine_detail if own else self.detail)


def as_text(message: Message) -> str:
    """Return the line (or lines) for people, each with the launcher's prefix and a line end."""
    return "".join(f"{PREFIX}{line}\n" for line in message.text.split("\n"))


def as_json(message: Message, at: float, wall: float, run_id: str, node: str) -> str:
    """Return one JSON object and a line end; ``at`` is monotonic, ``wall`` seconds since the epoch."""
    import json  # most runs speak to people

    content = {
        "time": moment(wall),
        "monotonic": round(at, 6),
        "level": message.level,
        "event": message.event,
        "run_id": run_id,
        "node": node,
        "message": message.text,
        "fields": dict(message.fields),
    }
    return json.dumps(content) + "\n"
