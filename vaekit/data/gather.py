"""Rows of a CSR matrix as a dense batch."""

from __future__ import annotations

from vaekit.compiled import compiled


@compiled()
def gather(starts, genes, values, rows, x, cell, gene):
    """Write some rows of a CSR matrix, and where their non-zero entries are.

    Parameters
    ----------
    starts, genes, values
        Of the matrix: int64 ``[all rows + 1]``, int32 or int64, float32 ``[entries]``.
    rows
        Numbers of the rows, int64 ``[batch]``.
    x
        Zeros, float32 ``[batch, genes]``, to be filled.
    cell, gene
        Row and column of each entry, int64, to be filled.
    """
    place = 0
    for i in range(len(rows)):
        for k in range(starts[rows[i]], starts[rows[i] + 1]):
            j = genes[k]
            x[i, j] = values[k]
            cell[place] = i
            gene[place] = j
            place += 1
