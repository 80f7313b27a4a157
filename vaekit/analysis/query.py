"""Cells for a trained model: an AnnData as it is, a file a chunk of cells at a time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vaekit.analysis.model_source import get_data_registry
from vaekit.analysis.stored_cells import BackedCells
from vaekit.data.cells.align import QueryData, query_dataset
from vaekit.data.cells.backed_counts import BackedCounts, gene_columns, is_csr, matrix_of_file, read_obs
from vaekit.data.cells.columns import read_column
from vaekit.data.cells.covariates import CovariateKeys, check_keys, read_covariates
from vaekit.data.cells.genes import align_genes, match_genes
from vaekit.data.cells.matrices import RAW, X, counts_are_there
from vaekit.data.cells.read_counts import warn_empty
from vaekit.data.cells.size_factors import query_size_factors
from vaekit.data.cells.sources import open_adata, open_store
from vaekit.exceptions import CheckpointError, DataError
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse


def prepare_query(
    model: VAE,
    source: AnnData | str | Path | Sequence[str | Path],
    layer: str | None,
    batch_key: str | None,
    label_key: str | None = None,
) -> QueryData:
    """Read cells for a trained model; None stands for what the model was trained with.

    The counts of a file stay there if they are stored as CSR, and its ``adata`` then holds the tables alone.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression.
    DataError
        If the cells do not fit the model.
    """
    registry = counts_reference(model)
    trained = registry["config"]["init_args"]
    layer, batch_key = layer or registry["matrix"], batch_key or trained["batch_key"]
    if isinstance(source, str | Path):
        layer = matrix_of_file(str(source), layer)
        if is_csr(str(source), layer):
            return stored_query(str(source), registry, layer, batch_key, label_key)
    return query_dataset(source, registry, layer, batch_key, label_key)


def counts_reference(model: VAE) -> dict[str, Any]:
    """Return the names and the split of the cells that a model was trained on.

    Raises
    ------
    CheckpointError
        If it was never trained on a datamodule, or on images.
    """
    registry = get_data_registry(model)
    if "feature_names" not in registry:
        raise CheckpointError("the model was trained on images; this is for gene expression")
    return registry


def obs_of(source: AnnData | str | Path | Sequence[str | Path]) -> tuple[pd.DataFrame, str]:
    """Return the table of the cells, and what to call them in messages."""
    if isinstance(source, str | Path):
        return read_obs(str(source)), str(source)
    adata, name = open_adata(source)
    return adata.obs, name


def stored_query(
    path: str, registry: Mapping[str, Any], matrix: str, batch_key: str | None, label_key: str | None
) -> QueryData:
    """Do for a file whose counts stay there what ``vaekit.data.query_dataset`` does in memory.

    Everything but the counts is checked before these are read, once, for their values and their totals.
    """
    wanted = list(registry["feature_names"])
    gene_name_key = registry["gene_name_key"] if registry["gene_name_key"] in gene_columns(path, matrix) else None
    stored = BackedCounts([path], matrix, path if matrix == X else f"{path}, {matrix}", gene_name_key)
    obs = stored.table.obs
    stored.genes = match_genes(stored.genes, wanted, path, stored.var)
    keys = CovariateKeys(batch_key, None, None)
    check_keys(keys)
    known = read_covariates(obs, keys, path, registry=registry)
    label = None if label_key is None else read_column(obs, label_key, "label_key", path)
    have = set(stored.genes)
    missing = [gene for gene in wanted if gene not in have]
    observed = np.isin(wanted, missing, invert=True)
    size_factor_key = registry["size_factor_key"]
    totals = np.zeros(len(obs))
    query_size_factors(obs, size_factor_key, path, _column(totals), observed, registry)  # what is wrong, before
    if missing:
        warnings.warn(
            f"{path} lacks {len(missing)} of the checkpoint's {len(wanted)} genes; they are "
            "taken as unobserved: " + ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else ""),
            UserWarning,
            stacklevel=3,
        )
    try:
        for start, cells in stored.chunks("reading counts"):
            aligned = align_genes(cells, stored.genes, wanted)[0]
            totals[start : start + cells.shape[0]] = np.asarray(aligned.sum(axis=1, dtype=np.float64)).ravel()
    except DataError as error:
        raise DataError(f"{error}; {_count_layers(path, matrix)}") from None
    sizes = query_size_factors(obs, size_factor_key, path, _column(totals), observed, registry)
    dataset = BackedCells(
        path,
        stored,
        wanted,
        known.values,
        None if label is None else torch.from_numpy(label.codes),
        torch.from_numpy(sizes.astype(np.float32))[:, None],
        torch.from_numpy(observed) if missing else None,
    )
    empty = np.flatnonzero(totals == 0)
    warn_empty(len(empty), len(dataset), path, [str(obs.index[row]) for row in empty[:3]])
    return QueryData(
        dataset=dataset,  # type: ignore[arg-type]  # in a file or in memory, it gives batches
        missing_genes=missing,
        obs_names=[str(cell) for cell in obs.index],
        labels=np.full(len(dataset), None, dtype=object) if label is None else label.names(),
        label_categories=[] if label is None else label.categories,
        adata=stored.table,
        source=path,
    )


def _column(totals: np.ndarray) -> sparse.csr_matrix:
    """Return counts of one gene: their sums are the totals."""
    from scipy import sparse

    return sparse.csr_matrix(totals[:, None])


def _count_layers(path: str, asked: str) -> str:
    """Return how to get at the matrices of a file that do hold counts."""
    store = open_store(path)
    layers = list(store.get("layers", ()))
    places = [X, *(f"/layers/{name}" for name in layers), RAW]
    found = [matrix for matrix in places if matrix != asked and is_csr(path, matrix) and _holds_counts(path, matrix)]
    return (
        counts_are_there(found, layers) if found else "no other matrix of the file that is stored as CSR holds counts"
    )


def _holds_counts(path: str, matrix: str) -> bool:
    try:
        for _ in BackedCounts([path], matrix, path).chunks("looking for counts"):
            pass
    except DataError:
        return False
    return True
