"""Transfer of labels from reference cells to the cells near them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vaekit.analysis.embed import summarize_cells
from vaekit.analysis.fields import check_free
from vaekit.analysis.model_source import check_in_memory, prepare_query, provenance, resolve_model
from vaekit.data.cells.query import QueryData
from vaekit.diagnostics.usage import coordinates
from vaekit.exceptions import DataError
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from sklearn.neighbors import NearestNeighbors

DISTANCE_TOLERANCE = 1e-5  # distances that differ by less are equal: coordinates have rounding errors
WEIGHT_DIGITS = 9  # rounding errors must not decide between labels of equal weight


def transfer_labels(
    reference_adata: AnnData,
    query_adata: AnnData,
    model: VAE | str | Path,
    label_key: str,
    *,
    n_neighbors: int = 15,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str | None = None,
    batch_size: int = 1024,
    progress: bool = False,
) -> None:
    r"""Label cells by their nearest labeled neighbors in the model's latent space.

    The weight of a label l is

    .. math:: \frac{\sum_{i: l_i = l} \exp(-d_i^2 / 2 \sigma^2)}{\sum_i \exp(-d_i^2 / 2 \sigma^2)}

    over the ``n_neighbors`` nearest reference cells i, with the distances :math:`d_i` between posterior means and
    their mean :math:`\sigma`. Reference cells at the distance of the last neighbor have equal parts of its weight.

    Every cell gets the label with the highest weight, the first category if several have it. The user decides which
    uncertainty is too high.

    Parameters
    ----------
    reference_adata : AnnData
        Cells with labels; not changed. Cells without a label (NaN) are ignored.
    query_adata : AnnData
        Cells to label; changed in ``.obs`` and ``.uns``.
    model : VAE or path
        Trained model, or its checkpoint.
    label_key : str
        Column of ``reference_adata.obs``.
    n_neighbors : int
        Number of neighbors.
    layer, batch_key, batch_size, progress
        As in :func:`vaekit.analysis.embed`, for both AnnData.
    key_added : str, optional
        Column of ``query_adata.obs``. None means ``label_key`` with the suffix ``_transferred``.

    Sets the following fields:

    ``query_adata.obs[key_added]``
        Label, a categorical with the categories of the reference's column in their order. If that column is not a
        categorical, the categories are its values in their type.
    ``query_adata.obs["<key_added>_uncertainty"]``
        1 minus the weight of the label: 0 if all neighbors agree.
    ``query_adata.uns[key_added]``
        Provenance.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression.
    DataError
        If cells do not fit the model, the column is not found or has fewer than ``n_neighbors`` labels, or
        ``key_added`` is taken.

    Notes
    -----
    After Lotfollahi et al. (2022), Mapping single-cell data to reference atlases by transfer learning.
    """
    import pandas as pd
    from sklearn.neighbors import NearestNeighbors

    check_in_memory(query_adata, argument="query_adata")
    key_added = f"{label_key}_transferred" if key_added is None else key_added
    check_free(query_adata, key_added, {"obs": [key_added, f"{key_added}_uncertainty"]}, key_added)
    model, checkpoint = resolve_model(model)
    reference = prepare_query(model, reference_adata, layer, batch_key, label_key)
    all_codes = reference.dataset.label.numpy()  # type: ignore[union-attr]  # label_key is given
    labeled = np.flatnonzero(all_codes >= 0)
    if not 1 <= n_neighbors <= len(labeled):
        raise DataError(
            f"n_neighbors={n_neighbors} must be between 1 and the number of cells with a label in {label_key!r}, "
            f"{len(labeled)}."
        )
    query = prepare_query(model, query_adata, layer, batch_key)
    neighbors = NearestNeighbors(n_neighbors=n_neighbors).fit(_embed(model, reference, batch_size, progress)[labeled])
    codes, points = all_codes[labeled], _embed(model, query, batch_size, progress)
    weights = np.empty((len(points), len(reference.label_categories)))
    for start in range(0, len(points), batch_size):
        part = slice(start, start + batch_size)
        weights[part] = _label_weights(neighbors, points[part], codes, weights.shape[1]).round(WEIGHT_DIGITS)
    labels = _labels(reference, label_key)
    query_adata.obs[key_added] = pd.Categorical.from_codes(labels.codes[weights.argmax(1)], dtype=labels.dtype)
    query_adata.obs[f"{key_added}_uncertainty"] = np.clip(1 - weights.max(1), 0, 1)
    query_adata.uns[key_added] = {"n_neighbors": n_neighbors, **provenance(model, query.missing_genes, checkpoint)}


def _embed(model: VAE, cells: QueryData, batch_size: int, progress: bool) -> np.ndarray:
    """Return the coordinates of cells, ``[cells, dimensions]``."""
    return coordinates(model, summarize_cells(model, cells, batch_size, progress)).double().numpy()


def _label_weights(neighbors: NearestNeighbors, points: np.ndarray, codes: np.ndarray, num_labels: int) -> np.ndarray:
    """Return the weight of each label at each point, ``[points, labels]``; ``codes`` are the reference's labels."""
    n_neighbors, weights = neighbors.n_neighbors, np.zeros((len(points), num_labels))
    distance, index = neighbors.kneighbors(points, min(n_neighbors + 1, len(codes)))
    distance[distance < DISTANCE_TOLERANCE] = 0
    tied = _is_close(distance[:, -1], distance[:, n_neighbors - 1]) & (n_neighbors < len(codes))
    distance, index = distance[:, :n_neighbors], index[:, :n_neighbors]
    width = np.maximum(distance.mean(1, keepdims=True), np.finfo(float).tiny)
    weight = np.exp(-((distance / width) ** 2) / 2)
    rows = np.broadcast_to(np.arange(len(points))[:, None], index.shape)
    np.add.at(weights, (rows, codes[index]), weight / weight.sum(1, keepdims=True))
    for row in np.flatnonzero(tied):
        weights[row] = _tied_weights(neighbors, points[row], distance[row], codes, num_labels)
    return weights


def _tied_weights(
    neighbors: NearestNeighbors, point: np.ndarray, distance: np.ndarray, codes: np.ndarray, num_labels: int
) -> np.ndarray:
    """Return the weight of each label if reference cells beyond the ``n_neighbors`` are as near as the last one.

    The order of the reference cells must not matter, so all cells at this distance have equal weights.
    """
    last = distance[-1]
    (all_distances,), (index,) = neighbors.radius_neighbors(point[None], last + DISTANCE_TOLERANCE * (1 + last))
    at_last = _is_close(all_distances, last)
    distances = np.where(at_last, last, np.where(all_distances < DISTANCE_TOLERANCE, 0, all_distances))
    factor = np.where(at_last, (len(distance) - (~at_last).sum()) / at_last.sum(), 1.0)
    weight = factor * np.exp(-((distances / max(distance.mean(), np.finfo(float).tiny)) ** 2) / 2)
    return np.bincount(codes[index], weight / weight.sum(), num_labels)


def _is_close(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.isclose(one, other, rtol=DISTANCE_TOLERANCE, atol=DISTANCE_TOLERANCE)


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
