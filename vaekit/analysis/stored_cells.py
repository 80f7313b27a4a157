"""Cells of a file as a data set; their counts stay there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.data.cells.backed_counts import CHUNK_CELLS, BackedCounts
from vaekit.data.cells.genes import align_genes
from vaekit.data.dataset import BatchDataset, CountDataset

if TYPE_CHECKING:
    from scipy import sparse


class BackedCells(BatchDataset):
    """Cells of a file in the form of a checkpoint; only the chunk that was read last is in memory.

    Made for batches of cells in the order of the file.

    Parameters
    ----------
    path
        The file.
    stored
        Its counts.
    genes
        Those of the checkpoint.
    covariates, label, size_factor, observed
        As for :class:`~vaekit.data.dataset.CountDataset`.
    """

    def __init__(
        self,
        path: str,
        stored: BackedCounts,
        genes: list[str],
        covariates: Tensor | None,
        label: Tensor | None,
        size_factor: Tensor,
        observed: Tensor | None,
    ) -> None:
        self.path = path
        self.stored = stored
        self.genes = genes
        self.covariates = covariates
        self.label = label
        self.size_factor = size_factor
        self.observed = observed
        self._chunk: tuple[int, sparse.csr_matrix] | None = None

    def __len__(self) -> int:
        return len(self.stored)

    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        from scipy import sparse

        index = torch.as_tensor(rows, dtype=torch.int64)
        order = torch.argsort(index, stable=True)
        numbers, places = np.divmod(index[order].numpy(), CHUNK_CELLS)
        parts = [self._read(number)[places[numbers == number]] for number in np.unique(numbers).tolist()]
        counts = sparse.vstack(parts, format="csr")[torch.argsort(order).numpy()]
        cells = CountDataset(
            counts,
            None if self.covariates is None else self.covariates[index],
            None if self.label is None else self.label[index],
            self.size_factor[index],
            self.observed,
        )
        return cells.__getitems__(torch.arange(len(index)))._replace(index=index)

    def _read(self, number: int) -> sparse.csr_matrix:
        """Return a chunk with the checkpoint's genes, from memory or from the file."""
        if self._chunk is None or self._chunk[0] != number:
            start = number * CHUNK_CELLS
            self._chunk = None  # before the next is read
            cells = self.stored.read(start, min(start + CHUNK_CELLS, len(self))).astype(np.float32)
            self._chunk = number, align_genes(cells, self.stored.genes, self.genes)[0]
        return self._chunk[1]
