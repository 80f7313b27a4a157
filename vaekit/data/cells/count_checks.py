"""Checks of count matrices: their values are counts, and their index arrays point to rows and columns that exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

MAX_EXACT = 2**24  # whole numbers up to here are exact in float32; beyond it only some are
MAX_LOG = 30  # a logarithm of counts cannot be larger: exp(30) is 10 trillion reads
REMEDY = "The matrix is damaged: compute it again, or copy its file again."


def check_dtype(dtype: np.dtype, where: str) -> None:
    """Raise a DataError if values are not real numbers."""
    if dtype.kind not in "buif":
        raise DataError(f"{where}: values of type {dtype} are not numbers.")


def native_dtype(dtype: np.dtype) -> Any:
    """Return the type in which values are read: scipy rejects float16 and foreign byte orders, numpy negative bools."""
    return np.float32 if dtype in (np.bool_, np.float16) else dtype.newbyteorder("=")


def canonical(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return counts sorted, without stored zeros, with duplicate entries summed; ``counts`` may be changed."""
    if not counts.has_canonical_format and counts.dtype.kind in "iu":
        counts = counts.astype(np.int64)  # sums of small integers would overflow
    counts.sum_duplicates()
    counts.eliminate_zeros()  # NaN stays
    return counts


def check_values(
    counts: sparse.csr_matrix, where: str, cells: Sequence[str], genes: Sequence[str], first_row: int = 0
) -> None:
    """Check that stored values are counts: finite, not negative, whole and exact in float32.

    Parameters
    ----------
    counts : csr_matrix, shape (cells, genes)
        Values of any numeric type.
    where : str
        Name of the matrix in messages.
    cells, genes : sequence of str
        Names of the rows and columns.
    first_row : int
        Index of the first row in the whole matrix.

    Raises
    ------
    DataError
        If a value is not a count; the message names the first one and the transformation that the values suggest.
    """
    data = counts.data
    whole = data.dtype.kind in "bui"
    if not len(data) or (data.min() >= 0 and data.max() <= MAX_EXACT and (whole or (data == np.rint(data)).all())):
        return
    problems = {
        "NaN": np.isnan(data),
        "infinite": np.isinf(data),
        "negative": data < 0,
        "not whole": np.zeros_like(data, dtype=bool) if whole else data != np.rint(data),
        "too large to be exact in float32": _inexact(data),
    }
    for problem, invalid in problems.items():
        if not invalid.any():
            continue
        first = int(np.argmax(invalid))
        row = int(np.searchsorted(counts.indptr, first, side="right")) - 1
        values = "one value is" if invalid.sum() == 1 else f"{int(invalid.sum())} values are"
        raise DataError(
            f"{where} must hold counts: {values} {problem}, the first {data[first]:.8g} in cell {str(cells[row])!r} "
            f"(row {first_row + row}), gene {str(genes[counts.indices[first]])!r}{_resemblance(counts, problem)}."
        )


def _inexact(data: np.ndarray) -> np.ndarray:
    """Return the mask of values that float32 rounds."""
    inexact = data > MAX_EXACT
    with np.errstate(over="ignore"):  # few values are this large, so that Python may compare them
        inexact[inexact] = [float(np.float32(value)) != value for value in data[inexact].tolist()]
    return inexact


def _resemblance(counts: sparse.csr_matrix, problem: str) -> str:
    """Return the end of a message: the transformation of counts that the values suggest."""
    if problem == "negative" and counts.dtype.kind != "i":
        return "; they look scaled or batch-corrected"
    if problem != "not whole":
        return ""
    if _is_log(counts.data, np.exp2):
        return "; they look log2-transformed: log2(1 + counts). Rounding numpy.exp2(x) - 1 gives the counts"
    if _is_log(counts.data, np.exp):
        return "; they look log-transformed: log(1 + counts). Rounding numpy.expm1(x) gives the counts"
    if (num_whole := int((counts.data == np.rint(counts.data)).sum())) > 0.1 * counts.nnz:
        return f"; {num_whole} other values are whole. Round them if these are estimated counts"
    if counts.data.max() > MAX_LOG:
        return "; they look normalized, or averaged"
    totals = np.asarray(counts.astype(np.float64).expm1().sum(axis=1))
    totals = totals[totals > 0]
    if np.ptp(totals) < 0.01 * totals.mean():
        return f"; they look log-normalized: log1p of counts scaled to {totals.mean():.4g} per cell"
    return f"; they look log-normalized (largest value {counts.data.max():.3g})"


