"""Counts that stay in their file: .h5ad files and zarr stores, read a range of cells at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vaekit.data.counts import check_gene_names, check_values, gene_names_of
from vaekit.data.sources import check_same_genes, join, open_store, reading
from vaekit.data.structure import REMEDY, check_numbers, check_starts
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

CHUNK_CELLS = 4096  # read at once where all cells are read in order


class _Matrix(NamedTuple):
    """One file's counts: HDF5 or zarr arrays, the row starts in memory, and where its genes stand in the first file."""

    path: str
    place: str
    data: Any
    indices: Any
    starts: np.ndarray
    columns: np.ndarray | None


class StoredCounts:
    """Counts in CSR form in one or several files, as one matrix; only the starts of the rows are in memory.

    Parameters
    ----------
    paths
        .h5ad files or zarr stores with the same genes, in any order; the first one's order counts.
    layer
        Name of a layer, "raw" for ``.raw.X``, None for ``.X``.
    source
        What to call the data in messages.
    gene_names
        Column of ``.var`` with the names of the genes; None for ``var_names``.

    Attributes
    ----------
    table
        AnnData of the cells' and genes' tables, without counts.
    var
        Table of the layer's genes: that of ``table``, or of ``.raw``; the first file's.
    genes
        Names of the columns.

    Raises
    ------
    DataError
        If a file cannot be read, has no such layer, or holds it in another form than CSR; if genes differ between the
        files, or are missing or named twice.
    """

    def __init__(self, paths: Sequence[str], layer: str | None, source: str, gene_names: str | None = None) -> None:
        tables, variables, names, groups = [], [], [], []
        for path in paths:
            with reading(path):
                table, var, genes, group = _open(path, layer, gene_names)
            tables.append(table)
            variables.append(var)
            names.append(genes)
            groups.append(group)
        check_same_genes(names, paths)
        self.genes = names[0]
        check_gene_names(self.genes, source, gene_names)
        self.source = source
        self._matrices = [
            _matrix(path, layer, group, found, self.genes)
            for path, group, found in zip(paths, groups, names, strict=True)
        ]
        self.table: AnnData = tables[0] if len(tables) == 1 else join(tables)
        self.var: pd.DataFrame = variables[0]
        self._first_row = np.cumsum([0, *(len(part.starts) - 1 for part in self._matrices)])
        if not len(self) or not self.genes:
            raise DataError(f"{source} has {len(self)} cells and {len(self.genes)} genes: nothing to model")

    def __len__(self) -> int:
        return int(self._first_row[-1])

    @property
    def num_stored(self) -> int:
        """Number of stored values."""
        return sum(int(part.starts[-1]) for part in self._matrices)

    @property
    def values_at_once(self) -> int:
        """The number of values that the files give at once, at the least: the length of a chunk, 1 without chunks."""
        return max((part.data.chunks or (1,))[0] for part in self._matrices)

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the cells from ``start`` to ``stop`` as they are stored, sorted, without stored zeros."""
        from scipy import sparse

        parts = []
        for matrix, first in zip(self._matrices, self._first_row, strict=False):
            begin, end = max(start - first, 0), min(stop - first, len(matrix.starts) - 1)
            if begin >= end:
                continue
            indices, values = self._read_part(matrix, int(matrix.starts[begin]), int(matrix.starts[end]))
            if matrix.columns is not None:
                indices = matrix.columns[indices]
            shape = (end - begin, len(self.genes))
            starts = matrix.starts[begin : end + 1] - matrix.starts[begin]
            parts.append(sparse.csr_matrix((values, indices, starts), shape=shape))
        cells = parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")
        cells.sum_duplicates()
        cells.eliminate_zeros()  # NaN stays
        return cells

    def _read_part(self, matrix: _Matrix, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the column numbers and the values of some rows."""
        where = f"{matrix.path}, {matrix.place}"
        _check_room((high - low) * (matrix.indices.dtype.itemsize + matrix.data.dtype.itemsize), where)
        with reading(matrix.path):
            indices, values = np.asarray(matrix.indices[low:high]), np.asarray(matrix.data[low:high])
        check_numbers(indices, len(self.genes), "genes", where, "indices", first=low)
        # scipy has no sparse float16, numpy no negative bool, and loops no foreign order of bytes
        kind = np.float32 if values.dtype in (np.bool_, np.float16) else values.dtype.newbyteorder("=")
        return indices, values.astype(kind, copy=False)

    def chunks(self, title: str) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield all cells in order, float32, checked, with the first one's number; with a progress bar.

        Raises
        ------
        DataError
            If values are not counts.
        """
        from tqdm import tqdm

        with tqdm(total=len(self), desc=title, unit="cells", delay=1) as bar:
            for start in range(0, len(self), CHUNK_CELLS):
                stop = min(start + CHUNK_CELLS, len(self))
                cells = self.read(start, stop)
                check_values(cells, self.source, self.table.obs_names[start:stop], self.genes, start)
                yield start, cells.astype(np.float32)
                bar.update(stop - start)


def is_csr(path: str, layer: str | None) -> bool:
    """Return whether a file holds a layer's counts in CSR form, so that they can stay there."""
    store = open_store(path)
    place = _place(layer)
    with reading(path):
        return place in store and store[place].attrs.get("encoding-type") == "csr_matrix"


