"""Count matrices of 10x Cell Ranger, versions 2 and later: .h5 files, and directories of matrix.mtx and its names."""

from __future__ import annotations

import csv
import gzip
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit._core.memory_budget import CHUNK_BYTES, check_memory
from vaekit._core.threads import keep_threads
from vaekit.data.cells.count_checks import check_structure, single_precision
from vaekit.data.cells.stores import FILE_REMEDY, num_bytes, open_store, translate_read_errors
from vaekit.data.containment import check_files
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

GENE_EXPRESSION = "Gene Expression"
ENTRY_BYTES = 24  # of a value with its row and column, while it is read
MAX_LINE_BYTES = {"matrix": 100, "names": 2000}  # of one line of a text file
_DAMAGED = "The file is damaged. Copy it again, or write it again."


def is_10x_h5(file: Any) -> bool:
    """Return whether an open HDF5 file holds a count matrix of Cell Ranger."""
    return bool(_matrix_groups(file))


def _matrix_groups(file: Any) -> list[str]:
    """Return the count matrices: "matrix", or before version 3 one per genome."""
    parts = {"barcodes", "data", "indices", "indptr", "shape"}
    return [name for name, group in file.items() if hasattr(group, "keys") and parts <= set(group)]


def read_10x_h5(path: str | Path) -> AnnData:
    """Read the gene expression of a .h5 file of Cell Ranger.

    Raises
    ------
    DataError
        If the file is damaged, holds the matrices of several genomes (before version 3), or no gene expression.
    """
    file = open_store(path)
    keep_threads()
    with translate_read_errors(path), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # renamed below
        genomes = _matrix_groups(file)
        if len(genomes) > 1:
            raise DataError(
                f"{path} has a matrix for each of the genomes {', '.join(genomes)}. Read one with "
                f"scanpy.read_10x_h5({str(path)!r}, genome={genomes[0]!r}), and write it with AnnData.write_h5ad."
            )
        check_memory(3 * num_bytes(file[genomes[0]]), f"{path}", FILE_REMEDY)
        import scanpy as sc

        adata = sc.read_10x_h5(Path(path).expanduser(), gex_only=False)
    return _gene_expression(adata, path)


def find_matrix_files(directory: Path) -> list[Path]:
    """Return the files of a directory whose names end in matrix.mtx or matrix.mtx.gz."""
    return sorted(file for ending in ("", ".gz") for file in directory.glob(f"*matrix.mtx{ending}"))


def read_10x_directory(path: str | Path) -> AnnData:
    """Read the gene expression of a directory of Cell Ranger, of any version, or of STARsolo.

    Its files are matrix.mtx (genes by cells), barcodes.tsv, and features.tsv or, before version 3, genes.tsv; each may
    end in .gz, and all names may have the same prefix.

    Raises
    ------
    DataError
        If a file is missing or damaged, the directory has several matrices, or there is no gene expression.
    """
    import anndata
    import pandas as pd

    directory = Path(path).expanduser()
    matrices = find_matrix_files(directory)
    if len(matrices) > 1:
        names = ", ".join(file.name for file in matrices[:5])
        raise DataError(f"{path} has several matrices: {names}. Move each one, with its names, to its own directory.")
    check_files(directory, {matrices[0].name})
    prefix = matrices[0].name.partition("matrix.mtx")[0]
    barcodes = _find_file(directory, path, prefix, "barcodes.tsv")
    features = _find_file(directory, path, prefix, "features.tsv", "genes.tsv")
    with translate_read_errors(path):
        num_genes, num_cells = _check_matrix(matrices[0], path)
        names = _read_names(barcodes, num_cells, path)
        genes = _read_names(features, num_genes, path)
        counts = single_precision(anndata.io.read_mtx(matrices[0], dtype="float64").X.T.tocsr())
    if counts.shape != (len(names), len(genes)):
        raise DataError(
            f"{path}: {matrices[0].name} has {counts.shape[0]} cells and {counts.shape[1]} genes, but {barcodes.name} "
            f"has {len(names)} lines and {features.name} {len(genes)}. {_DAMAGED}"
        )
    var = pd.DataFrame({"gene_ids": genes[0].to_numpy()}, index=genes[min(1, genes.shape[1] - 1)].to_numpy())
    if genes.shape[1] > 2:
        var["feature_types"] = genes[2].to_numpy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # renamed below
        adata = anndata.AnnData(counts, obs=pd.DataFrame(index=names[0].to_numpy()), var=var)
    return _gene_expression(adata, path)


