"""Files with the same cells in each form that ``vaekit.data.read_cells`` reads besides .h5ad and zarr."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import io, sparse


def write_10x_h5(cells: AnnData, directory: Path, name: str = "filtered_feature_bc_matrix.h5") -> Path:
    """Write a file of Cell Ranger 3 or later; .var may have gene_ids and feature_types."""
    with h5py.File(directory / name, "w") as file:
        group = _write_matrix(file, "matrix", cells)
        features = group.create_group("features")
        features["id"], features["name"] = np.array(gene_ids(cells), "S"), np.array(list(cells.var_names), "S")
        features["feature_type"] = np.array(feature_types(cells), "S")
        features["genome"] = np.array(["GRCh38"] * cells.n_vars, "S")
        features["_all_tag_keys"] = np.array(["genome"], "S")
    return directory / name


def write_10x_h5_v2(cells: AnnData, directory: Path, genomes: tuple[str, ...] = ("GRCh38",)) -> Path:
    """Write a file of Cell Ranger 2, with a group for each genome."""
    with h5py.File(directory / "filtered_gene_bc_matrices_h5.h5", "w") as file:
        for genome in genomes:
            group = _write_matrix(file, genome, cells)
            group["genes"], group["gene_names"] = np.array(gene_ids(cells), "S"), np.array(list(cells.var_names), "S")
    return directory / "filtered_gene_bc_matrices_h5.h5"


def _write_matrix(file: h5py.File, name: str, cells: AnnData) -> h5py.Group:
    group, counts = file.create_group(name), sparse.csr_matrix(cells.X)
    group["data"], group["indices"], group["indptr"] = counts.data.astype(np.int32), counts.indices, counts.indptr
    group["shape"], group["barcodes"] = np.array(cells.shape[::-1], np.int32), np.array(list(cells.obs_names), "S")
    return group


def gene_ids(cells: AnnData) -> list[str]:
    """Return the identifiers of the genes."""
    return list(cells.var.get("gene_ids", [f"ENSG{number:011}" for number in range(cells.n_vars)]))


def feature_types(cells: AnnData) -> list[str]:
    """Return the types of the features."""
    return list(cells.var.get("feature_types", ["Gene Expression"] * cells.n_vars))


def write_10x_directory(
    cells: AnnData, directory: Path, ending: str = ".gz", genes: str = "features.tsv", prefix: str = ""
) -> Path:
    """Write a directory of Cell Ranger 3 or later; ``genes.tsv`` and no ending give that of version 2."""
    path = directory / "filtered_feature_bc_matrix"
    path.mkdir()
    io.mmwrite(path / "plain.mtx", sparse.coo_matrix(cells.X.T.astype(np.int64)))
    columns = [gene_ids(cells), list(cells.var_names), *([feature_types(cells)] if genes == "features.tsv" else [])]
    texts = {
        "matrix.mtx": (path / "plain.mtx").read_text(),
        genes: "".join("\t".join(words) + "\n" for words in zip(*columns, strict=True)),
        "barcodes.tsv": "".join(f"{name}\n" for name in cells.obs_names),
    }
    (path / "plain.mtx").unlink()
    for name, text in texts.items():
        write_text(path / f"{prefix}{name}{ending}", text)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a text file, compressed if its name ends in .gz."""
    path.write_bytes(gzip.compress(text.encode(), 1) if path.suffix == ".gz" else text.encode())
    return path


def write_loom(cells: AnnData, directory: Path) -> Path:
    """Write a .loom file by loompy."""
    import loompy

    rows = {"Gene": cells.var_names.to_numpy(str), "Accession": np.array(gene_ids(cells))}
    columns = {"CellID": cells.obs_names.to_numpy(str), **{key: cells.obs[key].to_numpy(str) for key in cells.obs}}
    loompy.create(str(directory / "cells.loom"), sparse.coo_matrix(cells.X.T), rows, columns)
    return directory / "cells.loom"


def write_h5mu(cells: AnnData, directory: Path, **others: AnnData) -> Path:
    """Write an .h5mu file with the modality "rna" and others; its own table has the column "donor"."""
    import mudata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = mudata.MuData({"rna": cells.copy(), **others})
        both.obs["donor"] = pd.Categorical(np.array(["d1", "d2"])[np.arange(both.n_obs) % 2])
        both.write(directory / "cells.h5mu")
    return directory / "cells.h5mu"


def write_table(cells: AnnData, directory: Path, name: str, genes_in: str = "rows", sep: str = ",") -> Path:
    """Write a table of counts as text."""
    table = cells.to_df().astype(int)
    return write_text(directory / name, (table.T if genes_in == "rows" else table).to_csv(sep=sep))


FORMATS: dict[str, Callable[[AnnData, Path], Path]] = {
    "10x .h5": write_10x_h5,
    "10x .h5, version 2": write_10x_h5_v2,
    "10x directory": write_10x_directory,
    "10x directory, not compressed": lambda cells, directory: write_10x_directory(cells, directory, ""),
    "10x directory, version 2": lambda cells, directory: write_10x_directory(cells, directory, "", "genes.tsv"),
    "10x directory, prefix": lambda cells, directory: write_10x_directory(cells, directory, prefix="GSM1_s_"),
    "loom": write_loom,
    "h5mu": write_h5mu,
    "csv, genes by cells": lambda cells, directory: write_table(cells, directory, "counts.csv"),
    "csv, cells by genes": lambda cells, directory: write_table(cells, directory, "counts.csv", "columns"),
    "tsv.gz": lambda cells, directory: write_table(cells, directory, "counts.tsv.gz", sep="\t"),
}
