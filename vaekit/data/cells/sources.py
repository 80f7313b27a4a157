"""Where an AnnData comes from: memory, .h5ad files, zarr stores, or the data set packaged with scanpy."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data.cells.codecs import check_codecs
from vaekit.data.cells.genes import unversioned
from vaekit.data.cells.matrices import RAW, matrix_of_adata
from vaekit.data.cells.read_counts import check_gene_names, gene_names_of
from vaekit.data.cells.structure import check_all
from vaekit.data.cells.tables import error_line, num_bytes, read_table
from vaekit.data.containment import check_hdf5, check_regular
from vaekit.exceptions import DataError, VaekitError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def open_adata(source: Any, layer: str | None = None, gene_name_key: str | None = None) -> tuple[AnnData, str]:
    """Return the AnnData behind ``source`` (an AnnData, a path or several) and what to call it in messages.

    Of several files, the matrix that ``layer`` names must have the same genes, by :func:`read_files`.

    A backed AnnData is read into memory; what the caller holds is never changed. Several files are one after another;
    of their tables the columns remain that all of them have.

    Raises
    ------
    DataError
        If the file cannot be read, or ``source`` is neither.
    """
    if isinstance(source, str | Path):
        return read_file(source), str(source)
    if isinstance(source, Sequence):
        return read_files(source, layer, gene_name_key), describe_paths(source)
    from anndata import AnnData

    if not isinstance(source, AnnData):
        raise DataError(f"adata is a {type(source).__name__}: pass an AnnData, or the path of an .h5ad file as path=")
    if source.isbacked:
        import h5py

        with translate_read_errors(source.filename):
            check_hdf5(source.file._file if source.file.is_open else h5py.File(source.filename, "r"), source.filename)
            return source.to_memory(), f"AnnData of {source.filename}"
    return source, "AnnData in memory"


def describe_paths(paths: Sequence[str | Path]) -> str:
    """Return what to call several files in messages."""
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def read_files(paths: Sequence[str | Path], layer: str | None = None, gene_name_key: str | None = None) -> AnnData:
    """Read files with the same genes in the matrix that ``layer`` names into memory, as one AnnData.

    Genes are the same if their names are, in the column ``gene_name_key`` if all files have it, else in ``var_names``.
    The result has the ``var_names`` of the first file.

    Raises
    ------
    DataError
        If there is none, one cannot be read, or genes differ or are named twice.
    """
    if not paths:
        raise DataError("path=[] names no file")
    parts = [read_file(path) for path in paths]
    if len(parts) == 1:
        return parts[0]
    where, tables = layer, []
    for part, path in zip(parts, paths, strict=True):
        where = matrix_of_adata(part, where, str(path))
        tables.append(part.raw.var if where == RAW else part.var)
    key = gene_name_key if all(gene_name_key in table.columns for table in tables) else None
    names = [gene_names_of(table, key, str(path)) for table, path in zip(tables, paths, strict=True)]
    check_same_genes(names, paths)
    for part, own, path in zip(parts, names, paths, strict=True):
        check_gene_names(own, str(path), key)
        check_all(part, str(path))  # what joins them trusts them
    return concat_cells(parts) if key is None else _join_by(parts, key, paths)


def _join_by(parts: Sequence[AnnData], key: str, paths: Sequence[str | Path]) -> AnnData:
    """Return the cells of all parts, whose genes are matched by a column; ``var_names`` may differ or not be unique."""
    originals = []
    for tables in zip(*map(_gene_tables, parts), strict=False):  # of .X, and of .raw if all have one
        column = key if all(key in table.columns for table in tables) else None
        names = [gene_names_of(table, column, str(path)) for table, path in zip(tables, paths, strict=True)]
        originals.append((column, dict(zip(names[0], tables[0].index, strict=True))))
        for table, own, path in zip(tables, names, paths, strict=True):
            check_gene_names(own, str(path), column)
            table.index = own
    joined = concat_cells(parts)
    for table, (column, index_of) in zip(_gene_tables(joined), originals, strict=True):
        if column is not None:
            table[column] = list(table.index)  # anndata drops the columns of .raw
        table.index = [index_of[name] for name in table.index]
    return joined


def _gene_tables(adata: AnnData) -> list[pd.DataFrame]:
    """Return the tables of the genes of ``.X`` and of ``.raw``, if there is one."""
    return [adata.var, *([] if adata.raw is None else [adata.raw.var])]


def concat_cells(parts: Sequence[AnnData]) -> AnnData:
    """Return the cells of all parts, with the columns that all tables have and the first one's order of genes."""
    import anndata

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Observation names are not unique")  # files number their cells
        return anndata.concat(list(parts), join="inner", merge="same")


def check_same_genes(genes: Sequence[Sequence[str]], paths: Sequence[str | Path]) -> None:
    """Check that files have the same genes, in any order.

    Raises
    ------
    DataError
        If they have not.
    """
    first = set(genes[0])
    for names, path in zip(genes, paths, strict=True):
        if odd := first.symmetric_difference(names):
            listed = ", ".join(sorted(odd)[:5])
            versions = {unversioned(name) for name in first} == {unversioned(name) for name in names}
            raise DataError(
                f"{paths[0]} and {path} have different genes: {len(odd)} are in one of them only, such as {listed}; "
                "files that are read as one need the same genes"
                + (". They differ in the version of the Ensembl identifier alone: rename them" if versions else "")
            )


