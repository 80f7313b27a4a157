"""Posteriors of the effects of many genes: mixtures of normals, tables, and combinations of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class NormalMixturePosterior(NamedTuple):
    """A mixture of normals as the posterior of each gene's effect.

    Attributes
    ----------
    weight, loc, scale : ndarray, shape (genes, components)
        Weight, mean and standard deviation of each component, float64. A standard deviation may be 0.
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
        """Return the probability of an effect of at most ``value`` (a number, or ``[genes]``), ``[genes]``."""
        from scipy.special import ndtr

        distance = np.broadcast_to(np.asarray(value, dtype=float), (len(self.loc),))[:, None] - self.loc
        point = self.scale == 0
        below = np.where(point, distance >= 0, ndtr(distance / np.where(point, 1, self.scale)))
        return (self.weight * below).sum(1)

    def prob_beyond(self, delta: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the probabilities of an effect above ``delta``, and of one below ``-delta``, each ``[genes]``."""
        edge = np.nextafter(-delta, -np.inf)
        mirrored = self._replace(loc=-self.loc)  # 1 - cdf(delta) would lose small probabilities to rounding
        return mirrored.cdf(edge), self.cdf(edge)

    def quantile(self, probability: float) -> np.ndarray:
        """Return quantiles, ``[genes]``, by bisection."""
        low = (self.loc - 40 * self.scale).min(1)
        high = (self.loc + 40 * self.scale).max(1)
        for _ in range(100):
            middle = (low + high) / 2
            enough = self.cdf(middle) >= probability
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return high


class TabulatedPosterior(NamedTuple):
    """A table of probabilities as the posterior of each gene's effect.

    Attributes
    ----------
    value : ndarray, shape (points,)
        Ascending effects, float64; 0 is one of them.
    weight : ndarray, shape (genes, points)
        Probability of each effect.
    """

    value: np.ndarray
    weight: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Posterior means, ``[genes]``."""
        return self.weight @ self.value

    @property
    def std(self) -> np.ndarray:
        """Posterior standard deviations, ``[genes]``."""
        return np.sqrt(np.maximum(self.weight @ self.value**2 - self.mean**2, 0))

    def prob_beyond(self, delta: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the probabilities of an effect above ``delta``, and of one below ``-delta``, each ``[genes]``."""
        return self.weight[:, self.value > delta].sum(1), self.weight[:, self.value < -delta].sum(1)

    def quantile(self, probability: float) -> np.ndarray:
        """Return quantiles, ``[genes]``.

        The probability of a point is spread evenly up to half the distance to its neighbors, except at 0.
        """
        upper = self.weight.cumsum(1)
        point = np.minimum((upper < probability * upper[:, -1:]).sum(1), len(self.value) - 1)
        genes = np.arange(len(upper))
        weight = np.maximum(self.weight[genes, point], np.finfo(float).tiny)
        fraction = np.clip(1 - (upper[genes, point] - probability) / weight, 0, 1)
        middle = (self.value[1:] + self.value[:-1]) / 2
        edge = np.concatenate([self.value[:1], middle, self.value[-1:]])
        return np.where(self.value[point] == 0, 0.0, edge[point] + fraction * (edge[point + 1] - edge[point]))


class Posterior(NamedTuple):
    """The posterior of each gene's effect, in a different form for different genes.

    Attributes
    ----------
    parts : tuple of (ndarray, posterior)
        Mask of the genes, bool ``[genes]``, and their posterior. Each gene is in one part.
    """

    parts: tuple[tuple[np.ndarray, NormalMixturePosterior | TabulatedPosterior], ...]

    @property
    def mean(self) -> np.ndarray:
        """Posterior means, ``[genes]``."""
        return self._combine(lambda part: part.mean)

    @property
    def std(self) -> np.ndarray:
        """Posterior standard deviations, ``[genes]``."""
        return self._combine(lambda part: part.std)

    def prob_above(self, delta: float) -> np.ndarray:
        """Return the probability of an effect above ``delta``, ``[genes]``."""
        return self._combine(lambda part: part.prob_beyond(delta)[0])

    def prob_below(self, delta: float) -> np.ndarray:
        """Return the probability of an effect below ``-delta``, ``[genes]``."""
        return self._combine(lambda part: part.prob_beyond(delta)[1])

    def prob_exceeds(self, delta: float) -> np.ndarray:
        """Return the probability of an absolute effect above ``delta``, ``[genes]``."""
        return np.clip(self.prob_above(delta) + self.prob_below(delta), 0, 1)

    def quantile(self, probability: float) -> np.ndarray:
        """Return quantiles, ``[genes]``."""
        return self._combine(lambda part: part.quantile(probability))

    def _combine(self, function: Callable[[NormalMixturePosterior | TabulatedPosterior], np.ndarray]) -> np.ndarray:
        values = np.empty(len(self.parts[0][0]))
        for genes, part in self.parts:
            values[genes] = function(part)
        return values
