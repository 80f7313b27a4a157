"""Data sets held in memory that slice whole batches at once.

``DataLoader`` calls ``__getitems__`` with all row numbers of a batch, from :class:`BatchIndexSampler` as one tensor;
with ``collate_fn=identity_collate`` the batch goes through untouched. No workers: slicing 128 rows takes less time than
passing them between processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, RandomSampler, Sampler

from vaekit.batch import Batch
from vaekit.data.ranks import batches_of_rank, common_order, num_batches

if TYPE_CHECKING:
    from scipy import sparse

T = TypeVar("T")


def identity_collate(batch: T) -> T:
    """Return the batch as it is; the ``collate_fn`` of data sets that slice whole batches."""
    return batch


class BatchIndexSampler(BatchSampler):
    """The rows that a sampler gives, as one tensor a batch: a list of integers a batch takes longer to index with.

    It can go on within an epoch: its state is that of torch's generator when the order was drawn, the number of batches
    given since, and the generator's state now.

    Where several processes work together, Lightning makes it anew with a ``DistributedSampler``: then it gives this
    process's share of the rows, by :func:`vaekit.data.ranks.batches_of_rank`.

    Parameters
    ----------
    sampler
        Gives the order of the rows; a ``DistributedSampler`` only tells the process, and the epoch.
    batch_size
        Rows in a batch of one process.
    drop_last
        Whether to leave out a last batch that is smaller.
    even
        Whether processes share each batch, as training needs, or take whole ones in turn.
    order
        Gives the order where there are several processes; None for that of ``sampler``.
    """

    _order: Tensor | None = None
    _position = 0
    _resumed: Mapping[str, Any] | None = None

    def __init__(
        self, sampler: Any, batch_size: int, drop_last: bool = False, even: bool = False, order: Any = None
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.even, self.order = even, sampler if order is None else order

    def __len__(self) -> int:
        if not isinstance(self.sampler, DistributedSampler):
            return super().__len__()
        rows = len(self.sampler.dataset)  # type: ignore[arg-type]
        return num_batches(rows, self.batch_size, self.sampler.num_replicas, self.even)

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        """Yield row numbers, int64 ``[batch]``."""
        resumed, self._resumed = self._resumed, None
        begun = 0
        if resumed is not None:
            begun = resumed["position"] % len(self)
            torch.set_rng_state(resumed["order" if begun else "now"].cpu())
            if not begun:  # that epoch was over; the loader's iterator draws a number, for workers that we have not
                torch.empty((), dtype=torch.int64).random_()
        self._order, self._position = torch.get_rng_state(), begun
        batches = self._batches()
        if begun:
            torch.set_rng_state(resumed["now"].cpu())  # type: ignore[index]
        for rows in batches[begun:]:
            self._position += 1
            yield rows

    def _batches(self) -> Sequence[Tensor]:
        """Return the row numbers of all batches of an epoch; draws their order."""
        if isinstance(self.sampler, DistributedSampler):
            sampler = self.sampler
            order = common_order(self.order, sampler)
            return batches_of_rank(order, self.batch_size, sampler.rank, sampler.num_replicas, self.even)
        batches = torch.as_tensor(list(self.sampler), dtype=torch.int64).split(self.batch_size)
        return batches[: len(self)]

    def state_dict(self) -> dict[str, Any]:
        """Return where in the epoch it is."""
        now = torch.get_rng_state()
        return {"order": now if self._order is None else self._order, "position": self._position, "now": now}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, at the next iteration, where :meth:`state_dict` was called."""
        self._resumed = dict(state)


