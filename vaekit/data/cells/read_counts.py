"""UMI counts from an AnnData: read, checked, and brought into one form."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data.cells.matrices import RAW, X, counts_are_there, matrix_of_adata
from vaekit.data.cells.structure import REMEDY, check_structure
from vaekit.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

# Whole numbers up to here are exact in float32, beyond it only some are.
FLOAT32_EXACT = 2**24
LARGEST_LOG = 30  # exp(30) reads in a cell: no logarithm


def read_counts(
    adata: AnnData, layer: str | None, source: str, gene_name_key: str | None = None
) -> tuple[sparse.csr_matrix, list[str]]:
    """Read the counts of one layer and the names of its genes.

    Parameters
    ----------
    adata
        Cells; it is not changed.
    layer
        Name or path of a matrix (:func:`vaekit.data.cells.matrices.find_matrix`);
        CSR, CSC or dense, of any numeric type.
    source
        What to call the data in messages.
    gene_name_key
        Column of ``.var`` (of ``.raw.var`` for "raw") with the names of the genes; None for ``var_names``.

    Returns
    -------
    counts
        CSR float32 ``[cells, genes]``, a copy, sorted, without stored zeros.
    genes
        Names of the columns.

    Raises
    ------
    DataError
        If there is no such layer, there are no cells or no genes, gene names are missing or occur twice, or the
        values are not counts: not numeric, NaN, infinite, negative, not whole, or beyond what float32 holds exactly;
        or if a sparse matrix points to values or genes that it has not.
    """
    layer = matrix_of_adata(adata, layer, source)
    place, matrix, table = _select(adata, layer, source)
    genes = gene_names_of(table, gene_name_key, source)
    if adata.n_obs == 0 or not genes:
        raise DataError(f"{source} has {adata.n_obs} cells and {len(genes)} genes in {place}: nothing to model")
    check_gene_names(genes, f"{source}, {place}", gene_name_key)
    where = f"{source}, {place}"
    try:
        counts = _as_csr(matrix, where, (adata.n_obs, len(genes)))
        check_values(counts, where, adata.obs_names, genes)
    except DataError as error:
        raise DataError(f"{error}; {_count_layers(adata, layer)}") from None
    return counts.astype(np.float32), genes


def warn_empty(num_empty: int, num_cells: int, source: str, names: Sequence[str] = ()) -> None:
    """Warn once of cells without any count; they stay in the data.

    Parameters
    ----------
    num_empty, num_cells
        Number of these cells, and of all.
    source
        Name of the data in messages.
    names
        Names of these cells.

    Raises
    ------
    DataError
        If no cell has a count.
    """
    if not num_empty:
        return
    listed = f" ({', '.join(names[:3])}{', ...' if num_empty > 3 else ''})" if len(names) else ""
    if num_empty == num_cells:
        raise DataError(
            f"{source}: none of the {num_cells} cells{listed} has counts in the modelled genes. Check the layer and "
            "the names of the genes; scanpy.pp.filter_cells(adata, min_counts=1) removes cells without counts."
        )
    warnings.warn(
        f"{source}: {num_empty} of {num_cells} cells have no counts in the modelled genes{listed}; they are kept, with "
        "size factor 1. scanpy.pp.filter_cells(adata, min_counts=1) removes cells without any count.",
        UserWarning,
        stacklevel=2,
    )


def _select(adata: AnnData, layer: str | None, source: str) -> tuple[str, Any, pd.DataFrame]:
    """Return what to call a matrix in messages, the matrix, and the table of its genes."""
    path = matrix_of_adata(adata, layer, source)
    if adata.is_view and path != RAW:
        # To look at a view is to choose rows and columns of the whole, in loops that trust it.
        place, whole, _ = _select(adata._adata_ref, path, source)
        _check_sparse(whole, f"{source}, {place}")
    if path == RAW:
        return ".raw.X", adata.raw.X, adata.raw.var
    if path == X:
        if adata.X is None:
            raise DataError(f"{source} has no .X; {_count_layers(adata, X)}")
        return ".X", adata.X, adata.var
    name = path.removeprefix("/layers/")
    return f".layers[{name!r}]", adata.layers[name], adata.var


def check_gene_names(genes: list[str], where: str, gene_name_key: str | None) -> None:
    """Check that no two genes have one name.

    Raises
    ------
    DataError
        If two have.
    """
    if len(set(genes)) < len(genes):
        twice = [name for name, times in Counter(genes).items() if times > 1]
        column = "" if gene_name_key is None else f" (gene_name_key={gene_name_key!r})"
        help_ = (
            "adata.var_names_make_unique() makes them differ" if gene_name_key is None else "another column may differ"
        )
        number = f"1 gene name{column} occurs" if len(twice) == 1 else f"{len(twice)} gene names{column} occur"
        raise DataError(f"{where}: {number} more than once, such as {', '.join(twice[:5])}; {help_}")


def gene_names_of(var: pd.DataFrame, key: str | None, source: str) -> list[str]:
    """Return the genes' names from a column of the genes' table, or from its index.

    Raises
    ------
    DataError
        If there is no such column, or names are missing.
    """
    if key is None:
        if missing := int(var.index.isna().sum()):
            raise DataError(
                f"{source}: {missing} of {len(var)} genes have no name in .var_names (NaN), the first is gene "
                f"{int(np.argmax(var.index.isna()))} (counted from 0). Name them, or remove these genes."
            )
        return [str(name) for name in var.index]
    if key not in var.columns:
        raise DataError(
            f"gene_name_key={key!r}: {source} has no such column in .var. {did_you_mean(key, map(str, var.columns))} "
            "Omit gene_name_key to use var_names."
        )
    if missing := int(var[key].isna().sum()):
        first = str(var.index[int(np.argmax(var[key].isna()))])
        raise DataError(
            f"gene_name_key={key!r}: {missing} of {len(var)} genes of {source} have no name (NaN), "
            f"the first {first!r}; fill them in, or leave these genes out"
        )
    return [str(name) for name in var[key]]


def _check_sparse(matrix: Any, where: str) -> None:
    from scipy import sparse

    if sparse.issparse(matrix):
        check_structure(matrix, where)


def _as_csr(matrix: Any, where: str, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Return a CSR copy with the values' own precision, of a matrix that may be damaged."""
    from scipy import sparse

    matrix = in_memory(matrix, where)
    if matrix.dtype.kind not in "buif":
        raise DataError(f"{where}: the values are of type {matrix.dtype}, not numbers")
    if matrix.shape != shape:
        raise DataError(
            f"{where} is of shape {matrix.shape}, and there are {shape[0]} cells, {shape[1]} genes; {REMEDY}"
        )
    _check_sparse(matrix, where)
    # scipy has no sparse float16 and no foreign order of bytes, numpy no negative bool
    kind = np.float32 if matrix.dtype in (np.bool_, np.float16) else matrix.dtype.newbyteorder("=")
    if kind != matrix.dtype:
        matrix = matrix.astype(kind)
    if sparse.issparse(matrix) and matrix.format in ("csr", "csc"):  # made anew: what it says of itself may be wrong
        made = sparse.csr_matrix if matrix.format == "csr" else sparse.csc_matrix
        matrix = made((matrix.data, matrix.indices, matrix.indptr), shape)
    return canonical(sparse.csr_matrix(matrix, copy=True))


