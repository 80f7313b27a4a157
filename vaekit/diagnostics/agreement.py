"""Agreement of a model's latents with known labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.models import VAE


class Agreement(NamedTuple):
    """How well clusters match labels; all are 1 for a perfect match.

    Attributes
    ----------
    ari
        Adjusted Rand index; 0 is chance.
    nmi
        Normalized mutual information.
    accuracy
        Share of the observations whose cluster is the one matched with their label, by the one-to-one matching of
        clusters and labels that makes it largest (unsupervised accuracy; Kuhn 1955, The Hungarian Method).
    clusters
        What was compared with the labels.
    """

    ari: float
    nmi: float
    accuracy: float
    clusters: str


def label_agreement(model: VAE, summaries: dict[str, Tensor], labels: np.ndarray) -> Agreement | None:
    """Compare clusters with labels, over the observations whose label is known.

    The clusters are the most probable category of the first latent that is a single categorical variable. For a
    model without one they are k-means clusters of the latents, as many as there are labels (seed 0); a library size is
    none of these.

    Parameters
    ----------
    model
        The model that made the summaries.
    summaries
        Posterior means or probabilities of each latent, ``[observations, size]``.
    labels
        Integers ``[observations]``, -1 where unknown.

    Returns
    -------
    Agreement or None
        None where fewer than two labels are known.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    labels = np.asarray(labels)
    known = labels >= 0
    count = len(np.unique(labels[known]))
    if count < 2:
        return None
    codes = [name for name, x in model.latents.items() if x.is_single_categorical]
    if codes:
        clusters, what = summaries[codes[0]].argmax(-1).numpy(), f"code {codes[0]}"
    else:
        from sklearn.cluster import KMeans

        seen = [summaries[name] for name, latent in model.latents.items() if not latent.is_nuisance]
        points = torch.cat(seen, -1).numpy()
        order = np.lexsort(points.T)  # k-means starts from cells chosen by their place
        clusters, what = np.empty(len(points), dtype=int), f"k-means with {count} clusters"
        clusters[order] = KMeans(count, n_init=10, random_state=0).fit_predict(points[order])
    ari = adjusted_rand_score(labels[known], clusters[known])
    nmi = normalized_mutual_info_score(labels[known], clusters[known])
    table = contingency_matrix(labels[known], clusters[known])
    matched = table[linear_sum_assignment(table, maximize=True)].sum() / table.sum()
    return Agreement(float(ari), float(nmi), float(matched), what)
