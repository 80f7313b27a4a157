"""Cells in HDF5 files of other programs: .loom, and one modality of .h5mu."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from vaekit._core.memory_budget import CHUNK_BYTES, check_memory, free_memory
from vaekit.data.cells.stores import (
    FILE_REMEDY,
    GENES_IN_FLAGS,
    load_table,
    num_bytes,
    open_store,
    translate_read_errors,
)
from vaekit.exceptions import DataError, MissingPackageError, did_you_mean

if TYPE_CHECKING:
    from anndata import AnnData

EXPRESSION = "rna"  # name of the modality with gene expression in files of muon and MuData
CELL_NAMES, GENE_NAMES = ("CellID", "obs_names"), ("Gene", "var_names")  # of loompy, and of AnnData.write_loom
ENTRY_BYTES = 24  # of a value of a sparse matrix with its indices, while it is read


def read_h5mu(path: str | Path, genes_in: str | None = None) -> AnnData:
    """Read one modality of an .h5mu file; columns of the file's own table of cells are added to those of the modality.

    Parameters
    ----------
    path : str or Path
        File of MuData.
    genes_in : str, optional
        Name of the modality. None: the only one, or "rna".

    Raises
    ------
    DataError
        If the file is damaged, or the modality is not clear or does not exist.
    """
    from anndata.io import read_elem

    file = open_store(path)
    with warnings.catch_warnings(), translate_read_errors(path):
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # checked later
        name = _choose_modality(list(file["mod"]), genes_in, path)
        modality = file["mod"][name]
        check_memory(num_bytes(modality) + num_bytes(file["obs"]), f"{path}, {name}", FILE_REMEDY)
        adata = read_elem(modality)
        adata.obs, adata.var = load_table(modality, "obs"), load_table(modality, "var")
        table = load_table(file, "obs")
        columns = [key for key in table if key not in adata.obs and str(key).partition(":")[0] not in file["mod"]]
        if table.index.is_unique and columns:
            adata.obs = adata.obs.join(table[columns])
    return adata


def _choose_modality(names: list[str], genes_in: str | None, path: str | Path) -> str:
    """Return the name of the modality with the genes."""
    if genes_in is not None:
        if genes_in not in names:
            hint = did_you_mean(genes_in, names)
            raise DataError(f"genes_in={genes_in!r} not found in the modalities of {path}. {hint}")
        return genes_in
    chosen = names if len(names) == 1 else [name for name in names if name.lower() == EXPRESSION]
    if len(chosen) != 1:
        raise DataError(
            f"{path} has the modalities {', '.join(map(repr, names)) or 'none'}, of which none or several are called "
            f"{EXPRESSION!r}. Pass the name of one: genes_in={(names or [EXPRESSION])[0]!r} ({GENES_IN_FLAGS})."
        )
    return chosen[0]


def read_loom(path: str | Path) -> AnnData:
    """Read a .loom file: the main matrix as ``.X``, and its layers.

    Raises
    ------
    DataError
        If the file is damaged, or does not have the names of the genes.
    MissingPackageError
        If loompy is not installed.
    """
    file = open_store(path)
    if find_spec("loompy") is None:
        raise MissingPackageError(
            f'{path} is a .loom file, which loompy reads. Install it: pip install "vaekit[formats]"'
        )
    with warnings.catch_warnings(), translate_read_errors(path):
        warnings.simplefilter("ignore")  # of anndata and loompy, about types of names
        genes = next((name for name in GENE_NAMES if name in file["row_attrs"]), None)
        cells = next((name for name in CELL_NAMES if name in file["col_attrs"]), CELL_NAMES[0])
        if genes is None:
            raise DataError(
                f"{path} has no row attribute 'Gene' with the names of the genes, only "
                f"{', '.join(map(repr, file['row_attrs'])) or 'none'}. Add it with loompy: "
                "loompy.connect(path).ra.Gene = ..."
            )
        _check_loom_memory(file, path)
        dtype = file["matrix"].dtype.name
        import anndata

        file_path = str(Path(path).expanduser())
        return anndata.io.read_loom(file_path, X_name="", obs_names=cells, var_names=genes, dtype=dtype)


def _check_loom_memory(file: Any, path: str | Path) -> None:
    """Check that a .loom file fits into memory. Its dense matrices become sparse, so large ones are counted."""
    matrices = [file["matrix"], *file.get("layers", {}).values()]
    dense = sum(matrix.nbytes for matrix in matrices)
    size = num_bytes(file) - dense
    if dense + size > free_memory():
        with tqdm(total=sum(matrix.shape[0] for matrix in matrices), desc="measuring", unit="genes", delay=1) as bar:
            for matrix in matrices:
                step = max(1, CHUNK_BYTES * matrix.shape[0] // max(1, matrix.nbytes))
                for start in range(0, matrix.shape[0], step):
                    check_memory(step * matrix.nbytes // matrix.shape[0], f"{path}", FILE_REMEDY)
                    size += ENTRY_BYTES * int(np.count_nonzero(matrix[start : start + step]))
                    bar.update(min(step, matrix.shape[0] - start))
    else:
        size += dense
    check_memory(size, f"{path}", FILE_REMEDY)
