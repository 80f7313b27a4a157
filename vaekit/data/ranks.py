"""Sharing of observations in a distributed run: each one once, and equally many mini-batches per rank.

If a strategy has several processes, Lightning replaces a loader's sampler by torch's ``DistributedSampler``, which
repeats observations until all ranks have equally many. Here that sampler only provides the rank, and the seed and epoch
of the common order.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, Sampler

from vaekit.exceptions import DataError


def common_order(order: Sampler[int] | Iterable[int], sampler: DistributedSampler) -> Tensor:
    """Return the order of this epoch, the same on every rank, int64 ``[rows]``.

    The RNG state of torch, which differs between ranks, is restored.
    """
    if not sampler.shuffle:
        return torch.arange(len(sampler.dataset))  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sampler.seed + sampler.epoch)
        return torch.as_tensor(list(order), dtype=torch.int64)


def num_batches(num_rows: int, batch_size: int, world_size: int, even: bool) -> int:
    """Return the number of mini-batches of each rank (:func:`batches_of_rank`)."""
    if not even:
        return -(-num_rows // (batch_size * world_size))
    if num_rows < world_size:
        raise DataError(
            f"trainer.devices: {num_rows} training observations cannot be shared by {world_size} processes. Use at "
            f"most {num_rows} devices."
        )
    full, rest = divmod(num_rows, batch_size * world_size)
    return full + (rest >= world_size)


def batches_of_rank(order: Tensor, batch_size: int, rank: int, world_size: int, even: bool) -> list[Tensor]:
    """Return the mini-batches of one rank; all ranks together have each row of ``order`` once.

    Parameters
    ----------
    order : Tensor, shape (rows,)
        Row indices for all ranks, int64.
    batch_size, rank, world_size : int
        Rows per mini-batch and rank, index of this process, and number of processes.
    even : bool
        True, for training: each step takes ``world_size * batch_size`` rows, and the ranks share them evenly. The last
        step of an epoch may be smaller, or larger by fewer than ``world_size`` rows, which are too few for a step; then
        the ranks differ by one row at most. False, for evaluation: the mini-batches of a single process are distributed
        round-robin, so that each contains the same rows for any number of ranks; empty ones replace missing last ones.

    Examples
    --------
    >>> [batch.tolist() for batch in batches_of_rank(torch.arange(10), 3, rank=0, world_size=2, even=True)]
    [[0, 2, 4], [6, 8]]
    >>> [batch.tolist() for batch in batches_of_rank(torch.arange(10), 4, rank=1, world_size=2, even=False)]
    [[4, 5, 6, 7], []]
    """
    count = num_batches(len(order), batch_size, world_size, even)
    if not even:
        batches = list(order.split(batch_size))[rank::world_size]
        return batches + [order[:0]] * (count - len(batches))
    starts = [step * batch_size * world_size for step in range(count)]
    return [order[a:b][rank::world_size] for a, b in zip(starts, [*starts[1:], len(order)], strict=True)]
