"""Data sets that slice whole mini-batches, and loaders that resume within an epoch.

``DataLoader`` calls ``__getitems__`` with all row indices of a mini-batch, which :class:`BatchIndexSampler` passes as
one tensor. ``collate_fn=identity_collate`` passes the result on unchanged. Loaders have no workers: slicing 128 rows
takes less time than passing them between processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, RandomSampler, Sampler
from typing_extensions import override

from vaekit._core.arguments import check_count
from vaekit.batch import Batch
from vaekit.data.ranks import batches_of_rank, common_order, num_batches

T = TypeVar("T")


def identity_collate(batch: T) -> T:
    """Return the batch unchanged; the ``collate_fn`` of data sets that slice whole mini-batches."""
    return batch


def sequential_loader(dataset: BatchDataset, batch_size: int) -> DataLoader:
    """Return a loader of mini-batches in the order of a data set.

    Raises
    ------
    ConfigError
        If ``batch_size`` is not a positive whole number.
    """
    check_count(batch_size=batch_size)
    generator = torch.Generator()  # otherwise the loader would draw a seed from torch's generator
    return DataLoader(dataset, batch_size=int(batch_size), collate_fn=identity_collate, generator=generator)


def copy_async(values: Tensor, device: torch.device) -> Tensor:
    """Return a copy on ``device`` without synchronization, for which a GPU needs pinned memory."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


class BatchIndexSampler(BatchSampler):
    """Row indices of mini-batches as tensors, which index faster than lists of integers.

    It resumes within an epoch. Its state consists of torch's RNG state when the order was drawn, the number of
    mini-batches since, and the current RNG state.

    In a distributed run, Lightning creates it again with a ``DistributedSampler``. It then yields the rows of this rank
    (:func:`vaekit.data.ranks.batches_of_rank`).

    Parameters
    ----------
    sampler : Sampler
        Order of the rows. A ``DistributedSampler`` only provides the rank and the epoch.
    batch_size : int
        Rows per mini-batch and rank.
    drop_last : bool
        Whether to omit an incomplete last mini-batch.
    even : bool
        Whether ranks share each mini-batch, as training requires, or receive whole ones round-robin.
    order : Sampler or None
        Order of the rows in a distributed run; None means that of ``sampler``.
    """

    _order_state: Tensor | None = None
    _position = 0
    _resumed: Mapping[str, Any] | None = None

    def __init__(
        self, sampler: Any, batch_size: int, drop_last: bool = False, even: bool = False, order: Any = None
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.even, self.order = even, sampler if order is None else order

    @override
    def __len__(self) -> int:
        if not isinstance(self.sampler, DistributedSampler):
            return super().__len__()
        num_rows = len(self.sampler.dataset)  # type: ignore[arg-type]
        return num_batches(num_rows, self.batch_size, self.sampler.num_replicas, self.even)

    @override
    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        resumed, self._resumed = self._resumed, None
        start = 0
        if resumed is not None:
            start = resumed["position"] % len(self)
            torch.set_rng_state(resumed["order" if start else "now"].cpu())
            if not start:  # that epoch was complete; an epoch of DataLoader begins with a random seed for workers
                torch.empty((), dtype=torch.int64).random_()
        self._order_state, self._position = torch.get_rng_state(), start
        batches = self._batches()
        if start:
            torch.set_rng_state(resumed["now"].cpu())  # type: ignore[index]
        for rows in batches[start:]:
            self._position += 1
            yield rows

    def _batches(self) -> Sequence[Tensor]:
        """Draw the order of an epoch, and return the row indices of its mini-batches, int64 ``[batch]``."""
        if isinstance(self.sampler, DistributedSampler):
            sampler = self.sampler
            order = common_order(self.order, sampler)
            return batches_of_rank(order, self.batch_size, sampler.rank, sampler.num_replicas, self.even)
        batches = torch.as_tensor(list(self.sampler), dtype=torch.int64).split(self.batch_size)
        return batches[: len(self)]

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch."""
        now = torch.get_rng_state()
        return {
            "order": now if self._order_state is None else self._order_state,
            "position": self._position,
            "now": now,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume at the position of :meth:`state_dict` with the next iteration."""
        self._resumed = dict(state)


class ResumableLoader(DataLoader):
    """A loader of :class:`BatchIndexSampler`, whose position Lightning stores in checkpoints."""

    batch_sampler: BatchIndexSampler

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch."""
        return self.batch_sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume at this position with the next iteration."""
        self.batch_sampler.load_state_dict(state)


class BatchDataset(Dataset, ABC):
    """Observations: ``dataset[i]`` is a batch of one, ``dataset.__getitems__(rows)`` a batch of many."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch: ...

    def random_order(self, rows: Tensor) -> Sampler[int]:
        """Return a sampler of the positions of ``rows`` in random order, from torch's global generator."""
        return RandomSampler(rows)

    @property
    def num_bytes(self) -> int:
        """Size of the copy that :meth:`copy_to` creates; 0 if the data set is never copied."""
        return 0

    def copy_to(self, device: torch.device) -> BatchDataset:
        """Return a copy on a GPU that yields the same mini-batches; the default is the data set itself."""
        return self

    def __getitem__(self, row: int) -> Batch:
        """Return one observation as a batch of size one; negative indices count from the end."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"index {row} is out of range for {len(self)} observations")
        return self.__getitems__([row % len(self)])


class RowSubset(BatchDataset):
    """Some rows of a data set.

    Parameters
    ----------
    dataset : BatchDataset
        All rows.
    rows : Tensor, shape (rows,)
        Indices of the rows of the subset, int64.
    """

    def __init__(self, dataset: BatchDataset, rows: Tensor) -> None:
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return len(self.rows)

    @override
    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        return self.dataset.__getitems__(self.rows[torch.as_tensor(rows, dtype=torch.int64)])
