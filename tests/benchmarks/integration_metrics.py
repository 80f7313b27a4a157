"""Metrics of batch integration, from nearest neighbors, scikit-learn and SciPy.

The formulas of Luecken et al. (2022), Benchmarking atlas-level data integration in single-cell genomics, each scaled
to 0..1, higher is better. kBET is omitted; a label counts as isolated if it is found in the fewest batches. On
random data every figure was equal to that of scib-metrics 0.5.10 (k-means apart, which starts at random).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_samples
from sklearn.neighbors import NearestNeighbors

NEIGHBOURS = 90  # of LISI, three times its perplexity
PERPLEXITY = 30
CONSERVATION = ("NMI", "ARI", "label silhouette", "isolated labels", "cLISI")
CORRECTION = ("batch silhouette", "iLISI", "graph connectivity", "PC regression")


def integration(
    x: np.ndarray, before: np.ndarray, labels: np.ndarray, batches: np.ndarray, seed: int
) -> dict[str, float]:
    """Return all metrics of an embedding.

    Parameters
    ----------
    x
        The embedding, ``[cells, units]``.
    before
        An embedding that knows nothing of batches (PCA), for the comparison by regression.
    labels, batches
        Cell type and batch of each cell.
    seed
        Of k-means.
    """
    label, batch = np.unique(labels, return_inverse=True)[1], np.unique(batches, return_inverse=True)[1]
    clusters = KMeans(label.max() + 1, n_init=10, random_state=seed).fit_predict(x)
    distances, indices = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(x).kneighbors(x)
    distances, indices = distances[:, 1:], indices[:, 1:]
    by_label, by_batch = (lisi(distances, codes[indices]) for codes in (label, batch))
    found = {
        "NMI": normalized_mutual_info_score(label, clusters),
        "ARI": adjusted_rand_score(label, clusters),
        "label silhouette": (silhouette_samples(x, label).mean() + 1) / 2,
        "isolated labels": isolated_silhouette(x, label, batch),
        "cLISI": (label.max() + 1 - np.median(by_label)) / label.max(),
        "batch silhouette": batch_silhouette(x, label, batch),
        "iLISI": (np.median(by_batch) - 1) / batch.max(),
        "graph connectivity": graph_connectivity(indices[:, :15], label),
        "PC regression": max(0.0, 1 - explained(x, batch) / explained(before, batch)),
    }
    found["conservation"] = float(np.mean([found[name] for name in CONSERVATION]))
    found["correction"] = float(np.mean([found[name] for name in CORRECTION]))
    found["overall"] = 0.6 * found["conservation"] + 0.4 * found["correction"]
    return {name: float(value) for name, value in found.items()}


def lisi(distances: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the inverse Simpson index of the groups among each cell's neighbors, ``[cells]``.

    Neighbours are weighted by a Gaussian of their distance, as wide as the perplexity asks for: Korsunsky et al.
    (2019), Fast, sensitive and accurate integration of single-cell data with Harmony.
    """
    precision = np.ones(len(distances))
    low, high = np.zeros(len(distances)), np.full(len(distances), np.inf)
    shifted = distances - distances.min(1, keepdims=True)
    for _ in range(60):
        weight = np.exp(-shifted * precision[:, None])
        total = weight.sum(1)
        entropy = np.log(total) + precision * (shifted * weight).sum(1) / total
        wide = entropy > np.log(PERPLEXITY)
        low, high = np.where(wide, precision, low), np.where(wide, high, precision)
        precision = np.where(np.isinf(high), precision * 2, (low + high) / 2)
    share = weight / total[:, None]
    squares = sum(((share * (codes == group)).sum(1)) ** 2 for group in range(codes.max() + 1))
    return 1 / squares


def isolated_silhouette(x: np.ndarray, label: np.ndarray, batch: np.ndarray) -> float:
    """Return the mean silhouette among all labels of those found in the fewest batches."""
    spread = [len(np.unique(batch[label == code])) for code in range(label.max() + 1)]
    isolated = [code for code, number in enumerate(spread) if number == min(spread)]
    scores = (silhouette_samples(x, label) + 1) / 2
    return float(np.mean([scores[label == code].mean() for code in isolated]))


def batch_silhouette(x: np.ndarray, label: np.ndarray, batch: np.ndarray) -> float:
    """Return 1 - |silhouette of the batches| within each label, averaged over cells, then over labels."""
    scores = []
    for code in range(label.max() + 1):
        rows = label == code
        if 1 < len(np.unique(batch[rows])) < rows.sum():
            scores.append((1 - np.abs(silhouette_samples(x[rows], batch[rows]))).mean())
    return float(np.mean(scores))


def graph_connectivity(indices: np.ndarray, label: np.ndarray) -> float:
    """Return the fraction of each label's cells in its largest strongly connected part of the graph, averaged."""
    cells = np.repeat(np.arange(len(indices)), indices.shape[1])
    graph = csr_matrix((np.ones(indices.size), (cells, indices.ravel())), shape=(len(indices), len(indices)))
    shares = []
    for code in range(label.max() + 1):
        rows = np.flatnonzero(label == code)
        parts = connected_components(graph[rows][:, rows], connection="strong")[1]
        shares.append(np.bincount(parts).max() / len(rows))
    return float(np.mean(shares))


def explained(x: np.ndarray, batch: np.ndarray) -> float:
    """Return the fraction of the variance of ``x`` between batches: a regression of its principal components."""
    centred = x - x.mean(0)
    means = np.stack([centred[batch == code].mean(0) for code in range(batch.max() + 1)])
    return float((means[batch] ** 2).sum() / (centred**2).sum())
