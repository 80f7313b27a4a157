"""Transfer of labels from reference cells to the cells near them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.analysis.embed import summarize_cells
from vaekit.analysis.fields import check_free
from vaekit.analysis.label_neighbors import LabelNeighbors, choose_n_neighbors, within_label_metric
from vaekit.analysis.model_source import (
    check_in_memory,
    check_query,
    get_count_registry,
    open_cells,
    prepare_query,
    provenance,
    resolve_model,
)
from vaekit.data.cells.query import QueryData
from vaekit.diagnostics.usage import coordinates
from vaekit.exceptions import DataError
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def transfer_labels(
    reference_adata: AnnData | str | Path | Sequence[str | Path],
    query_adata: AnnData,
    model: VAE | str | Path,
    label_key: str,
    *,
    n_neighbors: int | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str | None = None,
    batch_size: int = 1024,
    progress: bool = False,
) -> None:
    r"""Label cells by their nearest labeled neighbors in the model's latent space.

    The weight of a label l is

    .. math:: \frac{\sum_{i: l_i = l} \exp(-d_i^2 / 2 \sigma^2)}{\sum_i \exp(-d_i^2 / 2 \sigma^2)}

    over the ``n_neighbors`` nearest reference cells i, with their distances :math:`d_i` and the mean distance
    :math:`\sigma`. Reference cells at the distance of the last neighbor have equal parts of its weight. Distances are
    those between posterior means, in units of their spread within the labels of the reference:

    .. math:: d_i^2 = (\mu - \mu_i)^T \Big(S + 0.05\, \frac{\mathrm{tr}\, S}{D}\, I\Big)^{-1} (\mu - \mu_i)

    with the covariance S of the D dimensions within labels, pooled over the labels.

    Every cell gets the label with the highest weight, the first category if several have it. The user decides which
    uncertainty is too high.

    Parameters
    ----------
    reference_adata : AnnData, path, or list of paths
        Cells with labels; not changed. Cells without a label (NaN) are ignored.
    query_adata : AnnData
        Cells to label; changed in ``.obs`` and ``.uns``.
    model : VAE or path
        Trained model, or its checkpoint. :func:`vaekit.analysis.map_query` extends it by the batches of the query.
    label_key : str
        Column of the reference's ``.obs``.
    n_neighbors : int, optional
        Number of neighbors. None means the one of 5, 10, 15, 25, 50 and 100 that gives the label of left-out reference
        cells the highest mean log-weight.
    layer, batch_size, progress
        As in :func:`vaekit.analysis.embed`, for reference and query.
    batch_key : str, optional
        As in :func:`vaekit.analysis.embed`, for reference and query. A reference without this column counts as the
        training cells of a model that was trained without batches.
    key_added : str, optional
        Column of ``query_adata.obs``. None means ``label_key`` with the suffix ``_transferred``.

    Sets the following fields:

    ``query_adata.obs[key_added]``
        Label, a categorical with the categories of the reference's column in their order. If that column is not a
        categorical, the categories are its values in their type.
    ``query_adata.obs["<key_added>_uncertainty"]``
        1 minus the weight of the label: 0 if all neighbors agree.
    ``query_adata.uns[key_added]``
        Provenance, with the number of neighbors.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression.
    DataError
        If cells do not fit the model, the column is not found or has fewer labels than ``n_neighbors``, or
        ``key_added`` is taken.

    Notes
    -----
    After Lotfollahi et al. (2022), Mapping single-cell data to reference atlases by transfer learning, with the metric
    of Hastie & Tibshirani (1996), Discriminant adaptive nearest neighbor classification.

    Examples
    --------
    >>> import vaekit
    >>> known, new = adata[:200].copy(), adata[200:].copy()
    >>> vaekit.analysis.transfer_labels(known, new, model, "cluster")
    >>> new.obs[["cluster_transferred", "cluster_transferred_uncertainty"]].shape
    (100, 2)
    """
    check_in_memory(query_adata, argument="query_adata")
    key_added = f"{label_key}_transferred" if key_added is None else key_added
    check_label_fields(query_adata, key_added)
    model, checkpoint = resolve_model(model)
    reference_key = _reference_batch_key(model, reference_adata, layer, batch_key)
    reference = prepare_query(model, reference_adata, layer, reference_key, label_key)
    _labeled_cells(reference, label_key, n_neighbors)
    query = prepare_query(model, query_adata, layer, batch_key)
    arguments = {"key_added": key_added, "batch_size": batch_size, "progress": progress, "checkpoint": checkpoint}
    fields = label_fields(reference, query, model, label_key, n_neighbors=n_neighbors, **arguments)  # type: ignore[arg-type]
    for place, values in fields.items():
        for key, value in values.items():
            getattr(query_adata, place)[key] = value


def check_label_fields(places: Any, key_added: str) -> None:
    """Check that the fields of :func:`transfer_labels` are free in an AnnData, or in the open file of one.

    Examples
    --------
    >>> import vaekit
    >>> vaekit.analysis.check_label_fields(adata, "transferred")  # free: nothing happens
    """
    check_free(places, key_added, {"obs": [key_added, f"{key_added}_uncertainty"]}, key_added)


def label_fields(
    reference: QueryData,
    query: QueryData,
    model: VAE,
    label_key: str,
    *,
    n_neighbors: int | None = None,
    key_added: str | None = None,
    batch_size: int = 1024,
    progress: bool = False,
    checkpoint: str = "",
) -> dict[str, dict[str, Any]]:
    """Return the fields that :func:`transfer_labels` writes, by attribute and key, for cells in memory or in a file.

    ``reference`` and ``query`` are results of :func:`vaekit.analysis.prepare_query`, the former with ``label_key``.

    Examples
    --------
    >>> import vaekit
    >>> known = vaekit.analysis.prepare_query(model, adata[:200], label_key="cluster")
    >>> new = vaekit.analysis.prepare_query(model, adata[200:])
    >>> fields = vaekit.analysis.label_fields(known, new, model, "cluster")
    >>> list(fields["obs"])
    ['cluster_transferred', 'cluster_transferred_uncertainty']
    """
    import pandas as pd

    key_added = f"{label_key}_transferred" if key_added is None else key_added
    check_query(reference, "reference")
    check_query(query)
    labeled = _labeled_cells(reference, label_key, n_neighbors)
    codes = reference.dataset.label.numpy()[labeled]  # type: ignore[union-attr]  # label_key was given
    known, points = (_embed(model, cells, batch_size, progress) for cells in (reference, query))
    known, num_labels = known[labeled], len(reference.label_categories)
    metric = within_label_metric(known, codes, num_labels)
    known, points = known @ metric, points @ metric
    if n_neighbors is None:
        names = [reference.obs_names[row] for row in labeled]
        n_neighbors = choose_n_neighbors(known, codes, num_labels, names)
    neighbors = LabelNeighbors(known, codes, num_labels, n_neighbors)
    parts = [neighbors.weights(points[start : start + batch_size]) for start in range(0, len(points), batch_size)]
    weights, labels = np.concatenate(parts), _labels(reference, label_key)
    transferred = pd.Categorical.from_codes(labels.codes[weights.argmax(1)], dtype=labels.dtype)
    record = {"n_neighbors": n_neighbors, **provenance(model, query.missing_genes, checkpoint)}
    uncertainty = np.clip(1 - weights.max(1), 0, 1)
    return {"obs": {key_added: transferred, f"{key_added}_uncertainty": uncertainty}, "uns": {key_added: record}}


def _reference_batch_key(model: VAE, reference: Any, layer: str | None, batch_key: str | None) -> str | None:
    """Return the batch column of the reference; None for training cells without the column of the query."""
    if batch_key is None or "default_batch" not in get_count_registry(model):
        return batch_key
    return batch_key if batch_key in open_cells(model, reference, layer).obs.columns else None


def _labeled_cells(reference: QueryData, label_key: str, n_neighbors: int | None) -> np.ndarray:
    """Return the indices of the cells with a label; raise a DataError if there are not enough."""
    labeled = np.flatnonzero(reference.dataset.label.numpy() >= 0)  # type: ignore[union-attr]
    if not len(labeled):
        raise DataError(
            f"label_key={label_key!r}: all {len(reference.obs_names)} cells of {reference.source} have no label (NaN). "
            "Pass a column with labels."
        )
    if n_neighbors is not None and not 1 <= n_neighbors <= len(labeled):
        raise DataError(
            f"n_neighbors={n_neighbors} must be between 1 and the number of cells with a label in {label_key!r}, "
            f"{len(labeled)}."
        )
    return labeled


def _embed(model: VAE, cells: QueryData, batch_size: int, progress: bool) -> np.ndarray:
    """Return the coordinates of cells, ``[cells, dimensions]``."""
    return coordinates(model, summarize_cells(model, cells, batch_size, progress)).double().numpy()


def _labels(reference: QueryData, label_key: str) -> pd.Categorical:
    """Return the value of each of ``reference.label_categories``, in the type of the column."""
    import pandas as pd

    codes, values = reference.dataset.label.numpy(), reference.adata.obs[label_key]  # type: ignore[union-attr]
    labels = values.iloc[[int(np.argmax(codes == code)) for code in range(len(reference.label_categories))]]
    if isinstance(values.dtype, pd.CategoricalDtype):
        return pd.Categorical(labels)
    if pd.api.types.is_string_dtype(labels):  # every .h5ad file can hold plain strings
        labels = labels.astype(object)
        return pd.Categorical(labels, categories=labels)
    if isinstance(labels.dtype, np.dtype) and labels.dtype.kind in "iuf":  # pandas sorts native types only
        labels = labels.astype(np.float32 if labels.dtype == np.float16 else labels.dtype.newbyteorder("="))
    return pd.Categorical(labels)
