"""Rows of a CSR matrix as a dense mini-batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vaekit._core.numba_cache import cached_njit
from vaekit.batch import CSREntries


@cached_njit()
def gather(indptr, indices, data, rows, x, row_indptr, row_indices, row_data):
    """Write some rows of a CSR matrix into ``x``, and into the arrays of a smaller CSR matrix.

    The matrix has ``indptr`` int64, ``indices`` int32 or int64, and ``data`` float32. ``rows`` is int64 ``[batch]``.
    ``x`` holds zeros, float32 ``[batch, genes]``. The arrays of the rows are int64, int64 and float32.
    """
    position = 0
    for i in range(len(rows)):
        row_indptr[i] = position
        for k in range(indptr[rows[i]], indptr[rows[i] + 1]):
            j = indices[k]
            x[i, j] = data[k]
            row_indices[position] = j
            row_data[position] = data[k]
            position += 1
    row_indptr[len(rows)] = position


def dense_rows(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, rows: np.ndarray, num_columns: int
) -> tuple[Tensor, CSREntries]:
    """Return rows of a CSR matrix, dense and with their non-zero entries; arrays as for :func:`gather`."""
    num_values = int((indptr[rows + 1] - indptr[rows]).sum())
    x = torch.zeros(len(rows), num_columns, dtype=torch.float32)
    arrays = np.empty(len(rows) + 1, np.int64), np.empty(num_values, np.int64), np.empty(num_values, np.float32)
    gather(indptr, indices, data, rows, x.numpy(), *arrays)
    return x, CSREntries(x, *map(torch.from_numpy, arrays))
