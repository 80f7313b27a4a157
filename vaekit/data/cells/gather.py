"""Rows of a CSR matrix as a dense batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit._core.numba_cache import cached_njit
from vaekit.batch import CSREntries


@cached_njit()
def gather(starts, genes, values, rows, x, own_starts, gene, value):
    """Write some rows of a CSR matrix, dense and as CSR.

    Parameters
    ----------
    starts, genes, values
        Of the matrix: int64 ``[all rows + 1]``, int32 or int64, float32 ``[entries]``.
    rows
        Numbers of the rows, int64 ``[batch]``.
    x
        Zeros, float32 ``[batch, genes]``, to be filled.
    own_starts, gene, value
        The same of these rows: int64 ``[batch + 1]``, int64 and float32 ``[entries]``, to be filled.
    """
    place = 0
    for i in range(len(rows)):
        own_starts[i] = place
        for k in range(starts[rows[i]], starts[rows[i] + 1]):
            j = genes[k]
            x[i, j] = values[k]
            gene[place] = j
            value[place] = values[k]
            place += 1
    own_starts[len(rows)] = place


def dense_rows(starts: Any, genes: Any, values: Any, rows: Any, width: int) -> tuple[Tensor, CSREntries]:
    """Return rows of a CSR matrix, dense and with their non-zero entries; arrays as for :func:`gather`, NumPy's."""
    count = int((starts[rows + 1] - starts[rows]).sum())
    x = torch.zeros(len(rows), width)
    own_starts = np.empty(len(rows) + 1, np.int64)
    gene, value = np.empty(count, np.int64), np.empty(count, np.float32)
    gather(starts, genes, values, rows, x.numpy(), own_starts, gene, value)
    return x, CSREntries(x, *map(torch.from_numpy, (own_starts, gene, value)))
