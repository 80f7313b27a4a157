"""Labels of a reference, passed on to cells that lie near it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import DataLoader

from vaekit.analysis.fields import check_free
from vaekit.analysis.model_source import check_in_memory, provenance, resolve_model
from vaekit.analysis.query import prepare_query
from vaekit.data.cells.align import QueryData
from vaekit.data.dataset import identity_collate
from vaekit.diagnostics import posterior_summaries
from vaekit.diagnostics.usage import coordinates
from vaekit.exceptions import DataError
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from sklearn.neighbors import NearestNeighbors

SAME = 1e-5  # distances that differ by less are equal: coordinates have rounding errors
DIGITS = 9  # of the weight of a label: rounding errors must not decide between equal ones


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
    r"""Label cells by their nearest labelled neighbours in the model's latent space.

    The share of a label is the sum of :math:`\exp(-d^2 / 2 \sigma^2)` over the neighbours that have it, over the sum of
    all n_neighbors, with the distances d in the space of posterior means and the query cell's mean distance as sigma.
    Every cell gets the label of the largest share, of equal ones the first in the order of the categories; which
    uncertainty is too much is for the user to say. Reference cells at the same distance as the last neighbor share its
    place.

    Parameters
    ----------
    reference_adata
        Cells with labels; those without (NaN) are left out. Not changed.
    query_adata
        Cells to label; changed in ``.obs`` and ``.uns``.
    model
        A trained model, or the path of its checkpoint.
    label_key
        Column of ``reference_adata.obs``.
    n_neighbors
        Neighbours.
    layer, batch_key
        Of both; as in :func:`vaekit.analysis.embed`.
    key_added
        Column of ``query_adata.obs``; None: ``label_key`` with ``_transferred``.
    batch_size
        Cells at a time.
    progress
        Whether to show progress bars.

    Sets the following fields:

    ``query_adata.obs[key_added]``
        The label, a categorical: with the categories of the reference's column in their order, or, if that column is
        not a categorical, with its values in their type.
    ``query_adata.obs["<key_added>_uncertainty"]``
        1 minus its share: 0 where all neighbours agree.
    ``query_adata.uns[key_added]``
        Where these come from.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression.
    DataError
        If cells do not fit the model, there is no such column, it has fewer than ``n_neighbors`` labels, or ``key_added`` is
        taken.

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
    known = np.flatnonzero(reference.dataset.label.numpy() >= 0)  # type: ignore[union-attr]  # (label_key was given)
    if not 1 <= n_neighbors <= len(known):
        raise DataError(
            f"n_neighbors is {n_neighbors}: it must lie between 1 and the {len(known)} cells with a label in {label_key!r}"
        )
    query = prepare_query(model, query_adata, layer, batch_key)
    neighbours = NearestNeighbors(n_neighbors=n_neighbors).fit(_embedded(model, reference, batch_size, progress)[known])
    shares = np.zeros((query_adata.n_obs, len(reference.label_categories)))
    points = _embedded(model, query, batch_size, progress)
    codes = reference.dataset.label.numpy()[known]  # type: ignore[union-attr]
    for start in range(0, len(points), batch_size):
        part = points[start : start + batch_size]
        distance, near = neighbours.kneighbors(part, min(n_neighbors + 1, len(known)))
        distance[distance < SAME] = 0
        tied = np.flatnonzero(_same(distance[:, -1], distance[:, n_neighbors - 1]) & (n_neighbors < len(known)))
        distance, near = distance[:, :n_neighbors], near[:, :n_neighbors]
        width = np.maximum(distance.mean(1, keepdims=True), np.finfo(float).tiny)
        weight = np.exp(-((distance / width) ** 2) / 2)
        rows = np.arange(start, start + len(near))[:, None]
        np.add.at(shares, (np.broadcast_to(rows, near.shape), codes[near]), weight / weight.sum(1, keepdims=True))
        for row in tied:
            shares[start + row] = _tied_shares(neighbours, part[row], distance[row], codes, shares.shape[1])
    shares = shares.round(DIGITS)
    labels = _labels(reference, label_key)
    query_adata.obs[key_added] = pd.Categorical.from_codes(labels.codes[shares.argmax(1)], dtype=labels.dtype)
    query_adata.obs[f"{key_added}_uncertainty"] = np.clip(1 - shares.max(1), 0, 1)
    query_adata.uns[key_added] = {"n_neighbors": n_neighbors, **provenance(model, query.missing_genes, checkpoint)}


def _labels(reference: QueryData, label_key: str) -> pd.Categorical:
    """Return the value of each of ``reference.label_categories``, of the type of the column."""
    import pandas as pd

    codes, values = reference.dataset.label.numpy(), reference.adata.obs[label_key]  # type: ignore[union-attr]
    first = [int(np.argmax(codes == number)) for number in range(len(reference.label_categories))]
    labels = values.iloc[first]
    if isinstance(values.dtype, pd.CategoricalDtype):
        return pd.Categorical(labels)
    if pd.api.types.is_string_dtype(labels):  # plain strings, which every .h5ad file can hold
        return pd.Categorical(labels.astype(object))
    if isinstance(labels.dtype, np.dtype) and labels.dtype.kind in "iuf":  # pandas sorts the machine's own types alone
        labels = labels.astype(np.float32 if labels.dtype == np.float16 else labels.dtype.newbyteorder("="))
    return pd.Categorical(labels)


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return which distances are equal up to the rounding of the coordinates."""
    return np.isclose(one, other, rtol=SAME, atol=SAME)


def _tied_shares(
    neighbors: NearestNeighbors, point: np.ndarray, distance: np.ndarray, codes: np.ndarray, count: int
) -> np.ndarray:
    """Return the weight of each label if more than n_neighbors reference cells are as near as the last neighbor.

    These share the remaining places, in any order.
    """
    last = distance[-1]
    (far,), (cells,) = neighbors.radius_neighbors(point[None], last + SAME * (1 + last))
    at_last = _same(far, last)
    far = np.where(at_last, last, np.where(far < SAME, 0, far))
    places = np.where(at_last, (len(distance) - (~at_last).sum()) / at_last.sum(), 1.0)
    weight = places * np.exp(-((far / max(distance.mean(), np.finfo(float).tiny)) ** 2) / 2)
    return np.bincount(codes[cells], weight / weight.sum(), count)


def _embedded(model: VAE, cells: QueryData, batch_size: int, progress: bool) -> np.ndarray:
    """Return the coordinates of cells, ``[cells, units]``."""
    from tqdm.auto import tqdm

    loader = DataLoader(cells.dataset, batch_size=batch_size, collate_fn=identity_collate)
    bar = tqdm(loader, desc=f"embedding {cells.source}", unit="batch", disable=not progress)
    return coordinates(model, posterior_summaries(model, bar)).double().numpy()