def _find_file(directory: Path, path: str | Path, prefix: str, *names: str) -> Path:
    """Return the first file of a directory with one of the names, with or without .gz."""
    for name in names:
        for file in (directory / f"{prefix}{name}", directory / f"{prefix}{name}.gz"):
            if file.exists():
                check_files(directory, {file.name})
                return file
    wanted = " or ".join(f"{prefix}{name}" for name in names)
    raise DataError(f"{path} has {prefix}matrix.mtx, but not {wanted} (or .gz). Copy all three files to it.")


def _open_text(file: Path) -> Any:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")


def _check_size(file: Path, num_lines: int, line_bytes: int) -> None:
    """Check that a text file has no more bytes than its lines can have: a small .gz file can hold terabytes."""
    limit, size = (num_lines + 1000) * line_bytes, 0
    with _open_text(file) as stream:
        while part := stream.read(CHUNK_BYTES // 16):
            size += len(part)
            if size > limit:
                raise DataError(f"{file} is longer than its {num_lines} lines can be. {_DAMAGED}")


def _check_matrix(file: Path, path: str | Path) -> tuple[int, int]:
    """Return the numbers of genes and cells of a matrix, after checks that it fits into memory."""
    with _open_text(file) as stream:
        line = stream.readline(1000)
        while line.startswith(b"%"):
            line = stream.readline(1000)
    sizes = [int(word) for word in line.split()]
    num_values = sizes[2] if len(sizes) == 3 else sizes[0] * sizes[1]
    check_memory(ENTRY_BYTES * num_values, f"{path}, {file.name}", FILE_REMEDY)
    _check_size(file, num_values, MAX_LINE_BYTES["matrix"])
    return sizes[0], sizes[1]


def _read_names(file: Path, num_lines: int, path: str | Path) -> pd.DataFrame:
    """Return the columns of a file of names, as text."""
    import pandas as pd

    check_memory(num_lines * MAX_LINE_BYTES["names"] // 10, f"{path}, {file.name}", _DAMAGED)
    _check_size(file, num_lines, MAX_LINE_BYTES["names"])
    return pd.read_csv(
        file, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE, encoding_errors="replace"
    )


def _gene_expression(adata: AnnData, path: str | Path) -> AnnData:
    """Return the features that are gene expression, with unique names."""
    check_structure(adata.X, f"{path}, matrix")  # the compiled loops of the selection do not check index arrays
    types = adata.var.get("feature_types")
    if types is not None and not (is_gene := (types == GENE_EXPRESSION).to_numpy()).all():
        others = ", ".join(sorted(set(types[~is_gene])))
        if not is_gene.any():
            raise DataError(
                f"{path} has no features of type {GENE_EXPRESSION!r}, only {others}. Pass the matrix of the gene "
                "expression library."
            )
        warnings.warn(
            f"{path}: only gene expression is read; {int((~is_gene).sum())} other features ({others}) are omitted.",
            UserWarning,
            stacklevel=3,
        )
        adata = adata[:, is_gene].copy()
    repeated = adata.var_names.duplicated(keep=False)
    if repeated.any():
        symbols = list(dict.fromkeys(adata.var_names[repeated]))
        warnings.warn(
            f"{path}: {len(symbols)} gene symbols occur more than once ({', '.join(symbols[:3])}"
            f"{', ...' if len(symbols) > 3 else ''}); these genes are named by their identifiers, such as "
            f"{adata.var['gene_ids'][repeated].iloc[0]}.",
            UserWarning,
            stacklevel=3,
        )
        adata.var["gene_symbols"] = adata.var_names.to_numpy()
        adata.var_names = np.where(repeated, adata.var["gene_ids"], adata.var_names)
    return adata
