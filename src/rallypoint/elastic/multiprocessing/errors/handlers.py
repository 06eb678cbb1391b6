"""The factory of error handlers, at torch's module path: replace it to have your own."""

from __future__ import annotations

from rallypoint.elastic.multiprocessing.errors.error_handler import ErrorHandler

__all__ = ["get_error_handler"]


def get_error_handler() -> ErrorHandler:
    """Return a new error handler."""
    return ErrorHandler()
