"""Distances of cells from the labeled cells in latent space, and the distance that few cells of known types exceed."""

from __future__ import annotations

from typing import Any

import numpy as np

NUM_NEIGHBORS = 5  # labeled cells whose mean distance is the novelty
KNOWN_QUANTILE = 0.95  # of the distances of cells of known types, at which the novelty is 1
NUM_EMPIRICAL = 400  # distances from which the standard error of the empirical quantile is below 1.1 % of the cells


class LabelDistances:
    """Mean distance to the five nearest labeled cells, in units of a high quantile for cells of known types.

    The unit is estimated from the distances of labeled cells from the other ones, so that no cell is its own neighbor.

    Parameters
    ----------
    points : ndarray, shape (labeled cells, dimensions)
        Coordinates of the labeled cells in latent space.

    Examples
    --------
    >>> labeled = np.random.default_rng(0).normal(size=(200, 3))
    >>> novelty = LabelDistances(labeled).novelty(np.array([[0.0, 0.0, 0.0], [5.0, 5.0, 5.0]]))
    >>> (novelty > 1).tolist()
    [False, True]
    """

    def __init__(self, points: np.ndarray) -> None:
        from sklearn.neighbors import NearestNeighbors

        self._neighbors: Any = NearestNeighbors(n_neighbors=min(NUM_NEIGHBORS, max(1, len(points) - 1))).fit(points)
        to_others = self._neighbors.kneighbors()[0].mean(1) if len(points) > 1 else np.zeros(0)
        self._unit = known_distance(to_others)

    def novelty(self, points: np.ndarray) -> np.ndarray:
        """Return the novelty of cells with the coordinates ``points``, shape (cells,)."""
        return self._neighbors.kneighbors(points)[0].mean(1) / self._unit


def known_distance(distances: np.ndarray) -> float:
    r"""Return the distance that a further cell of a known type exceeds with a probability of 5 %.

    For less than 400 labeled cells it is the quantile of a log-normal predictive distribution,

    .. math:: \exp\big(m + t_{n - 1, .95}\, s \sqrt{1 + 1 / n}\big),

    with the mean m and the standard deviation s of the n logarithms, and Student's quantile t. The empirical quantile
    of so few distances depends on the three or four largest ones. For more cells it is the empirical quantile.

    Parameters
    ----------
    distances : ndarray, shape (labeled cells,)
        Distance of each labeled cell from the others. Cells at distance 0 from their neighbors are copies, and do not
        count.

    Examples
    --------
    >>> round(known_distance(np.exp([0.0, 0.1, 0.2, 0.3])), 2)
    1.63
    """
    from scipy.stats import t

    distances = distances[distances > 0]
    n = len(distances)
    if n >= NUM_EMPIRICAL:
        return float(np.quantile(distances, KNOWN_QUANTILE))
    if n < 2:
        return float(distances[0]) if n else float(np.finfo(np.float32).tiny)
    logs = np.log(distances)
    return float(np.exp(logs.mean() + t.ppf(KNOWN_QUANTILE, n - 1) * logs.std(ddof=1) * np.sqrt(1 + 1 / n)))