def _is_log(data: np.ndarray, power: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Return whether all values are logarithms of 1 + a whole number, within the precision of float32."""
    if data.max() > MAX_LOG:
        return False
    values = power(data.astype(np.float64))
    return bool(np.allclose(values, np.rint(values), rtol=1e-6, atol=1e-5))


def check_structure(matrix: Any, where: str) -> None:
    """Check that a CSR, CSC or COO matrix points to values, rows and columns that exist.

    Compiled loops follow these indices without bounds checks. Unsorted rows, duplicate entries and values behind the
    last row are allowed.

    Parameters
    ----------
    matrix : sparse matrix, shape (cells, genes)
        Matrix to check; other formats and dense arrays are not checked.
    where : str
        Name of the matrix in messages.

    Raises
    ------
    DataError
        If the matrix is damaged.
    """
    form = getattr(matrix, "format", "")
    if form not in ("csr", "csc", "coo"):
        return
    check_dtype(matrix.data.dtype, where)
    num_values = len(matrix.data)
    cells, genes = (matrix.shape[0], "cells"), (matrix.shape[1], "genes")
    if matrix.data.ndim != 1:
        raise damaged(where, f"data has {matrix.data.ndim} dimensions", form)
    if form == "coo":
        arrays = [(*entry, num_values) for entry in zip(("row", "col"), matrix.coords, (cells, genes), strict=True)]
    else:
        lines, across = (cells, genes) if form == "csr" else (genes, cells)
        check_indptr(matrix.indptr, *lines, num_values, where, form)
        arrays = [("indices", matrix.indices, across, num_values)]
    for name, indices, (size, unit), length in arrays:
        check_indices(indices, size, unit, where, name)
        if len(indices) != length:
            raise damaged(where, f"it has {length} values and {len(indices)} {name}", form)


def check_indptr(indptr: np.ndarray, num_lines: int, unit: str, num_values: int, where: str, form: str = "csr") -> None:
    """Check the starts of the rows of a CSR matrix, or of the columns of a CSC matrix: they never decrease.

    Parameters
    ----------
    indptr : ndarray, shape (num_lines + 1,)
        Starts of the lines, and the end of the last one.
    num_lines, unit : int, str
        Number of rows or columns, and their name in messages.
    num_values : int
        Number of stored values.
    where, form : str
        Name and format of the matrix in messages.

    Raises
    ------
    DataError
        If the array has another type or length, or a start is impossible.
    """
    _check_integers(indptr, "indptr", where)
    if len(indptr) != num_lines + 1:
        raise damaged(where, f"indptr has {len(indptr)} entries, but {num_lines} {unit} need {num_lines + 1}", form)
    if indptr[0] != 0:
        raise damaged(where, f"indptr[0]={indptr[0]} must be 0", form)
    if indptr.max() > num_values:  # checked first: later entries seem to decrease
        first = int(np.argmax(indptr > num_values))
        raise damaged(where, f"indptr[{first}]={indptr[first]} exceeds the {num_values} stored values", form)
    if (decreases := indptr[1:] < indptr[:-1]).any():  # differences of unsigned integers would not be negative
        first = int(np.argmax(decreases)) + 1
        raise damaged(where, f"indptr[{first}]={indptr[first]} is less than {indptr[first - 1]} before it", form)


def check_indices(indices: np.ndarray, size: int, unit: str, where: str, name: str, offset: int = 0) -> None:
    """Check that row or column indices exist.

    Parameters
    ----------
    indices : ndarray, shape (entries,)
        Indices of a matrix, or a part of them.
    size, unit : int, str
        Number of rows or columns, and their name in messages.
    where, name : str
        Name of the matrix and of the array in messages.
    offset : int
        Position of the first index in the whole array.

    Raises
    ------
    DataError
        If the array has another type, or an index does not exist.
    """
    _check_integers(indices, name, where)
    if len(indices) and (indices.min() < 0 or indices.max() >= size):
        first = int(np.argmax((indices < 0) | (indices >= size)))
        raise DataError(
            f"{where}: {name}[{offset + first}]={indices[first]} must lie in 0..{size - 1}: there are counts of {unit} "
            f"that do not exist. {REMEDY}"
        )


def check_all(adata: AnnData, source: str) -> None:
    """Check every sparse matrix of an AnnData before anndata concatenates them.

    Raises
    ------
    DataError
        If a matrix is damaged.
    """
    matrices = {".X": adata.X, **({} if adata.raw is None else {".raw.X": adata.raw.X})}
    for name in ("layers", "obsm", "varm", "obsp", "varp"):
        matrices |= {f".{name}[{key!r}]": value for key, value in getattr(adata, name).items()}
    for name, matrix in matrices.items():
        check_structure(matrix, f"{source}, {name}")


def damaged(where: str, problem: str, form: str = "csr") -> DataError:
    """Return the error for a sparse matrix that is not consistent."""
    return DataError(f"{where} is not a complete {form.upper()} matrix: {problem}. {REMEDY}")


def _check_integers(indices: np.ndarray, name: str, where: str) -> None:
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise DataError(
            f"{where}: {name} has {indices.ndim} dimensions and type {indices.dtype}, but must be a list of integers. "
            f"{REMEDY}"
        )
