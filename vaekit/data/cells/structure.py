"""Whether a sparse matrix is one: compiled loops follow its row starts and column numbers without looking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from anndata import AnnData

REMEDY = "the matrix is damaged: make it anew, or get its file again"


def check_structure(matrix: Any, where: str) -> None:
    """Check that a CSR, CSC or COO matrix points to values and columns that exist, in one pass over its numbers.

    Rows that are not sorted, values that are given twice and values behind the last row's are no fault.

    Parameters
    ----------
    matrix
        Sparse, ``[cells, genes]``; of other formats nothing is checked.
    where
        What to call it in messages.

    Raises
    ------
    DataError
        If it does not.
    """
    if matrix.format not in ("csr", "csc", "coo"):
        return
    values, form = matrix.data, matrix.format.upper()
    if values.dtype.kind not in "buif":
        raise DataError(f"{where}: the values are of type {values.dtype}, not numbers")
    if values.ndim != 1:
        raise _damaged(where, form, f"data is an array of {values.ndim} axes")
    cells, genes = (matrix.shape[0], "cells"), (matrix.shape[1], "genes")
    if form == "COO":
        for numbers, name, across in zip(matrix.coords, ("row", "col"), (cells, genes), strict=True):
            check_indices(numbers, *across, where, name)
            _check_length(numbers, len(values), name, where, form)
        return
    lines, across = (cells, genes) if form == "CSR" else (genes, cells)
    check_indptr(matrix.indptr, *lines, len(values), where, form)
    check_indices(matrix.indices, *across, where, "indices")
    _check_length(matrix.indices, len(values), "indices", where, form)


def check_indptr(starts: np.ndarray, lines: int, of: str, values: int, where: str, form: str = "CSR") -> None:
    """Check where the rows of a CSR matrix (the columns of a CSC matrix) start: ``lines + 1`` numbers that never fall.

    Parameters
    ----------
    starts
        The matrix's ``indptr``.
    lines, of
        Number of rows, and what to call them in messages.
    values
        Number of stored values.
    where, form
        What to call the matrix in messages.

    Raises
    ------
    DataError
        If they are not.
    """
    _check_whole(starts, "indptr", where)
    if len(starts) != lines + 1:
        raise _damaged(where, form, f"indptr has {len(starts)} numbers, and {lines} {of} need {lines + 1}")
    if starts[0] != 0:
        raise _damaged(where, form, f"indptr[0] is {starts[0]}, it must be 0")
    # One that is too large is found first: those after it seem to fall.
    if starts.max() > values:
        first = int(np.argmax(starts > values))
        raise _damaged(where, form, f"indptr[{first}] is {starts[first]}, and there are {values} values")
    if (fallen := starts[1:] < starts[:-1]).any():  # differences of unsigned numbers would not be negative
        first = int(np.argmax(fallen)) + 1
        raise _damaged(where, form, f"indptr[{first}] is {starts[first]}, less than {starts[first - 1]} before it")


def check_indices(numbers: np.ndarray, size: int, of: str, where: str, name: str, first: int = 0) -> None:
    """Check that the numbers of rows or columns exist.

    Parameters
    ----------
    numbers
        The matrix's ``indices``, or a part of them.
    size, of
        How many there are, and what to call them in messages.
    where, name
        What to call the matrix and the numbers in messages.
    first
        The place of the first one in the whole matrix.

    Raises
    ------
    DataError
        If one does not.
    """
    _check_whole(numbers, name, where)
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= size):
        bad = int(np.argmax((numbers < 0) | (numbers >= size)))
        raise DataError(
            f"{where}: {name}[{first + bad}] is {numbers[bad]}, and there are {size} {of}, numbered from 0 on: it has "
            f"counts of {of} that do not exist; {REMEDY}"
        )


def check_all(adata: AnnData, source: str) -> None:
    """Check every sparse matrix that takes part where AnnData are put one after another.

    Raises
    ------
    DataError
        If one is damaged.
    """
    from scipy import sparse

    parts = {".X": adata.X, **({} if adata.raw is None else {".raw.X": adata.raw.X})}
    for name in ("layers", "obsm", "varm", "obsp", "varp"):
        parts |= {f".{name}[{key!r}]": value for key, value in getattr(adata, name).items()}
    for place, matrix in parts.items():
        if sparse.issparse(matrix):
            check_structure(matrix, f"{source}, {place}")


def _check_whole(numbers: np.ndarray, name: str, where: str) -> None:
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise DataError(
            f"{where}: {name} is an array of {numbers.ndim} axes of {numbers.dtype}, not one of whole numbers; {REMEDY}"
        )


def _check_length(numbers: np.ndarray, values: int, name: str, where: str, form: str) -> None:
    if len(numbers) != values:
        raise _damaged(where, form, f"it has {values} values, and {len(numbers)} numbers in {name}")


def _damaged(where: str, form: str, what: str) -> DataError:
    return DataError(f"{where} is no whole {form} matrix: {what}; {REMEDY}")
