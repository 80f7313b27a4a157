"""Cells that a trained model has not seen, brought into the form that it was trained on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from vaekit.data.cells.columns import read_column
from vaekit.data.cells.covariates import REFERENCE_KEYS, CovariateKeys, check_keys, read_covariates
from vaekit.data.cells.genes import align_genes, match_genes
from vaekit.data.cells.matrices import RAW, matrix_of_adata
from vaekit.data.cells.read_counts import read_counts, warn_empty
from vaekit.data.cells.size_factors import query_size_factors
from vaekit.data.cells.sources import open_adata
from vaekit.data.dataset import CountDataset
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from anndata import AnnData


class QueryData(NamedTuple):
    """Cells in the form of a checkpoint.

    Attributes
    ----------
    dataset
        Counts with the checkpoint's genes, covariates and size factors.
    missing_genes
        Genes of the checkpoint that the data lack; they are unobserved (``Batch.observed``).
    obs_names
        Names of the cells.
    labels
        Class name of each cell, object array ``[cells]``, None where unknown.
    label_categories
        Names of the classes, numbered as in ``Batch.label``; empty without ``label_key``.
    adata
        The AnnData that the cells come from.
    source
        What the data are, in words.
    """

    dataset: CountDataset
    missing_genes: list[str]
    obs_names: list[str]
    labels: np.ndarray
    label_categories: list[str]
    adata: AnnData
    source: str


def query_dataset(
    source: AnnData | str | Path | Sequence[str | Path],
    registry: Mapping[str, Any],
    layer: str | None = None,
    batch_key: str | None = None,
    label_key: str | None = None,
    *,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    size_factor_key: str | None = None,
    gene_name_key: str | None = None,
) -> QueryData:
    """Read cells for a trained model: genes, batches and levels are matched by name.

    Genes that the cells lack are unobserved, which is not the same as a count of 0: the encoder sees its training
    mean there, and more of how the other genes deviate from theirs; the likelihood leaves them out; and a size factor
    that is a total count is divided by the share that the other genes had of the training counts.

    Parameters
    ----------
    source
        An AnnData, the path of an .h5ad file, or the paths of several; it is not changed.
    registry
        ``GeneExpressionData.state_dict()``, as the checkpoint holds it.
    layer, batch_key, label_key
        As for :class:`GeneExpressionData`. Where the checkpoint knows one batch only, ``batch_key`` may be
        None.
    categorical_covariate_keys, continuous_covariate_keys
        Columns in the order of the checkpoint's; None for the same names.
    size_factor_key
        Column of size factors, in the unit of the checkpoint's; None for the same name.
    gene_name_key
        Column of ``.var`` with the names of the genes; None for the checkpoint's column where there is one of that
        name, else ``var_names``.

    Warns
    -----
    UserWarning
        If genes are missing, or cells have no counts.

    Raises
    ------
    DataError
        If the source cannot be read, its values are no counts, fewer than half of the checkpoint's genes are
        there, or covariates are missing or unknown to the checkpoint.
    """
    if missing_keys := [key for key in REFERENCE_KEYS if key not in registry]:
        raise DataError(f"the reference lacks {missing_keys}: pass the state_dict() of a GeneExpressionData")
    wanted = list(registry["feature_names"])
    adata, name = open_adata(source, layer, gene_name_key or registry["gene_name_key"])
    layer = matrix_of_adata(adata, layer, name)
    table = adata.raw.var if layer == RAW else adata.var
    if gene_name_key is None and registry["gene_name_key"] in table.columns:
        gene_name_key = registry["gene_name_key"]
    counts, genes = read_counts(adata, layer, name, gene_name_key)
    genes = match_genes(genes, wanted, name, table)
    keys = CovariateKeys(batch_key, categorical_covariate_keys, continuous_covariate_keys)
    check_keys(keys)
    known = read_covariates(adata.obs, keys, name, registry=registry)
    label = None if label_key is None else read_column(adata.obs, label_key, "label_key", name)
    counts, missing = align_genes(counts, genes, wanted)
    if missing:
        warnings.warn(
            f"{name} lacks {len(missing)} of the checkpoint's {len(wanted)} genes; they are "
            "taken as unobserved: " + ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else ""),
            UserWarning,
            stacklevel=2,
        )
    observed = np.isin(wanted, missing, invert=True)
    size_factor_key = size_factor_key or registry["size_factor_key"]
    sizes = query_size_factors(adata.obs, size_factor_key, name, counts, observed, registry)
    dataset = CountDataset(
        counts,
        known.values,
        None if label is None else torch.from_numpy(label.codes),
        torch.from_numpy(sizes.astype(np.float32))[:, None],
        torch.from_numpy(observed) if missing else None,
    )
    empty = np.flatnonzero(np.diff(dataset.counts.indptr) == 0)
    warn_empty(len(empty), len(dataset), name, [str(adata.obs_names[row]) for row in empty[:3]])
    return QueryData(
        dataset=dataset,
        missing_genes=missing,
        obs_names=[str(cell) for cell in adata.obs_names],
        labels=np.full(len(dataset), None, dtype=object) if label is None else label.names(),
        label_categories=[] if label is None else label.categories,
        adata=adata,
        source=name,
    )
