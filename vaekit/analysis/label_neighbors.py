"""Labels of the nearest reference cells: their weights at a point, and the choice of the number of neighbors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vaekit.diagnostics.keyed_noise import hash_names

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors

NUM_NEIGHBORS = (5, 10, 15, 25, 50, 100)  # candidates
NUM_LEFT_OUT = 5000  # reference cells to choose by
FLOOR = 0.01  # of the probability of a label, so that one error does not decide
SHRINKAGE = 0.05  # of a covariance towards its mean variance: dimensions without variance within labels are noise
DISTANCE_TOLERANCE = 1e-5  # distances that differ by less are equal: coordinates have rounding errors
WEIGHT_DIGITS = 9  # rounding errors must not decide between labels of equal weight


class LabelNeighbors:
    r"""Labeled points that weight the labels at other points.

    The weight of a label l is

    .. math:: \frac{\sum_{i: l_i = l} \exp(-d_i^2 / 2 \sigma^2)}{\sum_i \exp(-d_i^2 / 2 \sigma^2)}

    over the ``n_neighbors`` nearest points i, with their distances :math:`d_i` and the mean distance :math:`\sigma`.
    Points at the distance of the last neighbor have equal parts of its weight. See :func:`within_label_metric` for the
    coordinates.

    Parameters
    ----------
    points : ndarray, shape (cells, dimensions)
        Coordinates of the labeled cells.
    codes : ndarray of int, shape (cells,)
        Label of each cell.
    num_labels : int
        Number of labels.
    n_neighbors : int
        Number of neighbors.
    """

    def __init__(self, points: np.ndarray, codes: np.ndarray, num_labels: int, n_neighbors: int) -> None:
        from sklearn.neighbors import NearestNeighbors

        self.codes, self.num_labels, self.n_neighbors = codes, num_labels, n_neighbors
        self._index: NearestNeighbors = NearestNeighbors(n_neighbors=n_neighbors).fit(points)

    def weights(self, points: np.ndarray) -> np.ndarray:
        """Return the weight of each label at each point, ``[points, labels]``."""
        distance, index = self._index.kneighbors(points, min(self.n_neighbors + 1, len(self.codes)))
        distance[distance < DISTANCE_TOLERANCE] = 0
        tied = _is_close(distance[:, -1], distance[:, self.n_neighbors - 1]) & (self.n_neighbors < len(self.codes))
        near = slice(None, self.n_neighbors)
        weights = _label_weights(distance[:, near], self.codes[index[:, near]], self.num_labels)
        for row in np.flatnonzero(tied):
            weights[row] = self._tied_weights(points[row], distance[row, near])
        return weights.round(WEIGHT_DIGITS)

    def _tied_weights(self, point: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Return the weight of each label if cells beyond the ``n_neighbors`` are as near as the last one.

        The order of the labeled cells must not matter, so all cells at this distance have equal weights.
        """
        last = distance[-1]
        (all_distances,), (index,) = self._index.radius_neighbors(point[None], last + DISTANCE_TOLERANCE * (1 + last))
        at_last = _is_close(all_distances, last)
        distances = np.where(at_last, last, np.where(all_distances < DISTANCE_TOLERANCE, 0, all_distances))
        factor = np.where(at_last, (len(distance) - (~at_last).sum()) / at_last.sum(), 1.0)
        weight = factor * np.exp(-((distances / max(distance.mean(), np.finfo(float).tiny)) ** 2) / 2)
        return np.bincount(self.codes[index], weight / weight.sum(), self.num_labels)


def within_label_metric(points: np.ndarray, codes: np.ndarray, num_labels: int) -> np.ndarray:
    r"""Return the matrix that scales coordinates so that cells of one label vary equally in all directions.

    .. math:: A A^T = \Big(S + 0.05\, \frac{\mathrm{tr}\, S}{D}\, I\Big)^{-1}

    with the covariance S of the D coordinates within labels, pooled over the labels. Distances between rows of
    ``points @ A`` are distances in units of this spread; without any, A is the identity.

    Hastie & Tibshirani (1996), Discriminant adaptive nearest neighbor classification.

    Parameters
    ----------
    points, codes, num_labels
        As for :class:`LabelNeighbors`.

    Returns
    -------
    ndarray, shape (dimensions, dimensions)
        The matrix A.
    """
    sums = np.zeros((num_labels, points.shape[1]))
    np.add.at(sums, codes, points)
    centered = points - (sums / np.maximum(np.bincount(codes, minlength=num_labels), 1)[:, None])[codes]
    variance, directions = np.linalg.eigh(centered.T @ centered / len(points))
    mean_variance = variance.mean()
    if mean_variance <= np.finfo(np.float32).eps * np.square(points).mean():
        return np.eye(points.shape[1])
    return directions / np.sqrt(np.maximum(variance, 0) + SHRINKAGE * mean_variance)


def choose_n_neighbors(points: np.ndarray, codes: np.ndarray, num_labels: int, names: list[str]) -> int:
    """Return the number of neighbors whose weights predict the label of each cell from the other cells best.

    The criterion is the mean logarithm of the weight of the cell's label, at least 0.01, over at most 5,000 cells. Ties
    go to fewer neighbors.

    Parameters
    ----------
    points, codes, num_labels
        As for :class:`LabelNeighbors`.
    names : list of str
        Names of the cells. They select the 5,000 cells, so that the order of the cells does not matter.
    """
    from sklearn.neighbors import NearestNeighbors

    candidates = [number for number in NUM_NEIGHBORS if number < len(points)] or [max(1, len(points) - 1)]
    rows = np.argsort(hash_names(names), kind="stable")[:NUM_LEFT_OUT]
    index = NearestNeighbors(n_neighbors=min(candidates[-1] + 1, len(points))).fit(points)
    distance, neighbor = index.kneighbors(points[rows])
    is_self = neighbor == rows[:, None]
    is_self[:, -1] |= ~is_self.any(1)  # of several cells at one point, another one may have taken its place
    shape = (len(rows), distance.shape[1] - 1)
    distance, neighbor = distance[~is_self].reshape(shape), neighbor[~is_self].reshape(shape)
    scores = []
    for number in candidates:
        weights = _label_weights(distance[:, :number], codes[neighbor[:, :number]], num_labels)
        right = weights[np.arange(len(rows)), codes[rows]]
        scores.append(round(float(np.log(np.maximum(right, FLOOR)).mean()), WEIGHT_DIGITS))
    return candidates[int(np.argmax(scores))]


def _label_weights(distance: np.ndarray, codes: np.ndarray, num_labels: int) -> np.ndarray:
    """Return the weight of each label ``[points, labels]``, from distances and labels of neighbors."""
    width = np.maximum(distance.mean(1, keepdims=True), np.finfo(float).tiny)
    weight = np.exp(-((distance / width) ** 2) / 2)
    weights = np.zeros((len(distance), num_labels))
    rows = np.broadcast_to(np.arange(len(distance))[:, None], codes.shape)
    np.add.at(weights, (rows, codes), weight / weight.sum(1, keepdims=True))
    return weights


def _is_close(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.isclose(one, other, rtol=DISTANCE_TOLERANCE, atol=DISTANCE_TOLERANCE)
