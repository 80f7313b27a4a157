"""Counts of an AnnData in memory."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from typing_extensions import override

from vaekit.data.cells.count_checks import REMEDY, canonical, check_dtype, check_structure, check_values, native_dtype
from vaekit.data.cells.count_dataset import CountDataset
from vaekit.data.cells.count_source import CountSource
from vaekit.data.cells.matrices import RAW, X, find_matrix
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse


class InMemoryCounts(CountSource):
    """Counts of an AnnData, in any format and numeric type; the AnnData is not changed.

    Parameters
    ----------
    adata, name, storage
        As for :class:`CountSource`.
    layer : str or None
        Name or path of the matrix (:func:`vaekit.data.cells.matrices.find_matrix`).
    gene_name_key, optional_key : str or None, bool
        Column of ``.var`` (of ``.raw.var`` for "raw") with the names of the genes, and whether it may be missing; then,
        and for None, ``var_names`` are used.
    """

    in_memory = True

    def __init__(
        self,
        adata: AnnData,
        name: str,
        layer: str | None = None,
        gene_name_key: str | None = None,
        optional_key: bool = False,
        storage: str = "in memory",
    ) -> None:
        matrices = [X, *(f"/layers/{key}" for key in adata.layers), *([] if adata.raw is None else [RAW])]
        matrix = find_matrix(layer, list(adata.layers), adata.raw is not None, name)
        var = adata.raw.var if matrix == RAW else adata.var
        if optional_key and gene_name_key not in var.columns:
            gene_name_key = None
        self.storage = storage
        super().__init__(name, matrix, adata, var, gene_name_key, matrices)

    @override
    def _read(self, index: np.ndarray) -> sparse.csr_matrix:
        return self._counts[index]

    @override
    def _other_matrix(self, matrix: str) -> InMemoryCounts:
        other = InMemoryCounts(self.adata, self.name, matrix)
        other._matrices = ()
        return other

    @override
    def dataset(self, ordered: bool = False, **columns: Tensor | None) -> CountDataset:
        counts = self._counts if self._selection is None else self._selection.take(self._counts)
        return CountDataset(counts, **columns)

    @cached_property
    def _counts(self) -> sparse.csr_matrix:
        """A canonical float32 copy of all counts, read and checked at the first access."""
        from scipy import sparse

        if self.adata.is_view and self.matrix != RAW:
            # Reading a view indexes the whole matrix, in compiled loops that do not check it.
            check_structure(self._matrix_of(self.adata._adata_ref), self.where)
        matrix = load_matrix(self._matrix_of(self.adata), self.where)
        shape = (self.adata.n_obs, len(self.all_genes))
        check_dtype(matrix.dtype, self.where)
        if matrix.shape != shape:
            raise DataError(
                f"{self.where} has shape {matrix.shape}, but there are {shape[0]} cells and {shape[1]} genes. {REMEDY}"
            )
        check_structure(matrix, self.where)
        if (dtype := native_dtype(matrix.dtype)) != matrix.dtype:
            matrix = matrix.astype(dtype)
        if getattr(matrix, "format", "") in ("csr", "csc"):  # created again: its flags may be wrong
            form = sparse.csr_matrix if matrix.format == "csr" else sparse.csc_matrix
            matrix = form((matrix.data, matrix.indices, matrix.indptr), shape)
        counts = canonical(sparse.csr_matrix(matrix, copy=True))
        rounding = self.rounding, self.rounding_remedy
        counts = check_values(counts, self.where, self.adata.obs_names, self.all_genes, 0, *rounding)
        return counts.astype(np.float32)

    def _matrix_of(self, adata: AnnData) -> Any:
        if self.matrix == RAW:
            return adata.raw.X
        if self.matrix != X:
            return adata.layers[self.matrix.removeprefix("/layers/")]
        if adata.X is None:
            raise DataError(f"{self.name} has no .X.")
        return adata.X


def load_matrix(matrix: Any, where: str) -> Any:
    """Return a sparse matrix or array for a matrix that may be lazy, on disk, or masked, if no value is masked."""
    from scipy import sparse

    for method in ("compute", "to_memory"):  # of dask arrays, and of anndata's sparse matrices on disk
        if callable(load := getattr(matrix, method, None)):
            try:
                matrix = load()
            except Exception as error:  # the program that created the matrix raises errors of any type
                raise DataError(
                    f"{where} is a {type(matrix).__name__} that cannot be read into memory "
                    f"({type(error).__name__}: {' '.join(str(error).split())})."
                ) from error
    if np.ma.is_masked(matrix):
        raise DataError(f"{where} has {np.ma.count_masked(matrix)} masked values. Fill them in, for example with 0.")
    return matrix if sparse.issparse(matrix) else np.asarray(matrix)
