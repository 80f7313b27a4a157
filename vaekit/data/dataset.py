"""Data sets held in memory that slice whole batches at once.

``DataLoader`` calls ``__getitems__`` with all row numbers of a batch, from :class:`WholeBatches` as one tensor;
with ``collate_fn=as_is`` the batch goes through untouched. No workers: slicing 128 rows takes less time than
passing them between processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset

from vaekit.batch import Batch

if TYPE_CHECKING:
    from scipy import sparse

T = TypeVar("T")


def as_is(batch: T) -> T:
    """Return the batch as it is; the ``collate_fn`` of data sets that slice whole batches."""
    return batch


class WholeBatches(BatchSampler):
    """The rows that a sampler gives, as one tensor a batch: a list of integers a batch takes longer to index with."""

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        """Yield row numbers, int64 ``[batch]``."""
        for rows in torch.as_tensor(list(self.sampler), dtype=torch.int64).split(self.batch_size):
            if len(rows) == self.batch_size or not self.drop_last:
                yield rows


class ResidentDataset(Dataset, ABC):
    """Rows in memory; ``dataset[i]`` is a batch of one row, ``dataset.__getitems__(rows)`` one of many."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch: ...

    def __getitem__(self, row: int) -> Batch:
        """Return one row as a batch of size one; negative numbers count from the end."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.__getitems__([row % len(self)])


class Rows(ResidentDataset):
    """Some rows of a data set.

    Parameters
    ----------
    dataset
        All rows.
    rows
        Numbers of those that remain, int64 ``[rows]``.
    """

    def __init__(self, dataset: ResidentDataset, rows: Tensor) -> None:
        self.dataset = dataset
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        return self.dataset.__getitems__(self.rows[torch.as_tensor(rows, dtype=torch.int64)])


class CountDataset(ResidentDataset):
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
        self._starts = torch.from_numpy(counts.indptr.astype(np.int64))
        self._genes, self._values = torch.from_numpy(counts.indices), torch.from_numpy(counts.data)

    def __len__(self) -> int:
        return self.counts.shape[0]

    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        index = torch.as_tensor(rows, dtype=torch.int64)
        # torch gathers the rows; scipy's indexing would check and copy more than it moves
        starts = self._starts[index]
        lengths = self._starts[index + 1] - starts
        ends = lengths.cumsum(0)
        cell = torch.arange(len(index)).repeat_interleave(lengths)
        place = (starts - ends + lengths).index_select(0, cell).add_(torch.arange(len(cell)))
        gene = self._genes.index_select(0, place).long()
        x = self._values.new_zeros(len(index), self.counts.shape[1])
        x.view(-1).scatter_(0, torch.add(gene, cell, alpha=x.shape[1]), self._values.index_select(0, place))
        return Batch(
            x=x,
            size_factor=self.size_factor[index],
            covariates=None if self.covariates is None else self.covariates[index],
            label=None if self.label is None else self.label[index],
            index=index,
            nonzero=torch.stack([cell, gene]),
            observed=None if self.observed is None else self.observed.expand_as(x),
        )


class ImageDataset(ResidentDataset):
    """Images as whole grey levels.

    Parameters
    ----------
    pixels
        Grey levels, uint8 ``[images, features]``, from 0 to ``white``.
    white
        The level that becomes 1.
    label
        Class of each image, int64 ``[images]``.
    draw
        Whether each batch is binarized anew: ``x ~ Bernoulli(pixel)`` from torch's global generator.
    """

    def __init__(self, pixels: Tensor, white: int, label: Tensor, draw: bool = False) -> None:
        self.pixels = pixels
        self.white = white
        self.label = label
        self.draw = draw

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        index = torch.as_tensor(rows, dtype=torch.int64)
        # In numpy: torch would spread so small an operation over threads, which is slow when cores are busy.
        x = torch.from_numpy(np.divide(self.pixels.numpy()[index.numpy()], self.white, dtype=np.float32))
        return Batch(x=torch.bernoulli(x) if self.draw else x, label=self.label[index], index=index)
