"""Effects of many genes, estimated with errors, and what their common distribution says of each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

STEPS = 2000  # of expectation maximisation; it stops where the weights do
TOLERANCE = 1e-6
NULL_WEIGHT = 10.0  # prior counts of the spike at 0: where effects and errors cannot be told apart, there are none


class Effects(NamedTuple):
    r"""Posterior of each gene's effect: a mixture of normals.

    Attributes
    ----------
    weight, loc, scale
        Of the components, float64 ``[genes, components]``; a scale may be 0.
    """

    weight: np.ndarray
    loc: np.ndarray
    scale: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Posterior means, ``[genes]``."""
        return (self.weight * self.loc).sum(1)

    @property
    def std(self) -> np.ndarray:
        """Posterior standard deviations, ``[genes]``."""
        second = (self.weight * (self.scale**2 + self.loc**2)).sum(1)
        return np.sqrt(np.maximum(second - self.mean**2, 0))

    def cdf(self, value: np.ndarray | float) -> np.ndarray:
        """Return the probability of an effect of at most ``value`` (one, or one a gene), ``[genes]``."""
        from scipy.special import ndtr

        distance = np.broadcast_to(np.asarray(value, dtype=float), (len(self.loc),))[:, None] - self.loc
        point = self.scale == 0
        below = np.where(point, distance >= 0, ndtr(distance / np.where(point, 1, self.scale)))
        return (self.weight * below).sum(1)

    def beyond(self, delta: float) -> np.ndarray:
        """Return the probability of an effect larger than ``delta`` in size, ``[genes]``."""
        above = Effects(self.weight, -self.loc, self.scale).cdf(
            np.nextafter(-delta, -np.inf)
        )  # precise where it is small
        return np.clip(self.cdf(np.nextafter(-delta, -np.inf)) + above, 0, 1)

    def quantile(self, probability: float) -> np.ndarray:
        """Return quantiles by bisection, ``[genes]``."""
        low = (self.loc - 40 * self.scale).min(1)
        high = (self.loc + 40 * self.scale).max(1)
        for _ in range(100):
            middle = (low + high) / 2
            enough = self.cdf(middle) >= probability
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return high


def shrink(estimate: np.ndarray, error: np.ndarray) -> Effects:
    r"""Return the posterior of effects, with their distribution over the genes as the prior (empirical Bayes).

    .. math::
        \hat\beta_g \mid \beta_g \sim N(\beta_g, s_g^2), \qquad
        \beta_g \sim \pi_0\, \delta_0 + \sum_k \pi_k\, N(0, \sigma_k^2)

    on a grid of sigma; the weights pi are those of the highest likelihood over all genes, by expectation
    maximisation.

    Parameters
    ----------
    estimate, error
        Estimates and their standard errors, float64 ``[genes]``, finite; errors positive.

    Notes
    -----
    Stephens (2017), False discovery rates: a new deal.
    """
    grid = _grid(estimate, error)
    variance = error[:, None] ** 2 + grid**2
    log_density = -0.5 * (estimate[:, None] ** 2 / variance + np.log(variance))
    density = np.exp(log_density - log_density.max(1, keepdims=True))
    pseudo = np.zeros(len(grid))
    pseudo[0] = NULL_WEIGHT - 1
    weight = np.full(len(grid), 1 / len(grid))
    for _ in range(STEPS):
        new = weight * (density.T @ (1 / (density @ weight))) + pseudo
        new /= new.sum()
        done = np.abs(new - weight).max() < TOLERANCE
        weight = new
        if done:
            break
    share = density * weight
    share /= share.sum(1, keepdims=True)
    kept = grid**2 / variance
    return Effects(share, kept * estimate[:, None], np.sqrt(kept) * error[:, None])


def _grid(estimate: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return standard deviations: 0, then from a tenth of the smallest error to twice the largest effect."""
    smallest = error.min() / 10
    largest = 2 * np.sqrt(max((estimate**2 - error**2).max(), (8 * smallest) ** 2))
    steps = int(np.ceil(2 * np.log2(largest / smallest)))
    return np.concatenate([[0.0], largest * 2.0 ** (-0.5 * np.arange(steps + 1))[::-1]])
