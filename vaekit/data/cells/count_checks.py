"""Checks of count matrices: their values are counts, and their index arrays point to rows and columns that exist."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data.cells.estimated_counts import QUERY_REMEDY, Rounding, recognize
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

MAX_EXACT = 2**24  # whole numbers up to here are exact in float32; beyond it only some are
REMEDY = "The matrix is damaged: compute it again, or copy its file again."


def check_dtype(dtype: np.dtype, where: str) -> None:
    """Raise a DataError if values are not real numbers."""
    if dtype.kind not in "buif":
        raise DataError(f"{where}: values of type {dtype} are not numbers.")


def native_dtype(dtype: np.dtype) -> Any:
    """Return the type in which to read values; scipy rejects float16 and foreign byte orders, and numpy ``-bool``."""
    return np.float32 if dtype in (np.bool_, np.float16) else dtype.newbyteorder("=")


def canonical(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return counts sorted, without stored zeros, with duplicate entries summed; ``counts`` may be changed."""
    if not counts.has_canonical_format and counts.dtype.kind in "iu":
        counts = counts.astype(np.int64)  # sums of small integers would overflow
    counts.sum_duplicates()
    counts.eliminate_zeros()  # NaN stays
    return counts


def single_precision(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return counts as float32 if that is exact, else as float64."""
    single = counts.astype(np.float32)
    return single if np.array_equal(single.data, counts.data, equal_nan=True) else counts.astype(np.float64)


def check_values(
    counts: sparse.csr_matrix,
    where: str,
    cells: Sequence[str],
    genes: Sequence[str],
    first_row: int = 0,
    rounding: Rounding | None = None,
    remedy: str = QUERY_REMEDY,
) -> sparse.csr_matrix:
    """Return counts, rounded if ``rounding`` is given.

    Parameters
    ----------
    counts : csr_matrix
        Canonical matrix.
    where : str
        Name of the matrix in messages.
    cells, genes : sequence of str
        Names of the rows and columns.
    first_row : int
        Index of the first row in the whole matrix.
    rounding : Rounding or None
        Rounding of estimated counts; None rejects values that are not whole.
    remedy : str
        Sentence for values that can be rounded.

    Raises
    ------
    DataError
        If a stored value is not a count: finite, not negative, whole (unless it is an estimate that can be rounded) and
        exact in float32. The message names the first such value, the likely origin of the values, and a remedy.
    """
    data = counts.data
    is_whole = data.dtype.kind in "bui"
    if not len(data) or (data.min() >= 0 and data.max() <= MAX_EXACT and (is_whole or (data == np.rint(data)).all())):
        return counts if rounding is None else rounding.round(counts, first_row)
    problems = {
        "NaN": np.isnan(data),
        "infinite": np.isinf(data),
        "negative": data < 0,
        "not whole": np.zeros_like(data, dtype=bool) if is_whole else data != np.rint(data),
        "too large to be exact in float32": _inexact(data),
    }
    for problem, invalid in problems.items():
        if not invalid.any():
            continue
        end = "; they look scaled or batch-corrected" if problem == "negative" and data.dtype.kind == "f" else ""
        if problem == "not whole":
            end, is_transformed = recognize(counts, remedy)
            if rounding is not None and (not is_transformed or first_row + counts.shape[0] <= rounding.num_rows):
                return check_values(rounding.round(counts, first_row), where, cells, genes, first_row)
        first = int(np.argmax(invalid))
        row = int(np.searchsorted(counts.indptr, first, side="right")) - 1
        values = "one value is" if invalid.sum() == 1 else f"{int(invalid.sum())} values are"
        raise DataError(
            f"{where} must hold counts: {values} {problem}, the first {data[first]:.8g} in cell {str(cells[row])!r} "
            f"(row {first_row + row}), gene {str(genes[counts.indices[first]])!r}{end}".removesuffix(".")
            + "."
        )
    return counts if rounding is None else rounding.round(counts, first_row)  # large, but exact


def _inexact(data: np.ndarray) -> np.ndarray:
    """Return the mask of values that float32 rounds."""
    inexact = data > MAX_EXACT
    with np.errstate(over="ignore"):  # few values are this large, so that Python may compare them
        inexact[inexact] = [float(np.float32(value)) != value for value in data[inexact].tolist()]
    return inexact


def check_structure(matrix: Any, where: str) -> None:
    """Raise a DataError if a CSR, CSC or COO matrix points to values, rows or columns that do not exist.

    Compiled loops do not check this. Unsorted rows, duplicate entries and values behind the last row are allowed.
    """
    from scipy import sparse

    form = getattr(matrix, "format", "")
    if form not in ("csr", "csc", "coo"):
        return
    check_dtype(matrix.data.dtype, where)
    arrays = matrix.coords if form == "coo" else (matrix.indices, matrix.indptr)
    check_index_dtype(arrays, where, form)
    try:  # on a new matrix of the same arrays: the check removes values behind the last row
        if form == "coo":
            sparse.coo_matrix((matrix.data, arrays), matrix.shape)
        else:
            new = sparse.csr_matrix if form == "csr" else sparse.csc_matrix
            new((matrix.data, *arrays), matrix.shape).check_format(full_check=True)
    except (ValueError, OverflowError) as error:
        raise damaged(where, str(error), form) from None


def check_index_dtype(arrays: Iterable[np.ndarray], where: str, form: str = "csr") -> None:
    """Raise a DataError if index arrays are not lists of integers: scipy would round them."""
    for array in arrays:
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise damaged(where, f"indices of {array.ndim} dimensions and type {array.dtype} must be integers", form)


def check_all(adata: AnnData, source: str) -> None:
    """Raise a DataError if a sparse matrix of an AnnData is damaged, before anndata concatenates them."""
    matrices = {".X": adata.X, **({} if adata.raw is None else {".raw.X": adata.raw.X})}
    for name in ("layers", "obsm", "varm", "obsp", "varp"):
        matrices |= {f".{name}[{key!r}]": value for key, value in getattr(adata, name).items()}
    for name, matrix in matrices.items():
        check_structure(matrix, f"{source}, {name}")


def damaged(where: str, problem: str, form: str = "csr") -> DataError:
    """Return the error for a sparse matrix that is not consistent."""
    return DataError(f"{where} is not a complete {form.upper()} matrix: {problem}. {REMEDY}")
