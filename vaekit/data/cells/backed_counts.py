"""Counts that stay in .h5ad files and zarr stores, and are read one range of cells at a time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor
from typing_extensions import override

from vaekit._core import memory_budget
from vaekit._core.urls import path_text
from vaekit.data.cells.count_checks import (
    REMEDY,
    canonical,
    check_dtype,
    check_index_dtype,
    check_structure,
    check_values,
    damaged,
    native_dtype,
)  # fmt: skip
from vaekit.data.cells.count_source import CountSource
from vaekit.data.cells.file_names import FILE_COLUMN, file_column
from vaekit.data.cells.genes import check_same_genes, gene_names
from vaekit.data.cells.matrices import RAW, X, find_stored_matrix, matrix_attribute, stored_name
from vaekit.data.cells.stores import (
    concat_cells,
    describe_paths,
    open_store,
    read_colors,
    read_table,
    translate_read_errors,
)
from vaekit.data.cells.streamed import StreamedDataset
from vaekit.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse


class StoredMatrix:
    """A count matrix of an open file.

    Parameters
    ----------
    path : str or Path
        Path of the file.
    layer : str or None
        Name or path of the matrix (:func:`vaekit.data.cells.matrices.find_matrix`). A path need not exist.
    """

    def __init__(self, path: str | Path, layer: str | None) -> None:
        self.store = open_store(path)
        self.path = path_text(path)
        with translate_read_errors(path):
            is_path = layer is not None and layer.startswith("/")
            self.matrix = str(layer) if is_path else find_stored_matrix(self.store, layer, self.path)
            self.key = stored_name(self.store, self.matrix)
            self.group = self.store.get(self.key)
            self.format = None if self.group is None else _stored_format(self.group)

    @property
    def is_csr(self) -> bool:
        """Whether the matrix is stored as CSR, so that it can stay in the file."""
        return self.format == "csr_matrix"

    @property
    def num_bytes(self) -> int:
        """Size of the values and column indices of a CSR matrix in memory."""
        with translate_read_errors(self.path):
            return int(self.group["data"].shape[0]) * 8

    def read_tables(self) -> tuple[AnnData, Any]:
        """Return an AnnData of the tables of cells and genes with their colors, and the genes of this matrix."""
        from anndata import AnnData

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Variable names are not unique")  # checked later
            obs, var = (read_table(self.store, name, self.path) for name in ("obs", "var"))
            adata = AnnData(obs=obs, var=var, uns=read_colors(self.store, obs))
        if self.matrix != RAW:
            return adata, adata.var
        return adata, read_table(self.store, self.key[:-1] + "var", self.path)

    def open_arrays(self, num_cells: int, num_genes: int) -> tuple[str, Any, Any, np.ndarray]:
        """Return path, data, indices and row starts, after checks that the matrix exists, is CSR and is complete."""
        where = f"{self.path}, {matrix_attribute(self.matrix)}"
        if self.group is None:
            names = [*self.store.get("layers", ()), *(["raw"] if "raw/X" in self.store else [])]
            raise DataError(f"{self.key!r} not found in {self.path}. {did_you_mean('', names)}")
        if not self.is_csr:
            raise DataError(
                f"{where} is stored as {self.format or 'array'}, but only CSR can stay in the file. Convert it with "
                "adata.X = scipy.sparse.csr_matrix(adata.X) and write the file again, or pass mode='in_memory'."
            )
        with translate_read_errors(self.path):
            attributes = self.group.attrs
            shape = tuple(map(int, attributes["shape" if "shape" in attributes else "h5sparse_shape"]))
            shapes = {name: tuple(map(int, self.group[name].shape)) for name in ("data", "indices", "indptr")}
            if shape != (num_cells, num_genes):
                raise damaged(
                    where, f"its shape is {list(shape)}, but its tables have {num_cells} cells x {num_genes} genes"
                )
            if any(len(size) != 1 for size in shapes.values()) or shapes["data"] != shapes["indices"]:
                raise damaged(where, ", ".join(f"{name} has shape {list(size)}" for name, size in shapes.items()))
            check_dtype(self.group["data"].dtype, where)
            memory_budget.check_memory(shapes["indptr"][0] * self.group["indptr"].dtype.itemsize, where, REMEDY)
            starts, num_values = np.asarray(self.group["indptr"][:]), shapes["data"][0]
        check_index_dtype([starts], where)
        if len(starts) != num_cells + 1 or starts[0] != 0 or starts[-1] != num_values:
            raise damaged(where, f"indptr must have {num_cells + 1} entries, from 0 to {num_values}")
        if (starts[1:] < starts[:-1]).any():  # differences of unsigned integers would not be negative
            raise damaged(where, "indptr must not decrease")
        return self.path, self.group["data"], self.group["indices"], starts.astype(np.int64)


def _stored_format(group: Any) -> str | None:
    """Return the format of a stored matrix, which anndata 0.6 and older write to another attribute."""
    if "h5sparse_format" in group.attrs:
        name = group.attrs["h5sparse_format"]
        return f"{name.decode() if isinstance(name, bytes) else name}_matrix"
    return group.attrs.get("encoding-type")


class _Part(NamedTuple):
    """The cells of one file: stored arrays, row starts, and the position of each of its genes in the first file."""

    path: str
    data: Any
    indices: Any
    starts: np.ndarray
    columns: np.ndarray | None


class BackedCounts(CountSource):
    """Counts that are stored as CSR in one or several files; only the tables and row starts are in memory.

    Parameters
    ----------
    files : sequence of StoredMatrix
        Matrices of the same genes, in any order; the order of the first file is used.
    gene_name_key, optional_key, storage
        As for :class:`~vaekit.data.cells.in_memory_counts.InMemoryCounts`; the column must exist in all files.
    """

    in_memory = False

    def __init__(
        self,
        files: Sequence[StoredMatrix],
        gene_name_key: str | None = None,
        optional_key: bool = False,
        storage: str = "streamed from disk",
    ) -> None:
        paths = [stored.path for stored in files]
        tables, variables = zip(*(stored.read_tables() for stored in files), strict=True)
        if optional_key and not all(gene_name_key in var.columns for var in variables):
            gene_name_key = None
        names = [gene_names(var, gene_name_key, path) for var, path in zip(variables, paths, strict=True)]
        check_same_genes(names, paths)
        store = files[0].store
        layers = [f"/layers/{key}" for key in store.get("layers", ())]
        self.storage = storage
        self._gene_name_key = gene_name_key
        matrices = [X, *layers, *([RAW] if "raw/X" in store or "raw.X" in store else [])]
        super().__init__(
            describe_paths(paths), files[0].matrix, _concat_tables(tables, paths), variables[0], gene_name_key, matrices
        )
        self._parts = [
            _Part(*stored.open_arrays(table.n_obs, len(genes)), _column_order(genes, self.genes))
            for stored, table, genes in zip(files, tables, names, strict=True)
        ]
        self._first_rows = np.cumsum([0, *(len(part.starts) - 1 for part in self._parts)])

    @property
    def num_values(self) -> int:
        """Number of stored values."""
        return sum(int(part.starts[-1]) for part in self._parts)

    @property
    def chunk_length(self) -> int:
        """Number of values that are read at once, at least: the length of a stored chunk, or 1 without chunks."""
        return max((part.data.chunks or (1,))[0] for part in self._parts)

    @override
    def _other_matrix(self, matrix: str) -> BackedCounts:
        files = [StoredMatrix(part.path, matrix) for part in self._parts]
        other = BackedCounts(files, self._gene_name_key, optional_key=True)
        other._matrices = ()
        return other

    @override
    def dataset(self, ordered: bool = False, **columns: Tensor | None) -> StreamedDataset:
        if ordered:
            return StreamedDataset(self, memory_budget.CHUNK_CELLS, 0, **columns)  # type: ignore[arg-type]
        values_per_cell = max(self.num_values / len(self), 1.0)
        # A compressed chunk is read as a whole; a block is about as large.
        block = np.clip(
            self.chunk_length / values_per_cell, memory_budget.MIN_BLOCK_CELLS, memory_budget.MAX_BLOCK_CELLS
        )
        pool = max(int(memory_budget.POOL_BYTES / (8 * values_per_cell * int(block))), 2)
        return StreamedDataset(self, int(block), pool, **columns)  # type: ignore[arg-type]

    @override
    def _read(self, index: np.ndarray) -> sparse.csr_matrix:
        from scipy import sparse

        ranges = np.split(index, np.flatnonzero(np.diff(index) != 1) + 1)  # neighbors are read at once
        parts = [
            self._read_range(part, max(int(rows[0]), first) - first, min(int(rows[-1]) + 1, stop) - first, first)
            for rows in ranges
            for part, first, stop in zip(
                self._parts, self._first_rows[:-1].tolist(), self._first_rows[1:].tolist(), strict=True
            )
            if rows[0] < stop and rows[-1] >= first
        ]
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")

    def _read_range(self, part: _Part, begin: int, end: int, first_row: int) -> sparse.csr_matrix:
        """Return the cells from ``begin`` to ``end`` of one file."""
        from scipy import sparse

        where = f"{part.path}, {matrix_attribute(self.matrix)}"
        low, high = int(part.starts[begin]), int(part.starts[end])
        num_bytes = (high - low) * (part.indices.dtype.itemsize + part.data.dtype.itemsize)
        memory_budget.check_memory(num_bytes, f"{where} (cells {begin} to {end - 1})", REMEDY)
        with translate_read_errors(part.path):
            indices, values = np.asarray(part.indices[low:high]), np.asarray(part.data[low:high])
        values = values.astype(native_dtype(values.dtype), copy=False)
        check_index_dtype([indices], where)
        shape = (end - begin, len(self.all_genes))
        counts = sparse.csr_matrix((values, indices, part.starts[begin : end + 1] - low), shape=shape)
        check_structure(counts, where)
        if part.columns is not None:
            counts = sparse.csr_matrix((values, part.columns[indices], counts.indptr), shape=shape)
        counts = canonical(counts)
        row = first_row + begin
        cells, rounding = self.obs.index[row : row + end - begin], (self.rounding, self.rounding_remedy)
        counts = check_values(counts, where, cells, self.all_genes, row, *rounding)
        return counts.astype(np.float32, copy=False)


def _column_order(genes: list[str], order: list[str]) -> np.ndarray | None:
    """Return the position of each gene in ``order``; None if they are in this order."""
    if genes == order:
        return None
    position = {name: index for index, name in enumerate(order)}
    return np.array([position[name] for name in genes], dtype=np.int32)


def _concat_tables(tables: Sequence[AnnData], paths: Sequence[str]) -> AnnData:
    """Return the cells of all files with a column of their names, and the genes of the first file."""
    from anndata import AnnData

    if len(tables) == 1:
        return tables[0]
    obs = concat_cells([table[:, :0] for table in tables]).obs
    obs[FILE_COLUMN] = file_column(paths, [table.n_obs for table in tables])
    return AnnData(obs=obs, var=tables[0].var)
