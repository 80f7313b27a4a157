"""How processes that train or evaluate together share rows: each row once, and as many batches for each process.

Lightning puts torch's ``DistributedSampler`` in the place of a loader's own where a strategy has several processes. It
repeats rows until each process has equally many; here it only tells which process this is, and the seed and epoch of
the order that all of them have in common.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, Sampler

from vaekit.exceptions import DataError


def common_order(order: Sampler[int] | Iterable[int], sampler: DistributedSampler) -> Tensor:
    """Return what ``order`` gives after the seed of this epoch, the same in every process, int64 ``[rows]``.

    Torch's generator, of which each process has a state of its own, is set back.
    """
    if not sampler.shuffle:
        return torch.arange(len(sampler.dataset))  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sampler.seed + sampler.epoch)
        return torch.as_tensor(list(order), dtype=torch.int64)


def num_batches(rows: int, batch_size: int, processes: int, even: bool) -> int:
    """Return how many batches each process has, all of them equally many: see :func:`batches_of_rank`."""
    if not even:
        return -(-rows // (batch_size * processes))
    if rows < processes:
        raise DataError(
            f"there are {rows} rows to train on and {processes} processes to share them: use as many devices as rows "
            "at most (trainer.devices)"
        )
    full, rest = divmod(rows, batch_size * processes)
    return full + (rest >= processes)


def batches_of_rank(order: Tensor, batch_size: int, rank: int, processes: int, even: bool) -> list[Tensor]:
    """Return the batches of one process, which have all rows once between them.

    Parameters
    ----------
    order
        Row numbers of all processes, int64 ``[rows]``.
    batch_size
        Rows in a batch of one process.
    rank, processes
        Which process, from 0, of how many.
    even
        True, for training: each ``processes * batch_size`` rows are a step, and shared evenly; in the last step of an
        epoch, which may be smaller (or larger by less than ``processes`` rows, which are too few for a step), the
        processes' shares differ by one row at most. False, for evaluation: the batches of a single process are dealt
        out in turn, so that each is made of the same rows however many processes there are; one without any rows makes
        up for a missing last one.

    Returns
    -------
    list of Tensor
        Row numbers, equally many tensors for each rank.

    Raises
    ------
    DataError
        If there are fewer rows than processes to train on.

    Examples
    --------
    >>> [batch.tolist() for batch in batches_of_rank(torch.arange(10), 3, rank=0, processes=2, even=True)]
    [[0, 2, 4], [6, 8]]
    >>> [batch.tolist() for batch in batches_of_rank(torch.arange(10), 4, rank=1, processes=2, even=False)]
    [[4, 5, 6, 7], []]
    """
    count = num_batches(len(order), batch_size, processes, even)
    if not even:
        found = list(order.split(batch_size))[rank::processes]
        return found + [order[:0]] * (count - len(found))
    starts = [step * batch_size * processes for step in range(count)]
    return [order[a:b][rank::processes] for a, b in zip(starts, [*starts[1:], len(order)], strict=True)]
