"""Which backends there are, and how a handler is had."""

from __future__ import annotations

from rallypoint.elastic.rendezvous.api import (
    RendezvousHandler,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from rallypoint.model.terms import BACKENDS

__all__ = ["get_rendezvous_handler"]

ENTRY_POINTS = "torchrun.handlers"
_read: list[bool] = []


def _own(params: RendezvousParameters) -> RendezvousHandler:
    from rallypoint.elastic.rendezvous.own import OwnRendezvousHandler

    return OwnRendezvousHandler(params)


def register_default_handlers() -> None:
    """Register Rallypoint's backends, by all their names."""
    for name in BACKENDS:
        rendezvous_handler_registry.register(name, _own)


def register_out_of_tree_handlers() -> None:
    """Register what installed packages offer. One that cannot be loaded is skipped, with a warning."""
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINTS):
        try:
            rendezvous_handler_registry.register(point.name, point.load()())
        except Exception as error:
            import logging

            words = "the rendezvous backend %r of entry point %s is not usable: %s: %s"
            logging.getLogger(__name__).warning(words, point.name, point.value, type(error).__name__, error)


def get_rendezvous_handler(params: RendezvousParameters) -> RendezvousHandler:
    """Return a handler for ``params.backend``. Raises ValueError for a backend that is unknown or not to be had."""
    if params.backend not in rendezvous_handler_registry._registry and not _read:
        _read.append(True)
        register_out_of_tree_handlers()
    return rendezvous_handler_registry.create_handler(params)
