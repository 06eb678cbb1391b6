"""Loggers whose level comes from the environment."""

from __future__ import annotations

import logging
import os
import sys

from rallypoint.elastic.utils.log_level import get_log_level

__all__ = ["get_logger"]


def get_logger(name: str | None = None) -> logging.Logger:
    """Return the logger ``name`` (default: the caller's module), at the level of LOGLEVEL or WARNING."""
    logger = logging.getLogger(name or sys._getframe(1).f_globals.get("__name__"))
    logger.setLevel(os.environ.get("LOGLEVEL", get_log_level()))
    return logger