def stored_bytes(path: str, layer: str | None) -> int:
    """Return the memory that the values and column numbers of a CSR layer take, in bytes."""
    with reading(path):
        return int(open_store(path)[_place(layer)]["data"].shape[0]) * 8


def gene_columns(path: str, layer: str | None) -> list[str]:
    """Return the names of the columns of a layer's table of genes."""
    with reading(path):
        table = open_store(path)["raw/var" if _place(layer) == "raw/X" else "var"]
        return [str(name) for name in table.attrs.get("column-order", ())]


def read_obs(path: str) -> pd.DataFrame:
    """Return the table of the cells of a file, and nothing else of it.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    return _read(open_store(path), "obs", path)


def _read(store: Any, place: str, path: str) -> pd.DataFrame:
    from anndata.io import read_elem

    try:
        return read_elem(store[place])
    except Exception as error:  # anndata raises whatever the foreign content leads to
        raise DataError(
            f"{path} cannot be read as .h5ad; its table {place} was not written by AnnData.write_h5ad "
            f"({type(error).__name__}: {error})"
        ) from error


def _place(layer: str | None) -> str:
    return {None: "X", "X": "X", "raw": "raw/X"}.get(layer, f"layers/{layer}")


def _open(path: str, layer: str | None, gene_names: str | None) -> tuple[AnnData, pd.DataFrame, list[str], Any]:
    """Return the tables, that of the layer's genes, their names, and the group of the counts."""
    from anndata import AnnData

    store, place = open_store(path), _place(layer)
    if place not in store:
        known = [*store.get("layers", ()), *(["raw"] if "raw" in store else []), "X"]
        raise DataError(f"layer={layer!r}: {path} has no {place}; it has {', '.join(map(repr, known))}")
    kind = store[place].attrs.get("encoding-type")
    if kind != "csr_matrix":
        raise DataError(
            f"{path} holds its counts ({place}) as {kind}; to stay in the file they need rows of cells: "
            "adata.X = scipy.sparse.csr_matrix(adata.X) before writing it, or mode='resident'"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # an error follows
        table = AnnData(obs=_read(store, "obs", path), var=_read(store, "var", path))
    var = table.var if place != "raw/X" else _read(store, "raw/var", path)
    _check_rows(store[place], len(table.obs), len(var), f"{path}, {place}")
    return table, var, gene_names_of(var, gene_names, path), store[place]


def _check_rows(group: Any, cells: int, genes: int, where: str) -> None:
    """Check that a CSR matrix is as large as its tables, and that its rows follow one another."""
    shape = tuple(map(int, group.attrs["shape"]))
    lengths = {name: tuple(map(int, group[name].shape)) for name in ("data", "indices", "indptr")}
    damage = ""
    if shape != (cells, genes):
        damage = f"its shape is {list(shape)}"
    elif any(len(length) != 1 for length in lengths.values()) or lengths["data"] != lengths["indices"]:
        damage = "; ".join(f"{name} is of shape {list(length)}" for name, length in lengths.items())
    if damage:
        raise DataError(f"{where} is no whole CSR matrix of {cells} cells x {genes} genes: {damage}; {REMEDY}")
    if group["data"].dtype.kind not in "buif":
        raise DataError(f"{where}: the values are of type {group['data'].dtype}, not numbers")
    _check_room(lengths["indptr"][0] * group["indptr"].dtype.itemsize, where)
    starts, values = np.asarray(group["indptr"][:]), lengths["data"][0]
    check_starts(starts, cells, "cells", values, where)
    if starts[-1] != values:
        raise DataError(
            f"{where} is no whole CSR matrix: its {cells} cells have {starts[-1]} values, and {values} are stored; "
            f"{REMEDY}"
        )


def _check_room(needed: int, where: str) -> None:
    """Check that memory has room for what a file claims to hold: some systems give more, and end the process later."""
    import psutil

    if needed > (free := psutil.virtual_memory().available):
        raise DataError(
            f"{where} claims {needed / 2**30:.3g} GiB in {CHUNK_CELLS} cells or less, and {free / 2**30:.3g} GiB of "
            f"memory are free; {REMEDY}"
        )


def _matrix(path: str, layer: str | None, group: Any, found: list[str], genes: list[str]) -> _Matrix:
    columns = None
    if found != genes:
        number = {name: column for column, name in enumerate(genes)}
        columns = np.array([number[name] for name in found], dtype=np.int32)
    starts = np.asarray(group["indptr"][:], dtype=np.int64)
    return _Matrix(path, _place(layer), group["data"], group["indices"], starts, columns)
