"""Sampler of a fixed partition of a data set into mini-batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from vaekit.exceptions import ConfigError


class FixedBatchSampler(Sampler[int]):
    """Sampler of mini-batches with fixed members, in a new random order of the mini-batches each epoch.

    Use it as ``DataLoader(data, batch_size, sampler=FixedBatchSampler(len(data), batch_size))``: it yields the
    observations of each mini-batch in succession. ``seed`` determines the members, torch's global generator the order.
    A smaller mini-batch, if there is one, comes last in every epoch.

    Parameters
    ----------
    num_observations : int
        Number of observations in the data set.
    batch_size : int
        Number of observations per mini-batch.
    seed : int
        Seed of the partition.

    Attributes
    ----------
    sizes : list of int
        Number of observations of each mini-batch.
    order : list of int
        Indices of the mini-batches, in the order of the current epoch.

    Raises
    ------
    ConfigError
        If ``num_observations`` or ``batch_size`` is less than 1.

    Examples
    --------
    >>> sampler = FixedBatchSampler(5, batch_size=2)
    >>> sampler.sizes
    [2, 2, 1]
    >>> indices = list(sampler)
    >>> sorted(indices), sampler.order[-1]
    ([0, 1, 2, 3, 4], 2)
    """

    def __init__(self, num_observations: int, batch_size: int, seed: int = 0) -> None:
        if num_observations < 1 or batch_size < 1:
            raise ConfigError(
                f"FixedBatchSampler: num_observations={num_observations} and batch_size={batch_size} must be positive."
            )
        permutation = torch.randperm(num_observations, generator=torch.Generator().manual_seed(seed))
        self._batches = permutation.split(batch_size)
        self.sizes = [len(batch) for batch in self._batches]
        self.order: list[int] = []

    def __len__(self) -> int:
        return sum(self.sizes)

    def __iter__(self) -> Iterator[int]:
        num_full = len(self.sizes) - (self.sizes[-1] < self.sizes[0])
        self.order = [*torch.randperm(num_full).tolist(), *range(num_full, len(self.sizes))]
        for index in self.order:
            yield from self._batches[index].tolist()
