"""Helpers for data loading. ``ElasticDistributedSampler`` is torch's kind of sampler: its first use imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rallypoint.elastic.utils.data.cycling_iterator import CyclingIterator

if TYPE_CHECKING:
    from rallypoint.elastic.utils.data.elastic_distributed_sampler import ElasticDistributedSampler

__all__ = ["CyclingIterator", "ElasticDistributedSampler"]


def __getattr__(name: str) -> Any:
    if name != "ElasticDistributedSampler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rallypoint.elastic.utils.data.elastic_distributed_sampler import ElasticDistributedSampler

    return ElasticDistributedSampler
