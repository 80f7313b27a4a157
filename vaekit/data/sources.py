"""Where an AnnData comes from: memory, an .h5ad file, or the data set packaged with scanpy."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.exceptions import DataError, nearest

if TYPE_CHECKING:
    from anndata import AnnData


def open_adata(source: Any) -> tuple[AnnData, str]:
    """Return the AnnData behind ``source`` (an AnnData or a path) and what to call it in messages.

    A backed AnnData is read into memory; what the caller holds is never changed.

    Raises
    ------
    DataError
        If the file cannot be read, or ``source`` is neither.
    """
    if isinstance(source, str | Path):
        return read_h5ad(source), str(source)
    from anndata import AnnData

    if not isinstance(source, AnnData):
        raise DataError(f"adata is a {type(source).__name__}: pass an AnnData, or the path of an .h5ad file as path=")
    if source.isbacked:
        return source.to_memory(), f"AnnData of {source.filename}"
    return source, "AnnData in memory"


def read_h5ad(path: str | Path) -> AnnData:
    """Read an .h5ad file into memory.

    Raises
    ------
    DataError
        If there is no such file, or it is a directory, truncated, or no AnnData.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise DataError(f"{path} is a directory: give the path of an .h5ad file; {_beside(file, file.name)}")
    if not file.exists():
        raise DataError(f"{path} does not exist; {_beside(file.parent, file.name)}")
    import anndata

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # an error follows
        try:
            return anndata.read_h5ad(file)
        except Exception as error:  # h5py and anndata raise whatever the foreign content leads to
            raise DataError(
                f"{path} cannot be read as .h5ad; it is truncated or was not written by AnnData.write_h5ad "
                f"({type(error).__name__}: {error})"
            ) from error


def _beside(folder: Path, name: str) -> str:
    if not folder.is_dir():
        return f"there is no folder {str(folder)!r} either"
    return f"in {str(folder)!r}: " + nearest(name, sorted(file.name for file in folder.glob("*.h5ad")))


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
