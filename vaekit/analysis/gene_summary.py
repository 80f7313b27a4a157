"""Mean expression of every gene and the values of some, without the matrix of all cells and genes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vaekit.data.cells.query import QueryData
from vaekit.data.dataset import sequential_loader

if TYPE_CHECKING:
    import pandas as pd


class GeneSummary:
    """Collector of chunks of cells that :meth:`NormalizedExpressionWriter.write` accepts like an array.

    Parameters
    ----------
    num_cells : int
        Number of cells.
    all_genes : sequence of str
        Names of the columns of a chunk.
    genes : sequence of str
        Genes whose values are kept.

    Attributes
    ----------
    values : ndarray, shape (cells, genes)
        Expression of the kept genes, float32.

    Examples
    --------
    >>> summary = GeneSummary(3, ["a", "b"], ["b"])
    >>> summary[0:2] = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> summary[2:3] = np.array([[2.0, 0.0]])
    >>> summary.mean.tolist(), summary.table()["b"].tolist()
    ([2.0, 2.0], [2.0, 4.0, 0.0])
    """

    def __init__(self, num_cells: int, all_genes: Sequence[str], genes: Sequence[str]) -> None:
        import pandas as pd

        self.genes = list(genes)
        self.values = np.empty((num_cells, len(genes)), dtype=np.float32)
        self._columns = pd.Index(all_genes).get_indexer(self.genes)
        self._total = np.zeros(len(all_genes))

    def __setitem__(self, rows: slice, values: np.ndarray) -> None:
        self._total += values.sum(0, dtype=np.float64)
        self.values[rows] = values[:, self._columns]

    @property
    def mean(self) -> np.ndarray:
        """Mean of each gene over the cells, float64 ``[all genes]``."""
        return self._total / len(self.values)

    def table(self, index: Any = None) -> pd.DataFrame:
        """Return the values of the kept genes with their names."""
        import pandas as pd

        return pd.DataFrame(self.values, index=index, columns=self.genes)


def summarize_counts(
    query: QueryData,
    all_genes: Sequence[str],
    genes: Sequence[str],
    library_size: float | Literal["observed"],
    batch_size: int = 1024,
) -> GeneSummary:
    """Return the summary of the counts, for a comparison with the expected expression of the same cells.

    Parameters
    ----------
    query : QueryData
        Cells.
    all_genes, genes : sequence of str
        Genes of the model, and those whose values are kept.
    library_size : float or "observed"
        Sum to which the counts of a cell are scaled. ``"observed"`` leaves them as they are.
    batch_size : int
        Cells per mini-batch.
    """
    summary, start = GeneSummary(len(query.dataset), all_genes, genes), 0
    for batch in sequential_loader(query.dataset, batch_size):
        counts = batch.x.numpy()
        if library_size != "observed":
            counts = counts * (library_size / np.maximum(counts.sum(1, keepdims=True), 1))
        summary[start : start + len(counts)] = counts
        start += len(counts)
    return summary
