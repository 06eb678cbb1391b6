"""Where events in torch's form go: a name -> a handler of the ``logging`` module.

Imported only where somebody wants such events, so ``logging`` costs nobody else its time. A name is looked
up among the built-in ones, then among the entry points of the group ``torchrun.event_handlers``: a
``logging.Handler``, or a function without arguments that returns one.
"""

from __future__ import annotations

import logging
import os

GROUP = "torchrun.event_handlers"

log_handlers: dict[str, logging.Handler] = {
    "console": logging.StreamHandler(),
    "dynamic_rendezvous": logging.NullHandler(),
    "null": logging.NullHandler(),
}
_loggers: dict[str, logging.Logger] = {}


def get_logging_handler(destination: str = "null") -> logging.Handler:
    """Return the handler called ``destination``. Raises KeyError, with the names that there are."""
    if destination not in log_handlers:
        from importlib.metadata import entry_points

        found = entry_points(group=GROUP)
        known = sorted({*log_handlers, *found.names})
        if destination not in found.names:
            raise KeyError(f"there is no event handler {destination!r}; there are {', '.join(known)}")
        made = found[destination].load()
        log_handlers[destination] = made if isinstance(made, logging.Handler) else made()
    return log_handlers[destination]


def events_logger(destination: str = "null") -> logging.Logger:
    """Return the logger of ``destination``; it hands nothing on to loggers above it. Raises KeyError."""
    if destination not in _loggers:
        handler = get_logging_handler(destination)
        logger = logging.getLogger(f"torchelastic-events-{destination}")
        logger.setLevel(os.environ.get("LOGLEVEL", "INFO"))
        logger.propagate = False
        logger.addHandler(handler)
        _loggers[destination] = logger
    return _loggers[destination]
