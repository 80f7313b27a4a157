"""A fixed partition of the rows of a data set into mini-batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from vaekit.exceptions import ConfigError


class FixedBatchSampler(Sampler[int]):
    """Rows in mini-batches whose members never change, in a new random order of the mini-batches each epoch.

    A sampler for ``DataLoader(data, batch_size, sampler=FixedBatchSampler(len(data), batch_size))``: it yields the rows of
    one mini-batch after another. Which rows go together is drawn from ``seed``; the order from torch's global
    generator. A smaller mini-batch, if the rows do not divide evenly, comes last in every epoch.

    Parameters
    ----------
    rows
        Of the data set.
    batch_size
        Rows in a mini-batch.
    seed
        Of the partition.

    Attributes
    ----------
    sizes
        Rows of each mini-batch.
    order
        Numbers of the mini-batches, in the order of the epoch that began last.

    Raises
    ------
    ConfigError
        If there are no rows, or ``batch_size`` is less than 1.

    Examples
    --------
    >>> sampler = FixedBatchSampler(5, batch_size=2)
    >>> sampler.sizes
    [2, 2, 1]
    >>> rows = list(sampler)
    >>> sorted(rows), sampler.order[-1]
    ([0, 1, 2, 3, 4], 2)
    """

    def __init__(self, rows: int, batch_size: int, seed: int = 0) -> None:
        if rows < 1 or batch_size < 1:
            raise ConfigError(f"FixedBatchSampler: rows is {rows} and batch_size {batch_size}; both must be at least 1")
        permuted = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
        self._batches = permuted.split(batch_size)
        self.sizes = [len(batch) for batch in self._batches]
        self.order: list[int] = []

    def __len__(self) -> int:
        return sum(self.sizes)

    def __iter__(self) -> Iterator[int]:
        full = len(self.sizes) - (self.sizes[-1] < self.sizes[0])
        self.order = [*torch.randperm(full).tolist(), *range(full, len(self.sizes))]
        for number in self.order:
            yield from self._batches[number].tolist()
