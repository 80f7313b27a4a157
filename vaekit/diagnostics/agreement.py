"""Agreement of a model's latents with labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.models import VAE

MAX_FITTED = 20_000  # observations of k-means, which takes minutes for more


class Agreement(NamedTuple):
    """Agreement of clusters with labels; each measure is 1 for a perfect match.

    Attributes
    ----------
    ari : float
        Adjusted Rand index; 0 is chance.
    nmi : float
        Normalized mutual information.
    accuracy : float
        Fraction of observations whose cluster is matched with their label, for the best one-to-one matching of clusters
        and labels (unsupervised accuracy; Kuhn, 1955, The Hungarian Method).
    clusters : str
        Source of the clusters.

    Examples
    --------
    >>> import vaekit
    >>> summaries = vaekit.diagnostics.posterior_summaries(model, [batch])
    >>> vaekit.diagnostics.label_agreement(model, summaries, batch.label.numpy()).clusters
    'code y'
    """

    ari: float
    nmi: float
    accuracy: float
    clusters: str


def label_agreement(model: VAE, summaries: dict[str, Tensor], labels: np.ndarray) -> Agreement | None:
    """Compare clusters with labels.

    The clusters are the most probable categories of the first latent with a single categorical variable. Without such a
    latent, they are the k-means clusters of all latents except the library size, with one cluster per label and seed 0;
    the cluster means are fitted to at most 20,000 observations.

    Parameters
    ----------
    model : VAE
        Model of the summaries.
    summaries : dict[str, Tensor], each of shape (observations, size)
        Result of :func:`vaekit.diagnostics.posterior_summaries`.
    labels : array of int, shape (observations,)
        Labels; negative if unknown. Observations without a label are ignored.

    Returns
    -------
    Agreement or None
        None if there are fewer than two different labels.

    Examples
    --------
    >>> import vaekit
    >>> summaries = vaekit.diagnostics.posterior_summaries(model, [batch])
    >>> 0 <= vaekit.diagnostics.label_agreement(model, summaries, batch.label.numpy()).nmi <= 1
    True
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    labels = np.asarray(labels)
    is_known = labels >= 0
    num_labels = len(np.unique(labels[is_known]))
    if num_labels < 2:
        return None
    code = next((name for name, latent in model.latents.items() if latent.is_single_categorical), None)
    if code is not None:
        clusters, source = summaries[code].argmax(-1).numpy(), f"code {code}"
    else:
        from sklearn.cluster import KMeans

        points = torch.cat([summaries[n] for n, latent in model.latents.items() if not latent.is_nuisance], -1).numpy()
        order = np.lexsort(points.T)  # the initialization of k-means depends on the order
        fitted = order[np.linspace(0, len(order) - 1, min(len(order), MAX_FITTED)).round().astype(int)]
        means = KMeans(num_labels, n_init=10, random_state=0).fit(points[fitted])
        clusters, source = means.predict(points), f"k-means with {num_labels} clusters"
    labels, clusters = labels[is_known], clusters[is_known]
    table = contingency_matrix(labels, clusters)
    accuracy = table[linear_sum_assignment(table, maximize=True)].sum() / table.sum()
    ari, nmi = adjusted_rand_score(labels, clusters), normalized_mutual_info_score(labels, clusters)
    return Agreement(float(ari), float(nmi), float(accuracy), source)
