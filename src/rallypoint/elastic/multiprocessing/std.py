"""Which of a worker's standard streams are meant."""

from __future__ import annotations

import re
from enum import IntFlag

_ONE = re.compile(r"[0123]", re.ASCII)
_MAPPING = re.compile(r"\d+:[0123](,\d+:[0123])*", re.ASCII)


class Std(IntFlag):
    """A set of streams."""

    NONE = 0
    OUT = 1
    ERR = 2
    ALL = OUT | ERR

    @classmethod
    def from_str(cls, vm: str) -> Std | dict[int, Std]:
        """Read "3" (for all workers) or "0:3,12:1" (by local rank). Raises ValueError for anything else."""
        if _ONE.fullmatch(vm):
            return cls(int(vm))
        if _MAPPING.fullmatch(vm):
            pairs = (part.split(":") for part in vm.split(","))
            return {int(rank): cls(int(value)) for rank, value in pairs}
        raise ValueError(
            f"{vm!r} does not match: neither one of 0 (none), 1 (stdout), 2 (stderr), 3 (both) for all workers, "
            "nor a list like 0:3,1:0 by local rank"
        )


def to_map(val_or_map: Std | dict[int, Std], local_world_size: int) -> dict[int, Std]:
    """Return the value of each local rank; a mapping's missing ranks have ``Std.NONE``."""
    if isinstance(val_or_map, Std):
        return dict.fromkeys(range(local_world_size), val_or_map)
    return {rank: val_or_map.get(rank, Std.NONE) for rank in range(local_world_size)}
