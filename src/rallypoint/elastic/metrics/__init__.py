"""Metrics: numbers with a name and a group, handed to a handler that is set once.

    configure(ConsoleMetricHandler(), group="my_app")
    put_metric("steps", 17, "my_app")

Without ``configure`` they go nowhere. ``@prof`` counts the calls of a function and takes its time.
"""

from __future__ import annotations

from rallypoint.elastic.metrics.api import (
    ConsoleMetricHandler,
    MetricData,
    MetricHandler,
    MetricsConfig,
    MetricStream,
    NullMetricHandler,
    configure,
    get_elapsed_time_ms,
    getStream,
    prof,
    profile,
    publish_metric,
    put_metric,
)

__all__ = [
    "ConsoleMetricHandler",
    "MetricData",
    "MetricHandler",
    "MetricStream",
    "MetricsConfig",
    "NullMetricHandler",
    "configure",
    "getStream",
    "get_elapsed_time_ms",
    "initialize_metrics",
    "prof",
    "profile",
    "publish_metric",
    "put_metric",
]


def initialize_metrics(cfg: MetricsConfig | None = None) -> None:
    """Do nothing, as in torch: a place for a platform to put its own set-up."""