def open_store(path: str | Path) -> Any:
    """Open an .h5ad file as an ``h5py.File`` or a zarr store as a ``zarr.Group``, for reading.

    Every file is opened here, so that each is checked to hold all its data itself.

    Raises
    ------
    DataError
        If there is no such file, it is neither, or an object of it has data outside it.
    """
    file = _existing(path)
    with translate_read_errors(path):
        if file.is_dir():
            import zarr

            check_codecs(file)
            # The consolidated copy of the metadata may differ from the files that were checked; zarr 2 ignores it.
            direct: dict[str, Any] = {} if zarr.__version__.startswith("2.") else {"use_consolidated": False}
            return zarr.open_group(str(file), mode="r", **direct)
        import h5py

        opened = h5py.File(file, "r")
        check_hdf5(opened, path)
        return opened


def read_file(path: str | Path) -> AnnData:
    """Read an .h5ad file or a zarr store into memory.

    Raises
    ------
    DataError
        If there is no such file, or it is some other directory, truncated, or no AnnData.
    """
    file = _existing(path)
    import anndata

    with warnings.catch_warnings(), translate_read_errors(path):
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # an error follows
        store = open_store(path)
        _check_room(store, path)
        adata = anndata.io.read_zarr(store) if file.is_dir() else anndata.io.read_h5ad(file)
        adata.obs, adata.var = read_table(store, "obs", str(path)), read_table(store, "var", str(path))
        if adata.raw is not None:
            adata.raw._var = read_table(store, "raw.var" if "raw.var" in store else "raw/var", str(path))
        return adata


def _check_room(store: Any, path: str | Path) -> None:
    """Check that memory has room for all arrays: some systems give more, and end the process later."""
    import psutil

    needed = num_bytes(store)
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    if needed > free:
        raise DataError(
            f"{path} claims arrays of {needed / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB of memory are free: if it "
            "is not damaged, store its counts as CSR, which can stay in the file (mode='streamed'), or leave layers out"
        )


@contextlib.contextmanager
def translate_read_errors(path: str | Path | None) -> Iterator[None]:
    """Tell of whatever goes wrong in a file as a DataError that names it.

    h5py, zarr and anndata raise what foreign content leads to: any error, want of memory for what it claims included.
    """
    try:
        yield
    except VaekitError:
        raise
    except Exception as error:
        if isinstance(error, BlockingIOError):  # HDF5 locks what it writes
            raise DataError(
                f"{path} is open for writing in another program. Close it there, then try again."
            ) from error
        if isinstance(error, PermissionError):
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        kind = "a zarr store" if Path(path or "").is_dir() else ".h5ad"
        raise DataError(
            f"{path} cannot be read as {kind}; it is truncated or was not written by AnnData ({error_line(error)})"
        ) from error


def _existing(path: str | Path) -> Path:
    local_paths(path)
    file = Path(path).expanduser()
    if file.is_dir() and not any((file / name).exists() for name in ("zarr.json", ".zgroup")):
        raise DataError(f"{path} is a directory: give the path of an .h5ad file; {_beside(file, file.name)}")
    if file.is_symlink() and not file.exists():
        raise DataError(f"{path} is a link to {os.readlink(file)!r}, which leads to no file. Give the path of a file.")
    if not file.exists():
        raise DataError(f"{path} does not exist; {_beside(file.parent, file.name)}")
    check_regular(file, path)
    return file


def local_paths(path: Any) -> list[str]:
    """Return a path, or several, as absolute paths.

    Raises
    ------
    DataError
        If it is neither, or one is a URL.
    """
    parts = [path] if isinstance(path, str | Path) else path
    if not isinstance(parts, Sequence) or not all(isinstance(part, str | Path) for part in parts):
        raise DataError(f"path={path!r} must be a file path or a list of file paths.")
    if url := next((str(part) for part in parts if "://" in str(part)), None):
        raise DataError(f"path={url!r} is a URL. Download it, and give the path of the file.")
    return [str(Path(part).expanduser().absolute()) for part in parts]


def _beside(folder: Path, name: str) -> str:
    if not folder.is_dir():
        return f"there is no folder {str(folder)!r} either"
    return f"in {str(folder)!r}: " + did_you_mean(name, sorted(file.name for file in folder.glob("*.h5ad")))


def pbmc68k() -> AnnData:
    """Return scanpy's packaged ``pbmc68k_reduced`` with its UMI counts in ``.X`` and ``layers["counts"]``.

    700 blood cells and 765 genes (Zheng et al., "Massively parallel digital transcriptional profiling of
    single cells", 2017). Its ``.raw`` holds ``v = log1p(count * 1e4 / n_counts)`` rounded to three decimals,
    with the cell's total ``n_counts`` (over all genes of the experiment) in ``.obs``, so that the counts are
    ``round(expm1(v) * n_counts / 1e4)``.

    Raises
    ------
    DataError
        If the installed scanpy packages other values, from which the counts do not come back.
    """
    import scanpy as sc

    adata = sc.datasets.pbmc68k_reduced()
    counts = adata.raw.X.tocsr().astype(np.float64)
    value = counts.data
    unit = np.repeat(1e4 / adata.obs["n_counts"].to_numpy(dtype=np.float64), np.diff(counts.indptr))
    counts.data = np.round(np.expm1(value) / unit)
    if np.abs(np.log1p(counts.data * unit) - value).max() > 0.00051:  # half of the last decimal
        raise DataError("scanpy.datasets.pbmc68k_reduced: its .raw does not give back whole counts with this scanpy")
    adata.X = counts.astype(np.float32)  # not scanpy's scaled values: what everything here reads by default
    adata.layers["counts"] = adata.X.copy()
    return adata
