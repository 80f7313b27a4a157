"""Data sets of counts in memory, on the CPU or on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from vaekit.batch import Batch, CSREntries
from vaekit.data.dataset import BatchDataset, copy_async

if TYPE_CHECKING:
    from scipy import sparse


class CellDataset(BatchDataset):
    """Counts from any storage, with covariates, labels and size factors in memory.

    Parameters
    ----------
    covariates : Tensor or None, shape (cells, num_covariates)
        Covariates, float32.
    label : Tensor or None, shape (cells,)
        Class of each cell, int64, -1 if unknown.
    size_factor : Tensor, shape (cells, 1)
        Expected total count of each cell, float32, positive.
    observed : Tensor or None, shape (genes,)
        Whether each gene was measured, bool; None if all were.
    observed_label : Tensor or None, shape (cells,)
        Known category of each training cell, int64, -1 if unknown or not a training cell.
    """

    def __init__(
        self,
        covariates: Tensor | None,
        label: Tensor | None,
        size_factor: Tensor,
        observed: Tensor | None,
        observed_label: Tensor | None = None,
    ) -> None:
        self.covariates, self.label, self.size_factor, self.observed = covariates, label, size_factor, observed
        self.observed_label = observed_label

    @override
    def __len__(self) -> int:
        return len(self.size_factor)

    def _batch(self, index: Tensor, x: Tensor, nonzero: CSREntries | None = None) -> Batch:
        return Batch(
            x=x,
            size_factor=self.size_factor[index],
            covariates=None if self.covariates is None else self.covariates[index],
            label=None if self.label is None else self.label[index],
            index=index,
            nonzero=nonzero,
            observed=None if self.observed is None else self.observed.expand_as(x),
            observed_label=None if self.observed_label is None else self.observed_label[index],
        )


class CountDataset(CellDataset):
    """Counts in memory.

    Parameters
    ----------
    counts : csr_matrix, shape (cells, genes)
        Counts, float32.
    covariates, label, observed, observed_label : Tensor or None
        As for :class:`CellDataset`.
    size_factor : Tensor or None, shape (cells, 1)
        As for :class:`CellDataset`; None means the total count, or 1 for a cell without counts.
    """

    def __init__(
        self,
        counts: sparse.csr_matrix,
        covariates: Tensor | None = None,
        label: Tensor | None = None,
        size_factor: Tensor | None = None,
        observed: Tensor | None = None,
        observed_label: Tensor | None = None,
    ) -> None:
        if not counts.has_canonical_format or not counts.data.all():
            counts = counts.copy()
            counts.sum_duplicates()
            counts.eliminate_zeros()
        self.counts = counts
        if size_factor is None:
            totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).reshape(-1, 1)
            size_factor = torch.from_numpy(np.maximum(totals, 1).astype(np.float32))
        super().__init__(covariates, label, size_factor, observed, observed_label)
        self._starts = counts.indptr.astype(np.int64)

    @override
    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        from vaekit.data.cells.gather import dense_rows  # importing numba takes long

        index, counts = torch.as_tensor(rows, dtype=torch.int64), self.counts
        arrays = (self._starts, counts.indices, counts.data)
        return self._batch(index, *dense_rows(*arrays, index.numpy(), counts.shape[1]))

    @property
    @override
    def num_bytes(self) -> int:
        return self.counts.data.nbytes + self.counts.indices.nbytes

    @override
    def copy_to(self, device: torch.device) -> CountsOnDevice:
        return CountsOnDevice(self, device)


class CountsOnDevice(CellDataset):
    """Cells of a :class:`CountDataset`, copied to a GPU. Its batches do not list their non-zero entries."""

    def __init__(self, dataset: CountDataset, device: torch.device) -> None:
        columns = (dataset.covariates, dataset.label, dataset.size_factor, dataset.observed, dataset.observed_label)
        super().__init__(*(None if column is None else column.to(device) for column in columns))  # type: ignore[arg-type]
        counts = dataset.counts
        self.features, self.device = counts.shape[1], device
        starts = torch.from_numpy(counts.indptr).long()
        self._lengths = starts.diff()  # on the CPU, where the size of a batch is known without synchronization
        self._starts = starts.to(device)
        self._genes, self._values = (torch.from_numpy(part).to(device) for part in (counts.indices, counts.data))

    @override
    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        index = torch.as_tensor(rows, dtype=torch.int64)
        lengths = self._lengths[index]
        return self.gather(copy_async(index, self.device), copy_async(lengths, self.device), int(lengths.sum()))

    def gather(self, index: Tensor, lengths: Tensor, num_values: int) -> Batch:
        """Return a batch without synchronization.

        Parameters
        ----------
        index, lengths : Tensor, shape (batch,)
            Indices of the cells, and their numbers of non-zero counts, int64 on the device.
        num_values : int
            Sum of the lengths.
        """
        # Value k of the batch belongs to one cell, and has the same offset from this cell's first value in both arrays.
        cell = torch.repeat_interleave(lengths, output_size=num_values)
        shift = self._starts[index] - (lengths.cumsum(0) - lengths)
        position = torch.arange(num_values, device=self.device) + shift[cell]
        x = torch.zeros(len(index), self.features, dtype=torch.float32, device=self.device)
        x[cell, self._genes[position].long()] = self._values[position]
        return self._batch(index, x)
