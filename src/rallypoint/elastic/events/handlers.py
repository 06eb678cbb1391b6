"""The handlers of events, by name."""

from rallypoint.observe.handlers import get_logging_handler
from rallypoint.observe.handlers import log_handlers as _log_handlers

__all__ = ["_log_handlers", "get_logging_handler"]
