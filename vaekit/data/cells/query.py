"""Cells for a trained model: matched to its genes, covariates and size factors by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from vaekit.data.cells.columns import read_column
from vaekit.data.cells.count_dataset import CellDataset
from vaekit.data.cells.count_source import CountSource
from vaekit.data.cells.covariates import REGISTRY_KEYS, CovariateKeys, read_covariates
from vaekit.data.cells.shared_genes import match_genes
from vaekit.data.cells.size_factors import query_size_factors
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


class QueryData(NamedTuple):
    """Cells in the form of a checkpoint's training data.

    Attributes
    ----------
    dataset : CellDataset
        Counts of the checkpoint's genes, with covariates and size factors.
    missing_genes : list of str
        Genes of the checkpoint that the cells lack. They are unobserved (``Batch.observed``).
    obs_names : list of str
        Names of the cells.
    labels : ndarray, shape (cells,)
        Class name of each cell as an object, None if unknown.
    label_categories : list of str
        Names of the classes, in the order of ``Batch.label``; empty without ``label_key``.
    adata : AnnData
        The cells; if their counts stay in files, their tables only.
    source : str
        Name of the cells in messages.

    Examples
    --------
    >>> import vaekit
    >>> query = vaekit.analysis.prepare_query(model, adata[:, :50])
    >>> len(query.dataset), query.missing_genes[:2]
    (300, ['gene50', 'gene51'])
    """

    dataset: CellDataset
    missing_genes: list[str]
    obs_names: list[str]
    labels: np.ndarray
    label_categories: list[str]
    adata: AnnData
    source: str


def prepare_query(
    source: CountSource,
    registry: Mapping[str, Any],
    batch_key: str | None = None,
    label_key: str | None = None,
    *,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    size_factor_key: str | None = None,
) -> QueryData:
    """Convert cells to the form of a checkpoint's training data. Tables are checked before counts are read.

    Genes that the cells lack are unobserved, which differs from a count of 0: the encoder receives the training mean
    for them, and scales up the deviations of the other genes; the likelihood ignores them; and a size factor that is a
    total count is divided by the fraction of the training counts in the other genes.

    Parameters
    ----------
    source : CountSource
        Cells, from :func:`vaekit.data.open_counts`.
    registry : mapping
        ``GeneExpressionData.state_dict()``, as stored in the checkpoint.
    batch_key, label_key : str or None
        As for :class:`vaekit.data.GeneExpressionData`. A ``batch_key`` of None means the name of the checkpoint's
        column. The cells need not have this column if the checkpoint has one batch only, or was trained without batches
        and extended by :func:`vaekit.analysis.map_query`: they count as reference cells. The name of a batch that is
        not a column of the cells means this batch for all of them.
    categorical_covariate_keys, continuous_covariate_keys : sequence of str or None
        Columns in the order of the checkpoint's; None means the same names.
    size_factor_key : str or None
        Column of size factors, in the unit of the checkpoint's; None means the same name.

    Warns
    -----
    UserWarning
        If genes are missing, cells have no counts, or values were rounded (``round_counts`` of the training data).

    Raises
    ------
    DataError
        If values are not counts, the cells have too few of the checkpoint's genes, or covariates are missing or unknown
        to the checkpoint.

    Examples
    --------
    >>> import vaekit
    >>> source = vaekit.data.open_counts(adata[:100])
    >>> query = vaekit.data.prepare_query(source, model.data_registry)
    >>> len(query.dataset), query.missing_genes
    (100, [])
    """
    if not isinstance(source, CountSource):
        kind = type(source).__name__
        raise DataError(f"prepare_query: source is a {kind}. Pass vaekit.data.open_counts(cells, layer).")
    if missing_keys := [key for key in REGISTRY_KEYS if key not in registry]:
        raise DataError(f"registry lacks {missing_keys}. Pass the state_dict() of a GeneExpressionData.")
    genes, obs, name = list(registry["feature_names"]), source.obs, source.name
    mean = registry["mean"].double().cpu().numpy()
    names = match_genes(source.all_genes, genes, mean, name, source.var, registry["gene_name_key"])
    batch_key = _choose_batch_key(batch_key, obs, registry, name)
    keys = CovariateKeys(batch_key, categorical_covariate_keys, continuous_covariate_keys)
    keys.check()
    covariates = read_covariates(obs, keys, name, registry=registry)
    label = None if label_key is None else read_column(obs, label_key, "label_key", name)
    observed = np.isin(genes, names)
    missing = [gene for gene, present in zip(genes, observed, strict=True) if not present]
    size_factor_key = size_factor_key or registry["size_factor_key"]
    sizes, fraction = query_size_factors(obs, size_factor_key, name, observed, registry)
    counts = source.select_genes(genes, names).round_counts(registry["round_counts"])
    totals = counts.totals()
    counts.warn_rounded()
    warn_empty(totals, name)
    sizes = np.maximum(totals, 1) / fraction if sizes is None else sizes
    dataset = counts.dataset(
        ordered=True,
        covariates=covariates.values,
        label=None if label is None else torch.from_numpy(label.codes),
        size_factor=torch.from_numpy(sizes.astype(np.float32))[:, None],
        observed=torch.from_numpy(observed) if missing else None,
    )
    return QueryData(
        dataset=dataset,
        missing_genes=missing,
        obs_names=[str(cell) for cell in obs.index],
        labels=np.full(len(dataset), None, dtype=object) if label is None else label.names(),
        label_categories=[] if label is None else label.categories,
        adata=source.adata,
        source=name,
    )


def trained_batch_key(registry: Mapping[str, Any]) -> str | None:
    """Return the column of queries with the batch: that of the training data, or of cells that were mapped."""
    return registry.get("query_batch_key") or registry["config"]["init_args"]["batch_key"]


def _choose_batch_key(batch_key: str | None, obs: pd.DataFrame, registry: Mapping[str, Any], source: str) -> str | None:
    """Return the column with the batch; None if all cells are of the checkpoint's only or default batch.

    Files that were mapped without a column do not differ from reference cells, so they cause a warning.
    """
    trained_key, default = trained_batch_key(registry), registry.get("default_batch")
    if batch_key is not None or trained_key in obs.columns:
        return batch_key or trained_key
    if default is None:
        return trained_key if len(registry["batch_categories"]) > 1 else None
    if unmarked := [name for each in registry["mappings"] if each["batch_key"] is None for name in each["batches"]]:
        warnings.warn(
            f"{source} has no column {trained_key!r}, so its cells are treated as batch {default!r}. Pass "
            f"batch_key={unmarked[-1]!r} for the cells of {registry['mappings'][-1]['source']}, and "
            f"batch_key={default!r} for reference cells.",
            UserWarning,
            stacklevel=4,
        )
    return None


def warn_empty(totals: np.ndarray, source: str) -> None:
    """Warn once about cells without counts, which stay in the data; raise a DataError if no cell has a count."""
    empty = np.flatnonzero(totals == 0)
    if not len(empty):
        return
    rows = ", ".join(map(str, empty[:3])) + (", ..." if len(empty) > 3 else "")  # not names, which may be private
    if len(empty) == len(totals):
        raise DataError(
            f"{source}: none of the {len(totals)} cells has counts in the modeled genes. Check the layer and "
            "the names of the genes. scanpy.pp.filter_cells(adata, min_counts=1) removes cells without counts."
        )
    warnings.warn(
        f"{source}: {len(empty)} of {len(totals)} cells have no counts in the modeled genes (rows {rows}); they get "
        "size factor 1. scanpy.pp.filter_cells(adata, min_counts=1) removes cells without any count.",
        UserWarning,
        stacklevel=3,
    )
