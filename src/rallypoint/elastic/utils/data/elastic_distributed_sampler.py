"""A sampler that goes on where an earlier run of the same epoch stopped. Importing this imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from importlib import import_module
from typing import Any

__all__ = ["ElasticDistributedSampler"]


# By name: the types must be checked alike with and without torch.
torch: Any = import_module("torch")
_Sampler: Any = import_module("torch.utils.data.distributed").DistributedSampler


class ElasticDistributedSampler(_Sampler):  # type: ignore[misc]
    """Shares out what comes after the first ``start_index`` samples of the shuffled epoch.

    Raises TypeError for a dataset without a length, ValueError if nothing is left of it.
    """

    def __init__(
        self, dataset: Any, num_replicas: int | None = None, rank: int | None = None, start_index: int = 0
    ) -> None:
        super().__init__(dataset=dataset, num_replicas=num_replicas, rank=rank)
        if not isinstance(dataset, Sized):
            raise TypeError("the dataset needs a length")
        if start_index >= len(dataset):
            raise ValueError(f"start_index {start_index} is beyond the dataset's {len(dataset)} samples")
        self.start_index = start_index
        self.num_samples = math.ceil((len(dataset) - start_index) / self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator()
        generator.manual_seed(self.epoch)
        left = len(self.dataset) - self.start_index
        order = (torch.randperm(left, generator=generator) + self.start_index).tolist()
        order = (order * math.ceil(self.total_size / left))[: self.total_size]  # the same number for all replicas
        return iter(order[self.rank : self.total_size : self.num_replicas])

    def __len__(self) -> int:
        return int(self.num_samples)