def in_memory(matrix: Any, where: str) -> Any:
    """Return a sparse matrix or an array of a matrix that may be lazy, on disk, or masked.

    Raises
    ------
    DataError
        If a lazy matrix cannot be computed, or values are masked.
    """
    from scipy import sparse

    for method in ("compute", "to_memory"):  # of dask arrays, and of anndata's sparse matrices on disk
        if callable(load := getattr(matrix, method, None)):
            try:
                matrix = load()
            except Exception as error:  # of the program that made it
                raise DataError(
                    f"{where} is a {type(matrix).__name__} that cannot be read into memory "
                    f"({type(error).__name__}: {' '.join(str(error).split())})"
                ) from error
    if np.ma.is_masked(matrix):
        raise DataError(f"{where} has {np.ma.count_masked(matrix)} masked values; fill them in, for example with 0.")
    return matrix if sparse.issparse(matrix) else np.asarray(matrix)


def canonical(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return counts sorted, without stored zeros, with values that are given twice summed; it may change ``counts``."""
    if not counts.has_canonical_format and counts.dtype.kind in "iu":
        counts = counts.astype(np.int64)  # sums of small integers would overflow
    counts.sum_duplicates()
    counts.eliminate_zeros()  # NaN stays
    return counts


def check_values(counts: sparse.csr_matrix, where: str, cells: Any, genes: list[str], first_row: int = 0) -> None:
    """Check that stored values are counts: numbers, finite, not negative, whole, exact in float32.

    Parameters
    ----------
    counts
        CSR ``[cells, genes]``.
    where, cells, genes
        What to call the data, the cells and the genes in messages.
    first_row
        Number of the first cell.

    Raises
    ------
    DataError
        If not.
    """
    data = counts.data
    if data.dtype.kind not in "buif":
        raise DataError(f"{where}: the values are of type {data.dtype}, not numbers")
    whole = data.dtype.kind in "ui"
    checks = (
        ("NaN", lambda: np.isnan(data), whole),
        ("infinite", lambda: np.isinf(data), whole),
        ("negative", lambda: data < 0, data.dtype.kind == "u"),
        ("not whole", lambda: data != np.rint(data), whole),
        ("too large to be exact in float32", lambda: _inexact(data), False),
    )
    for problem, find, impossible in checks:
        if impossible or not (bad := find()).any():
            continue
        first = int(np.argmax(bad))
        row = int(np.searchsorted(counts.indptr, first, side="right")) - 1
        gene = genes[counts.indices[first]]
        number = "one value is" if bad.sum() == 1 else f"{int(bad.sum())} values are"
        raise DataError(
            f"{where}: counts are needed, and {number} {problem}, the first {data[first]:.8g} in cell "
            f"{str(cells[row])!r} (row {first_row + row}), gene {gene!r}{_resemblance(counts, problem)}"
        )


def _inexact(data: np.ndarray) -> np.ndarray:
    bad = data > FLOAT32_EXACT
    if bad.any():  # rare, so that the exact comparison by Python's numbers is no burden
        with np.errstate(over="ignore"):
            bad[bad] = [float(np.float32(value)) != value for value in data[bad].tolist()]
    return bad


def _resemblance(counts: sparse.csr_matrix, problem: str) -> str:
    """Say what values that are not counts look like."""
    if problem == "negative":
        return "" if counts.dtype.kind == "i" else "; they look scaled or batch-corrected"
    if problem != "not whole":
        return ""
    if _whole(counts.data, np.exp2):
        return "; they look log2-transformed: log2(1 + counts), of which numpy.exp2(x) - 1, rounded, gives the counts"
    if _whole(counts.data, np.exp):
        return "; they look log-transformed: log(1 + counts), of which numpy.expm1(x), rounded, gives the counts"
    if (num_whole := int((counts.data == np.rint(counts.data)).sum())) > 0.1 * counts.nnz:
        return f"; {num_whole} other values are whole: are these estimated counts, to be rounded?"
    if counts.data.max() > LARGEST_LOG:
        return "; they look normalised, or averaged"
    totals = np.asarray(counts.astype(np.float64).expm1().sum(axis=1))
    totals = totals[totals > 0]
    if np.ptp(totals) < 0.01 * totals.mean():
        return f"; they look log-normalised: log1p of counts scaled to {totals.mean():.4g} a cell"
    return f"; they look log-normalised (largest value {counts.data.max():.3g})"


def _whole(data: np.ndarray, power: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Return whether all values are logarithms of 1 + a whole number, as far as float32 can tell."""
    if data.max() > LARGEST_LOG:
        return False
    values = power(data.astype(np.float64))
    return bool(np.allclose(values, np.rint(values), rtol=1e-6, atol=1e-5))


def _count_layers(adata: AnnData, asked: str) -> str:
    """Return how to get at the matrices that do hold counts."""
    places = [X, *(f"/layers/{name}" for name in adata.layers), *([] if adata.raw is None else [RAW])]
    found = [path for path in places if path != asked and _holds_counts(adata, path)]
    return counts_are_there(found, adata.layers) if found else "neither .X nor .raw nor any layer holds counts"


def _holds_counts(adata: AnnData, path: str) -> bool:
    whole = adata._adata_ref if adata.is_view else adata  # to look at a view is to cut it out
    if path == X and whole.X is None:
        return False
    try:
        _, matrix, table = _select(adata, path, "")
        genes = gene_names_of(table, None, "")
        check_values(_as_csr(matrix, "", (adata.n_obs, len(genes))), "", adata.obs_names, genes)
    except DataError:
        return False
    return True