class ResumableLoader(DataLoader):
    """A loader of :class:`BatchIndexSampler`, whose place in the epoch Lightning keeps in checkpoints."""

    batch_sampler: BatchIndexSampler

    def state_dict(self) -> dict[str, Any]:
        """Return where in the epoch it is."""
        return self.batch_sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there, with the next iteration."""
        self.batch_sampler.load_state_dict(state)


class BatchDataset(Dataset, ABC):
    """Rows in memory; ``dataset[i]`` is a batch of one row, ``dataset.__getitems__(rows)`` one of many."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch: ...

    def random_order(self, rows: Tensor) -> Sampler[int]:
        """Return a sampler of the positions of ``rows`` in random order, from torch's global generator."""
        return RandomSampler(rows)

    def __getitem__(self, row: int) -> Batch:
        """Return one row as a batch of size one; negative numbers count from the end."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.__getitems__([row % len(self)])


class RowSubset(BatchDataset):
    """Some rows of a data set.

    Parameters
    ----------
    dataset
        All rows.
    rows
        Numbers of those that remain, int64 ``[rows]``.
    """

    def __init__(self, dataset: BatchDataset, rows: Tensor) -> None:
        self.dataset = dataset
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        return self.dataset.__getitems__(self.rows[torch.as_tensor(rows, dtype=torch.int64)])


class CountDataset(BatchDataset):
    """UMI counts in CSR form with what is known of each cell.

    Parameters
    ----------
    counts
        Counts, CSR float32 ``[cells, genes]``.
    covariates
        Known covariates, float32 ``[cells, num_covariates]``, or None.
    label
        Class of each cell, int64 ``[cells]``, -1 where unknown, or None.
    size_factor
        Expected total count of each cell, positive, float32 ``[cells, 1]``; None: its total count, or 1 for a cell
        without counts, so that its log exists.
    observed
        Whether each gene was measured, bool ``[genes]``; None where all were.
    """

    def __init__(
        self,
        counts: sparse.csr_matrix,
        covariates: Tensor | None = None,
        label: Tensor | None = None,
        size_factor: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> None:
        if not counts.has_canonical_format or not counts.data.all():
            counts = counts.copy()
            counts.sum_duplicates()
            counts.eliminate_zeros()
        self.counts = counts
        self.covariates = covariates
        self.label = label
        totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).reshape(-1, 1)
        self.num_empty = int((totals == 0).sum())
        own = torch.from_numpy(np.maximum(totals, 1).astype(np.float32))
        self.size_factor = own if size_factor is None else size_factor
        self.observed = observed
        self._starts = counts.indptr.astype(np.int64)

    def __len__(self) -> int:
        return self.counts.shape[0]

    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        from vaekit.data.cells.gather import dense_rows  # slow to import

        index = torch.as_tensor(rows, dtype=torch.int64)
        counts = self.counts
        x, nonzero = dense_rows(self._starts, counts.indices, counts.data, index.numpy(), counts.shape[1])
        return Batch(
            x=x,
            size_factor=self.size_factor[index],
            covariates=None if self.covariates is None else self.covariates[index],
            label=None if self.label is None else self.label[index],
            index=index,
            nonzero=nonzero,
            observed=None if self.observed is None else self.observed.expand_as(x),
        )


class ImageDataset(BatchDataset):
    """Images as whole grey levels.

    Parameters
    ----------
    pixels
        Grey levels, uint8 ``[images, features]``, from 0 to ``white``.
    max_level
        The level that becomes 1.
    label
        Class of each image, int64 ``[images]``.
    draw
        Whether each batch is binarized anew: ``x ~ Bernoulli(pixel)`` from torch's global generator.
    """

    def __init__(self, pixels: Tensor, max_level: int, label: Tensor, draw: bool = False) -> None:
        self.pixels = pixels
        self.max_level = max_level
        self.label = label
        self.draw = draw

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        index = torch.as_tensor(rows, dtype=torch.int64)
        # In numpy: torch would spread so small an operation over threads, which is slow when cores are busy.
        x = torch.from_numpy(np.divide(self.pixels.numpy()[index.numpy()], self.max_level, dtype=np.float32))
        return Batch(x=torch.bernoulli(x) if self.draw else x, label=self.label[index], index=index)
