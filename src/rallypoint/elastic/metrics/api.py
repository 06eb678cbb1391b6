"""Streams of numbers and where they go."""

from __future__ import annotations

import abc
import functools
import time
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

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
    "prof",
    "profile",
    "publish_metric",
    "put_metric",
]


class MetricData(NamedTuple):
    """One value. ``timestamp`` is in seconds since the epoch."""

    timestamp: float
    group_name: str
    name: str
    value: float


class MetricsConfig:
    """Parameters for a platform's own ``initialize_metrics``."""

    __slots__ = ["params"]

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = {} if params is None else params


class MetricHandler(abc.ABC):
    """Takes values. Subclass it to send them somewhere."""

    @abc.abstractmethod
    def emit(self, metric_data: MetricData) -> None:
        """Take one value."""


class ConsoleMetricHandler(MetricHandler):
    """Prints each value on a line."""

    def emit(self, metric_data: MetricData) -> None:
        print(f"[{metric_data.timestamp}][{metric_data.group_name}]: {metric_data.name}={metric_data.value}")  # noqa: T201


class NullMetricHandler(MetricHandler):
    """Drops each value."""

    def emit(self, metric_data: MetricData) -> None:
        pass


class MetricStream:
    """A group's way to its handler."""

    def __init__(self, group_name: str, handler: MetricHandler) -> None:
        self.group_name = group_name
        self.handler = handler

    def add_value(self, metric_name: str, metric_value: float) -> None:
        """Hand on a value, with the present time."""
        self.handler.emit(MetricData(time.time(), self.group_name, metric_name, metric_value))

    def __repr__(self) -> str:
        return f"<MetricStream {self.group_name} to {type(self.handler).__name__}>"


_handlers: dict[str, MetricHandler] = {}
_default: list[MetricHandler] = [NullMetricHandler()]


def configure(handler: MetricHandler, group: str | None = None) -> None:
    """Use ``handler`` for ``group``, or for all groups that have none of their own."""
    if group is None:
        _default[0] = handler
    else:
        _handlers[group] = handler


def getStream(group: str) -> MetricStream:  # noqa: N802  torch's name
    """Return the stream of ``group``, to the handler that it has now."""
    return MetricStream(group, _handlers.get(group, _default[0]))


def put_metric(metric_name: str, metric_value: float, metric_group: str = "torchelastic") -> None:
    """Hand a value to the handler of its group."""
    getStream(metric_group).add_value(metric_name, metric_value)


def get_elapsed_time_ms(start_time_in_seconds: float) -> int:
    """Return the milliseconds that have passed since ``time.time()`` was ``start_time_in_seconds``."""
    return int((time.time() - start_time_in_seconds) * 1000)


def prof(fn: Callable[..., Any] | None = None, group: str = "torchelastic") -> Any:
    """Decorate a function: publish NAME.success or NAME.failure (1) and NAME.duration.ms at each call.

    NAME is the function's qualified name within a class, else module.function. Use as ``@prof`` or
    ``@prof(group="agent")``.
    """

    def wrap(f: Callable[..., Any]) -> Callable[..., Any]:
        return _measured(f, _metric_name(f), group)

    return wrap(fn) if fn else wrap


def profile(group: str | None = None) -> Any:
    """Decorate a function as ``prof`` does, under its bare name. Deprecated in torch: use ``prof``."""
    warnings.warn("Deprecated, use `@prof` instead", FutureWarning, stacklevel=2)
    return lambda func: _measured(func, func.__name__, group)


def publish_metric(metric_group: str, metric_name: str, metric_value: float) -> None:
    """Hand on a value. Deprecated in torch: use ``put_metric``."""
    warnings.warn("Deprecated, use `put_metric` instead", FutureWarning, stacklevel=2)
    put_metric(metric_name, metric_value, metric_group)


def _measured(function: Callable[..., Any], name: str, group: Any) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        start = time.time()
        try:
            result = function(*args, **kwargs)
            put_metric(f"{name}.success", 1, group)
        except Exception:
            put_metric(f"{name}.failure", 1, group)
            raise
        finally:
            put_metric(f"{name}.duration.ms", get_elapsed_time_ms(start), group)
        return result

    return wrapper


def _metric_name(function: Callable[..., Any]) -> str:
    qualified = function.__qualname__
    if "." in qualified or not function.__module__:
        return qualified
    return f"{function.__module__.rpartition('.')[2]}.{qualified}"
