"""What has to be known of all counts before training, from passes over the cells in order: chunks are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch

from vaekit.data.cells.backed_counts import CHUNK_CELLS
from vaekit.data.data_module import fingerprint

if TYPE_CHECKING:
    from scipy import sparse


class Counts(Protocol):
    """Counts that can be gone through in order: in memory, or in files."""

    def __len__(self) -> int: ...

    def chunks(self, title: str) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield the first cell's number and ``CHUNK_CELLS`` cells, CSR float32, canonical."""
        ...


class CountsInMemory:
    """A CSR matrix, a chunk at a time."""

    def __init__(self, matrix: sparse.csr_matrix) -> None:
        self.matrix = matrix

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def chunks(self, title: str) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield the first cell's number and ``CHUNK_CELLS`` cells; too fast for a progress bar."""
        for start in range(0, len(self), CHUNK_CELLS):
            yield start, self.matrix[start : start + CHUNK_CELLS]


def fingerprint_counts(
    counts: Counts, genes: Sequence[str], cells: Sequence[str], sample: np.ndarray
) -> tuple[str, sparse.csr_matrix | None]:
    """Return the fingerprint of the counts, and some of their rows.

    Parameters
    ----------
    counts
        All of them.
    genes, cells
        Names of the columns and rows.
    sample
        Sorted numbers of the rows to return; None is returned for no rows.
    """
    from scipy import sparse

    taken = []

    def arrays() -> Iterator[np.ndarray]:
        for start, part in counts.chunks("reading counts"):
            begin, end = np.searchsorted(sample, [start, start + part.shape[0]])
            if begin < end:
                taken.append(part[sample[begin:end] - start])
            yield from (part.data, part.indices, part.indptr)

    identity = fingerprint(arrays(), [genes, cells])
    return identity, sparse.vstack(taken, format="csr") if taken else None


class Measured(NamedTuple):
    """Sums over the modelled genes.

    Attributes
    ----------
    totals
        Total count of each cell, float64 ``[cells]``.
    mean, mean_log
        Means of the counts and of ``log1p(count)`` over the training cells, float64 ``[genes]``.
    """

    totals: np.ndarray
    mean: np.ndarray
    mean_log: np.ndarray


def count_statistics(counts: Counts, columns: np.ndarray | None, num_genes: int, train: torch.Tensor) -> Measured:
    """Measure the counts of the modelled genes, those in ``columns`` (None for all); ``train`` is sorted."""
    totals, sums, rows = np.empty(len(counts)), np.zeros((2, num_genes)), train.numpy()
    for start, part in counts.chunks("summing counts"):
        part = part if columns is None else part[:, columns]
        stop = start + part.shape[0]
        totals[start:stop] = np.asarray(part.sum(axis=1, dtype=np.float64)).ravel()
        begin, end = np.searchsorted(rows, [start, stop])
        training = part[rows[begin:end] - start]
        for row, values in enumerate((training.data, np.log1p(training.data))):
            sums[row] += np.bincount(training.indices, values, num_genes)
    return Measured(totals, *(sums / len(rows)))
