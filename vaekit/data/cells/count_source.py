"""The one source of cells: counts with the tables of their cells and genes, in memory or in files."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from vaekit._core import memory_budget
from vaekit.data.cells.estimated_counts import QUERY_REMEDY, Rounding
from vaekit.data.cells.genes import GeneSelection, check_unique, gene_names
from vaekit.data.cells.matrices import X, layer_name, matrix_attribute
from vaekit.data.fingerprint import fingerprint
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    from vaekit.data.cells.count_dataset import CellDataset


class CountStatistics(NamedTuple):
    """Statistics of the selected genes.

    Attributes
    ----------
    totals : ndarray, shape (cells,)
        Total count of each cell, float64.
    mean, mean_log1p : ndarray, shape (genes,)
        Means of the counts and of ``log1p(count)`` over some cells, float64.
    """

    totals: np.ndarray
    mean: np.ndarray
    mean_log1p: np.ndarray


class CountSource(ABC):
    """Counts of cells and the tables that belong to them. Creating a source does not read its counts.

    Parameters
    ----------
    name : str
        Name of the data in messages.
    matrix : str
        Path of the counts, such as "/layers/counts".
    adata : AnnData
        Tables of the cells and genes; a source in memory has the counts in it.
    var : DataFrame
        Table of the genes of this matrix, ``.var`` or ``.raw.var``.
    gene_name_key : str or None
        Column of ``var`` with the names of the genes; None means its index.
    matrices : sequence of str
        Paths of all matrices of the data. Messages name those that hold counts.

    Attributes
    ----------
    genes : list of str
        Names of the columns of :meth:`rows`.
    in_memory : bool
        Whether ``adata`` holds the counts.
    storage : str
        Where the counts are, for people.
    rounding : Rounding or None
        Rounding of estimated counts; None rejects values that are not whole.

    Raises
    ------
    DataError
        If there are no cells or genes, or gene names are missing or not unique.

    Examples
    --------
    >>> import vaekit
    >>> source = vaekit.data.open_counts(adata)
    >>> len(source), source.genes[:2], source.rows([0, 1]).shape
    (300, ['gene0', 'gene1'], (2, 60))
    """

    in_memory: ClassVar[bool]
    storage: str
    rounding: Rounding | None = None
    rounding_remedy = QUERY_REMEDY

    def __init__(
        self,
        name: str,
        matrix: str,
        adata: AnnData,
        var: pd.DataFrame,
        gene_name_key: str | None,
        matrices: Sequence[str],
    ) -> None:
        self.name, self.matrix, self.adata, self.var = name, matrix, adata, var
        self.where = f"{name}, {matrix_attribute(matrix)}"
        self.all_genes = self.genes = gene_names(var, gene_name_key, name)
        self._matrices = matrices
        self._selection: GeneSelection | None = None
        if not len(self) or not self.genes:
            raise DataError(f"{self.where} has {len(self)} cells and {len(self.genes)} genes; both are needed.")
        check_unique(self.genes, self.where, gene_name_key)

    @property
    def obs(self) -> pd.DataFrame:
        """Table of the cells."""
        return self.adata.obs

    def __len__(self) -> int:
        return self.adata.n_obs

    @abstractmethod
    def _read(self, index: np.ndarray) -> sparse.csr_matrix:
        """Return the counts of some cells over ``all_genes``: float32, canonical and checked."""

    @abstractmethod
    def _other_matrix(self, matrix: str) -> CountSource:
        """Return the source of another matrix of the same data."""

    @abstractmethod
    def dataset(self, ordered: bool = False, **columns: Tensor | None) -> CellDataset:
        """Return the data set of all cells and the selected genes.

        Parameters
        ----------
        ordered : bool
            Whether mini-batches are read in the order of the source, so that one chunk of cells at a time suffices.
        **columns : Tensor or None
            Covariates, label, size_factor and observed, as for
            :class:`~vaekit.data.cells.count_dataset.CellDataset`.
        """

    def select_genes(self, genes: Sequence[str], names: Sequence[str] | None = None) -> CountSource:
        """Return this source with other columns; genes that it lacks have counts of 0.

        Parameters
        ----------
        genes : sequence of str
            Genes to select, in order.
        names : sequence of str or None
            Other names of ``all_genes``; None keeps their names.
        """
        selected = copy.copy(self)
        selected.genes = list(genes)
        selected._selection = GeneSelection.by_name(self.all_genes if names is None else names, genes)
        return selected

    def round_counts(self, is_rounded: bool, remedy: str = QUERY_REMEDY) -> CountSource:
        """Return this source, which has not been read yet, with or without rounding of estimated counts.

        Parameters
        ----------
        is_rounded : bool
            Whether estimated counts are rounded, or rejected.
        remedy : str
            Last sentence of the error for values that could be rounded.
        """
        result = copy.copy(self)
        result.rounding, result.rounding_remedy = Rounding() if is_rounded else None, remedy
        return result

    def warn_rounded(self) -> None:
        """Warn that values were rounded, after all cells have been read in order."""
        if self.rounding is not None and (note := self.rounding.note()):
            warnings.warn(f"{self.where}: {note}", UserWarning, stacklevel=3)

    def rows(self, index: np.ndarray) -> sparse.csr_matrix:
        """Return the counts of some cells, CSR float32 ``[cells, genes]``, sorted, without stored zeros.

        Raises
        ------
        DataError
            If the matrix is damaged, exceeds the free memory, or its values are not counts.
        """
        counts = self._read(index)
        return counts if self._selection is None else self._selection.take(counts)

    def chunks(self, title: str) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield the index of the first cell and the counts of each chunk of cells, with a progress bar.

        Raises
        ------
        DataError
            As :meth:`rows`; the message names the matrices that do hold counts.
        """
        from tqdm import tqdm

        step = memory_budget.CHUNK_CELLS
        with tqdm(total=len(self), desc=title, unit="cells", delay=1) as bar:
            for start in range(0, len(self), step):
                stop = min(start + step, len(self))
                try:
                    counts = self.rows(np.arange(start, stop))
                except DataError as error:
                    raise DataError(f"{error}{self._hint()}") from error
                yield start, counts
                bar.update(stop - start)

    def _hint(self) -> str:
        """Return the sentence that names the matrices that hold counts; "" while a hint is computed."""
        if not self._matrices:
            return ""
        layers = [path.removeprefix("/layers/") for path in self._matrices if path.startswith("/layers/")]
        valid = [path for path in self._matrices if path != self.matrix and self._holds_counts(path)]
        if not valid:
            return " No other matrix of these cells can be read as counts."
        remedies = ["omit layer (.X)" if path == X else f"pass layer={layer_name(path, layers)!r}" for path in valid]
        return f" Counts are available: {' or '.join(remedies)}."

    def _holds_counts(self, matrix: str) -> bool:
        try:
            for _ in self._other_matrix(matrix).chunks("looking for counts"):
                pass
        except DataError:
            return False
        return True

    def fingerprint(self, sample: np.ndarray | None = None) -> tuple[str, sparse.csr_matrix | None]:
        """Return a hash of all counts and names, and the counts of the cells with the sorted indices ``sample``."""
        from scipy import sparse

        parts, sample = [], np.empty(0, dtype=np.int64) if sample is None else sample

        def arrays() -> Iterator[np.ndarray]:
            for start, counts in self.chunks("reading counts"):
                begin, end = np.searchsorted(sample, [start, start + counts.shape[0]])
                if begin < end:
                    parts.append(counts[sample[begin:end] - start])
                yield from (counts.data, counts.indices, counts.indptr)

        identity = fingerprint(arrays(), [self.genes, map(str, self.obs.index)])
        return identity, sparse.vstack(parts, format="csr") if parts else None

    def totals(self) -> np.ndarray:
        """Return the total count of each cell over the selected genes, float64 ``[cells]``."""
        parts = [counts.sum(axis=1, dtype=np.float64) for _, counts in self.chunks("reading counts")]
        return np.concatenate([np.asarray(part).ravel() for part in parts])

    def statistics(self, cells: np.ndarray) -> CountStatistics:
        """Return the totals of all cells, and means over the cells with the given sorted indices."""
        totals, sums = np.empty(len(self)), np.zeros((2, len(self.genes)))
        for start, counts in self.chunks("summing counts"):
            stop = start + counts.shape[0]
            totals[start:stop] = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
            begin, end = np.searchsorted(cells, [start, stop])
            part = counts[cells[begin:end] - start]
            for row, values in enumerate((part.data, np.log1p(part.data))):
                sums[row] += np.bincount(part.indices, values, len(self.genes))
        return CountStatistics(totals, *(sums / len(cells)))
