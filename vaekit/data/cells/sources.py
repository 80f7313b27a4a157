"""Sources of cells: an AnnData, files, zarr stores, or the data set packaged with scanpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from vaekit._core import memory_budget
from vaekit._core.urls import as_path
from vaekit.data.cells.backed_counts import BackedCounts, StoredMatrix
from vaekit.data.cells.count_checks import check_all
from vaekit.data.cells.count_source import CountSource
from vaekit.data.cells.file_formats import are_stores, read_files
from vaekit.data.cells.file_names import FILE_COLUMN, file_column
from vaekit.data.cells.genes import check_same_genes, check_unique, gene_names
from vaekit.data.cells.in_memory_counts import InMemoryCounts
from vaekit.data.cells.matrices import RAW, find_matrix
from vaekit.data.cells.not_cells import not_cells
from vaekit.data.cells.stores import concat_cells, describe_paths, translate_read_errors
from vaekit.data.containment import check_hdf5
from vaekit.exceptions import DataError, did_you_mean, format_bytes

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Mode = Literal["auto", "in_memory", "streamed"]
MODES = get_args(Mode)
NAME = "vaekit_source"  # of ``obs.attrs``: the name in messages of cells that were read from files


def check_source_arguments(adata: Any, path: Any, layer: str | None, mode: str) -> None:
    """Raise a DataError if the arguments of a data module that name the source contradict each other."""
    if mode not in MODES:
        raise DataError(f"mode={mode!r} is unknown. {did_you_mean(mode, MODES)}")
    if mode == "streamed" and path is None:
        raise DataError("mode='streamed' requires path: an AnnData and the packaged data are in memory.")
    if adata is not None and path is not None:
        raise DataError(f"adata and path={path!r} are both given. Pass one of them.")
    if isinstance(adata, str | Path):
        raise DataError(f"adata={str(adata)!r} is a path. Pass it as path=.")
    if adata is None and path is None and layer is not None:
        raise DataError(f"layer={layer!r} requires path or adata: the packaged data have one matrix of counts.")


def open_counts(
    cells: Any,
    layer: str | None = None,
    gene_name_key: str | None = None,
    mode: Literal["auto", "in_memory", "streamed", "backed"] = "auto",
    optional_key: bool = False,
    genes_in: str | None = None,
) -> CountSource:
    """Open the counts of cells. This reads the tables of cells and genes, but not the counts.

    Parameters
    ----------
    cells : AnnData, path, or list of paths
        Cells, or their files (:func:`vaekit.data.read_cells` lists the forms that can be read).
    layer, gene_name_key : str or None
        Name or path of the matrix, and column of ``.var`` with the names of the genes.
    mode : str
        "in_memory" loads the counts of files, "streamed" leaves them there, and "auto" loads them if that takes at most
        half of the free memory. "backed" leaves counts of any size in their files. "auto" and "backed" load counts
        that are not stored as CSR in .h5ad files or zarr stores.
    optional_key : bool
        Whether ``var_names`` are used if ``.var`` lacks the column ``gene_name_key``.
    genes_in : str or None
        Place of the genes in files whose form does not determine it (:func:`vaekit.data.read_cells`).

    Examples
    --------
    >>> import vaekit
    >>> adata.write_h5ad("cells.h5ad")
    >>> source = vaekit.data.open_counts("cells.h5ad", mode="backed")  # counts stay in the file
    >>> len(source), source.in_memory
    (300, False)
    """
    storage = "in memory"
    paths = _as_paths(cells)
    if mode != "in_memory" and paths is not None and _may_stay(paths, mode):
        files: list[StoredMatrix] = []
        for path in paths:
            files.append(StoredMatrix(path, files[0].matrix if files else layer))
        streamed, reason = _choose_storage(mode, files)
        if streamed:
            return BackedCounts(files, gene_name_key, optional_key, f"streamed from disk{reason}")
        storage += reason
    adata, name = open_adata(cells, layer, gene_name_key, genes_in)
    return InMemoryCounts(adata, name, layer, gene_name_key, optional_key, storage)


def _may_stay(paths: Sequence[str | Path], mode: str) -> bool:
    """Return whether all files are .h5ad files or zarr stores; raise a DataError if other files must be streamed."""
    if are_stores(paths):
        return True
    if mode == "streamed":
        raise DataError(
            "mode='streamed' is for .h5ad files and zarr stores, but another form of file is read into memory: "
            f"{describe_paths(paths)}. Omit mode, or convert it: vaekit.data.read_cells(path).write_h5ad('cells.h5ad')."
        )
    return False


def _choose_storage(mode: str, files: Sequence[StoredMatrix]) -> tuple[bool, str]:
    """Return whether counts stay in their files, and the reason."""
    if mode == "streamed":
        return True, ""
    if not all(stored.is_csr for stored in files):
        return False, f" (mode={mode}: counts that are not stored as CSR cannot stay in their files)"
    if mode == "backed":
        return True, ""
    required = memory_budget.LOADING_COPIES * sum(stored.num_bytes for stored in files)
    free = memory_budget.free_memory()
    reason = f" (mode=auto: loading the counts takes {format_bytes(required)}, and {format_bytes(free)} are free)"
    return required > memory_budget.FREE_FRACTION * free, reason


def _as_paths(cells: Any) -> list[str | Path] | None:
    """Return the paths of files; None if ``cells`` is neither a path nor a list of paths."""
    if isinstance(cells, str | Path):
        return [as_path(cells)]
    if not isinstance(cells, Sequence):
        return None
    if not cells:
        raise DataError("path=[] must name at least one file.")
    return [as_path(path) for path in cells]


def open_adata(
    cells: Any, layer: str | None = None, gene_name_key: str | None = None, genes_in: str | None = None
) -> tuple[AnnData, str]:
    """Return cells in memory, and their name in messages. A backed AnnData is copied into memory."""
    if (paths := _as_paths(cells)) is not None:
        return join_files(read_files(paths, genes_in), paths, layer, gene_name_key), describe_paths(paths)
    from anndata import AnnData

    if not isinstance(cells, AnnData):
        raise not_cells(cells, "an AnnData, or the path of a file")
    if cells.isbacked:
        import h5py

        with translate_read_errors(cells.filename):
            check_hdf5(cells.file._file if cells.file.is_open else h5py.File(cells.filename, "r"), cells.filename)
            return cells.to_memory(), f"AnnData of {cells.filename}"
    return cells, cells.obs.attrs.get(NAME, "AnnData in memory")


def join_files(
    parts: Sequence[AnnData], paths: Sequence[str | Path], layer: str | None = None, gene_name_key: str | None = None
) -> AnnData:
    """Return the cells of files with the same genes as one AnnData with the ``var_names`` of the first file.

    Several files get the column ``obs["vaekit_file"]`` with their names, such as for ``batch_key``. Genes of the matrix
    ``layer`` are matched by the column ``gene_name_key`` if all files have it, else by ``var_names``.
    """
    sizes = [part.n_obs for part in parts]
    adata = parts[0] if len(parts) == 1 else _concat_files(parts, paths, layer, gene_name_key)
    if len(parts) > 1:
        adata.obs[FILE_COLUMN] = file_column(paths, sizes)
    adata.obs.attrs[NAME] = describe_paths(paths)
    return adata


def _concat_files(
    parts: Sequence[AnnData], paths: Sequence[str | Path], layer: str | None, gene_name_key: str | None
) -> AnnData:
    """Return the cells of all files, after checks that they have the same genes and sound matrices."""
    matrix, tables = layer, []
    for part, path in zip(parts, paths, strict=True):
        matrix = find_matrix(matrix, list(part.layers), part.raw is not None, str(path))
        tables.append(part.raw.var if matrix == RAW else part.var)
    key = gene_name_key if all(gene_name_key in table.columns for table in tables) else None
    names = [gene_names(table, key, str(path)) for table, path in zip(tables, paths, strict=True)]
    check_same_genes(names, paths)
    for part, genes, path in zip(parts, names, paths, strict=True):
        check_unique(genes, str(path), key)
        check_all(part, str(path))  # the compiled loops of anndata.concat do not check index arrays
    return concat_cells(parts) if key is None else _concat_by(parts, key, paths)


def _concat_by(parts: Sequence[AnnData], key: str, paths: Sequence[str | Path]) -> AnnData:
    """Return the cells of all parts, with genes matched by a column; ``var_names`` may differ or not be unique."""
    originals = []
    for tables in zip(*map(_gene_tables, parts), strict=False):  # of .X, and of .raw if all parts have one
        column = key if all(key in table.columns for table in tables) else None
        names = [gene_names(table, column, str(path)) for table, path in zip(tables, paths, strict=True)]
        originals.append((column, dict(zip(names[0], tables[0].index, strict=True))))
        for table, genes, path in zip(tables, names, paths, strict=True):
            check_unique(genes, str(path), column)
            table.index = genes
    adata = concat_cells(parts)
    for table, (column, index_of) in zip(_gene_tables(adata), originals, strict=True):
        if column is not None:
            table[column] = list(table.index)  # anndata drops the columns of .raw
        table.index = [index_of[name] for name in table.index]
    return adata


def _gene_tables(adata: AnnData) -> list[pd.DataFrame]:
    """Return the tables of the genes of ``.X`` and of ``.raw``, if there is one."""
    return [adata.var, *([] if adata.raw is None else [adata.raw.var])]


def pbmc68k() -> AnnData:
    """Return scanpy's packaged ``pbmc68k_reduced`` with its UMI counts in ``.X`` and ``layers["counts"]``.

    The data set has 700 blood cells and 765 genes. Its ``.raw`` holds ``v = log1p(count * 1e4 / n_counts)``, rounded to
    three decimals. Its ``.obs`` holds ``n_counts``, the total count of a cell over all genes of the experiment. The
    counts are therefore ``round(expm1(v) * n_counts / 1e4)``.

    Zheng et al. (2017), Massively parallel digital transcriptional profiling of single cells.

    Raises
    ------
    DataError
        If the installed scanpy packages other values.
    """
    import scanpy as sc

    adata = sc.datasets.pbmc68k_reduced()
    counts = adata.raw.X.tocsr().astype(np.float64)
    value = counts.data
    unit = np.repeat(1e4 / adata.obs["n_counts"].to_numpy(dtype=np.float64), np.diff(counts.indptr))
    counts.data = np.round(np.expm1(value) / unit)
    if np.abs(np.log1p(counts.data * unit) - value).max() > 0.00051:  # half of the last decimal
        raise DataError("scanpy.datasets.pbmc68k_reduced: the counts of this scanpy version cannot be recovered.")
    adata.X = counts.astype(np.float32)  # instead of scanpy's scaled values: .X is read by default
    adata.layers["counts"] = adata.X.copy()
    return adata
