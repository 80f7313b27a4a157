"""Cells that a trained model has not seen, brought into the form that it was trained on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from vaekit.data.columns import one_hot, read_batches, read_column
from vaekit.data.counts import read_counts, warn_empty
from vaekit.data.dataset import CountDataset
from vaekit.data.genes import align_genes, check_shared_genes
from vaekit.data.sources import open_adata
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from anndata import AnnData


class QueryData(NamedTuple):
    """Cells in the form of a checkpoint.

    Attributes
    ----------
    dataset
        Counts with the checkpoint's genes and batches; the size factor is the total over these genes.
    missing_genes
        Genes of the checkpoint that the data lack; their counts are 0.
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
    source: AnnData | str | Path,
    reference: Mapping[str, Any],
    layer: str | None = None,
    batch_key: str | None = None,
    label_key: str | None = None,
) -> QueryData:
    """Read cells for a trained model: genes and batches are matched by name.

    Parameters
    ----------
    source
        An AnnData or the path of an .h5ad file; it is not changed.
    reference
        ``GeneExpressionData.state_dict()``, as the checkpoint holds it.
    layer, batch_key, label_key
        As for :class:`GeneExpressionData`. Where the checkpoint knows one batch only, ``batch_key`` may be
        None.

    Warns
    -----
    UserWarning
        If genes are missing, or cells have no counts.

    Raises
    ------
    DataError
        If the source cannot be read, its values are no counts, fewer than half of the checkpoint's genes are
        there, or batches are missing or unknown to the checkpoint.
    """
    if missing_keys := [key for key in ("feature_names", "batch_categories") if key not in reference]:
        raise DataError(f"the reference lacks {missing_keys}: pass the state_dict() of a GeneExpressionData")
    wanted = list(reference["feature_names"])
    adata, name = open_adata(source)
    counts, genes = read_counts(adata, layer, name)
    check_shared_genes(genes, wanted, name, adata.var)
    batch = read_batches(adata.obs, batch_key, name, list(reference["batch_categories"]))
    label = None if label_key is None else read_column(adata.obs, label_key, "label_key", name)
    counts, missing = align_genes(counts, genes, wanted)
    if missing:
        warnings.warn(
            f"{name} lacks {len(missing)} of the checkpoint's {len(wanted)} genes; their counts are "
            "taken as 0: " + ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else ""),
            UserWarning,
            stacklevel=2,
        )
    dataset = CountDataset(counts, one_hot(batch), None if label is None else torch.from_numpy(label.codes))
    warn_empty(dataset.num_empty, len(dataset), name)
    return QueryData(
        dataset=dataset,
        missing_genes=missing,
        obs_names=[str(cell) for cell in adata.obs_names],
        labels=np.full(len(dataset), None, dtype=object) if label is None else label.names(),
        label_categories=[] if label is None else label.categories,
        adata=adata,
        source=name,
    )
