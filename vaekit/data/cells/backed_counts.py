"""Counts that stay in their file: .h5ad files and zarr stores, read a range of cells at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vaekit.data.cells.matrices import matrix_of_store, stored_name
from vaekit.data.cells.read_counts import canonical, check_gene_names, check_values, gene_names_of
from vaekit.data.cells.sources import check_same_genes, concat_cells, open_store, translate_read_errors
from vaekit.data.cells.structure import REMEDY, check_indices, check_indptr
from vaekit.data.cells.tables import column_names, read_table
from vaekit.exceptions import DataError, did_you_mean

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


class BackedCounts:
    """Counts in CSR form in one or several files, as one matrix; only the starts of the rows are in memory.

    Parameters
    ----------
    paths
        .h5ad files or zarr stores with the same genes, in any order; the first one's order counts.
    layer
        Name or path of a matrix (:func:`vaekit.data.cells.matrices.find_matrix`), the same in all files.
    source
        What to call the data in messages.
    gene_name_key
        Column of ``.var`` with the names of the genes; None for ``var_names``.

    Attributes
    ----------
    table
        AnnData of the cells' and genes' tables, without counts; of several files the cells' table alone.
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

    def __init__(self, paths: Sequence[str], layer: str | None, source: str, gene_name_key: str | None = None) -> None:
        tables, variables, names, groups = [], [], [], []
        for path in paths:
            with translate_read_errors(path):
                store = open_store(path)
                layer = matrix_of_store(store, layer, path)
                table, var, genes, group = _open(store, path, layer, gene_name_key)
            tables.append(table)
            variables.append(var)
            names.append(genes)
            groups.append(group)
        check_same_genes(names, paths)
        self.genes = names[0]
        check_gene_names(self.genes, source, gene_name_key)
        self.source = source
        self._matrices = [
            _matrix(path, group, found, self.genes) for path, group, found in zip(paths, groups, names, strict=True)
        ]
        self.table: AnnData = tables[0] if len(tables) == 1 else concat_cells([table[:, :0] for table in tables])
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
        return canonical(parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr"))

    def _read_part(self, matrix: _Matrix, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the column numbers and the values of some rows."""
        where = f"{matrix.path}, {matrix.place}"
        _check_room((high - low) * (matrix.indices.dtype.itemsize + matrix.data.dtype.itemsize), where)
        with translate_read_errors(matrix.path):
            indices, values = np.asarray(matrix.indices[low:high]), np.asarray(matrix.data[low:high])
        check_indices(indices, len(self.genes), "genes", where, "indices", first=low)
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


def matrix_of_file(path: str, layer: str | None) -> str:
    """Return the path of the matrix of a file that ``layer`` names: :func:`vaekit.data.cells.matrices.find_matrix`."""
    with translate_read_errors(path):
        return matrix_of_store(open_store(path), layer, path)


def is_csr(path: str, layer: str | None) -> bool:
    """Return whether a file holds a layer's counts in CSR form, so that they can stay there."""
    with translate_read_errors(path):
        store = open_store(path)
        return (name := _stored_name(store, layer, path)) in store and _form(store[name]) == "csr_matrix"


def stored_bytes(path: str, layer: str | None) -> int:
    """Return the memory that the values and column numbers of a CSR layer take, in bytes."""
    with translate_read_errors(path):
        store = open_store(path)
        return int(store[_stored_name(store, layer, path)]["data"].shape[0]) * 8


def gene_columns(path: str, layer: str | None) -> list[str]:
    """Return the names of the columns of a layer's table of genes."""
    with translate_read_errors(path):
        store = open_store(path)
        return column_names(store[_table_of(_stored_name(store, layer, path))])


def _stored_name(store: Any, layer: str | None, path: str) -> str:
    """Return where a layer is in an open file; one that is given by its path need not exist."""
    is_path = layer is not None and layer.startswith("/")
    return stored_name(store, str(layer) if is_path else matrix_of_store(store, layer, path))


def read_obs(path: str) -> pd.DataFrame:
    """Return the table of the cells of a file, and nothing else of it.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    return read_table(open_store(path), "obs", path)


def _table_of(name: str) -> str:
    """Return where the table of a matrix's genes is."""
    return name[:-1] + "var" if name.startswith("raw") else "var"


def _form(element: Any) -> str | None:
    """Return how a matrix is stored; anndata 0.6 and older had another name for it."""
    attributes = element.attrs
    if "h5sparse_format" in attributes:
        form = attributes["h5sparse_format"]
        return f"{form.decode() if isinstance(form, bytes) else form}_matrix"
    return attributes.get("encoding-type")


def _open(
    store: Any, path: str, matrix: str, gene_name_key: str | None
) -> tuple[AnnData, pd.DataFrame, list[str], Any]:
    """Return the tables, that of the matrix's genes, their names, and the group of the counts."""
    from anndata import AnnData

    name = stored_name(store, matrix)
    if name not in store:
        known = [*store.get("layers", ()), *(["raw"] if "raw/X" in store else [])]
        raise DataError(f"{path} has no {name}. {did_you_mean('', known)}")
    if (kind := _form(store[name])) != "csr_matrix":
        raise DataError(
            f"{path} holds its counts ({name}) as {kind or 'array'}; to stay in the file they need rows of cells: "
            "adata.X = scipy.sparse.csr_matrix(adata.X) before writing it, or mode='in_memory'"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # an error follows
        table = AnnData(obs=read_table(store, "obs", path), var=read_table(store, "var", path))
    var = table.var if _table_of(name) == "var" else read_table(store, _table_of(name), path)
    _check_rows(store[name], len(table.obs), len(var), f"{path}, {name}")
    return table, var, gene_names_of(var, gene_name_key, path), store[name]


def _check_rows(group: Any, cells: int, genes: int, where: str) -> None:
    """Check that a CSR matrix is as large as its tables, and that its rows follow one another."""
    shape = tuple(map(int, group.attrs["shape" if "shape" in group.attrs else "h5sparse_shape"]))
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
    check_indptr(starts, cells, "cells", values, where)
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


def _matrix(path: str, group: Any, found: list[str], genes: list[str]) -> _Matrix:
    columns = None
    if found != genes:
        number = {name: column for column, name in enumerate(genes)}
        columns = np.array([number[name] for name in found], dtype=np.int32)
    starts = np.asarray(group["indptr"][:], dtype=np.int64)
    return _Matrix(path, group.name.strip("/"), group["data"], group["indices"], starts, columns)
