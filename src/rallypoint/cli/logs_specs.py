"""``--logs-specs NAME``: a class of the user's own that says where the workers' output goes, as torchrun takes it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rallypoint.cli.parse import Given
    from rallypoint.model.spec import LogSpec

GROUP = "torchrun.logs_specs"
DEFAULT = "default"
"""torch's name for its own class, which does what we do without it."""


def chosen(given: Given, logs: LogSpec, nproc: int) -> LogSpec:
    """Return ``logs`` with the user's class in charge. Raises UsageError."""
    from importlib.metadata import entry_points

    from rallypoint.driver.destinations import destinations

    name = given.text("logs_specs")
    if name == DEFAULT:
        return logs
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        known = ", ".join(sorted({DEFAULT, *found}))
        raise given.wrong("logs_specs", f"it is an entry point of the group {GROUP}; there are: {known}")
    try:
        cls = found[name].load()
        made = cls(
            log_dir=logs.directory,
            redirects=_streams(cls, "redirects", logs.redirects, nproc),
            tee=_streams(cls, "tee", logs.tee, nproc),
            local_ranks_filter=set(logs.shown) if logs.shown else None,
        )
    except Exception as error:  # the user's own code
        raise given.wrong("logs_specs", f"the class cannot be had: {type(error).__name__}: {error}") from None
    return logs.replace(reify=destinations(made.reify), shown=None, redirects={}, tee={})


def _streams(cls: Any, parameter: str, bits: Any, nproc: int) -> dict[int, int]:
    """Return the streams of each local rank, as the class's own Std (torch's or ours), which its default shows."""
    import inspect
    from enum import IntFlag

    found = inspect.signature(cls).parameters.get(parameter)
    kind = type(found.default) if found is not None and isinstance(found.default, IntFlag) else int
    return {rank: kind(bits.get(rank, bits.get(-1, 0))) for rank in range(nproc)}
