"""Posteriors of many genes' effects: mixtures of normals, tables, and both side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class NormalMixturePosterior(NamedTuple):
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

    def prob_exceeds(self, delta: float) -> np.ndarray:
        """Return the probability of an effect larger than ``delta`` in size, ``[genes]``."""
        above = NormalMixturePosterior(self.weight, -self.loc, self.scale).cdf(
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


class TabulatedPosterior(NamedTuple):
    """Posterior of each gene's effect: a table of probabilities.

    Attributes
    ----------
    value
        Ascending float64 ``[points]``, 0 among them.
    weight
        Probabilities around the points, ``[genes, points]``.
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

    def prob_exceeds(self, delta: float) -> np.ndarray:
        """Return the probability of an effect larger than ``delta`` in size, ``[genes]``."""
        return np.clip(self.weight[:, np.abs(self.value) > delta].sum(1), 0, 1)

    def quantile(self, probability: float) -> np.ndarray:
        """Return quantiles, ``[genes]``: each point's probability lies evenly around it, that of 0 at 0."""
        upper = self.weight.cumsum(1)
        last = np.minimum((upper < probability * upper[:, -1:]).sum(1), len(self.value) - 1)
        genes = np.arange(len(upper))
        share = 1 - (upper[genes, last] - probability) / np.maximum(self.weight[genes, last], np.finfo(float).tiny)
        middle = (self.value[1:] + self.value[:-1]) / 2
        edge = np.concatenate([self.value[:1], middle, self.value[-1:]])
        within = edge[last] + np.clip(share, 0, 1) * (edge[last + 1] - edge[last])
        return np.where(self.value[last] == 0, 0.0, within)


class Posterior(NamedTuple):
    """Posterior of each gene's effect, some of one form and some of another.

    Attributes
    ----------
    parts
        Which genes, bool ``[genes]``, and their posterior.
    """

    parts: tuple[tuple[np.ndarray, NormalMixturePosterior | TabulatedPosterior], ...]

    @property
    def mean(self) -> np.ndarray:
        """Posterior means, ``[genes]``."""
        return self._each(lambda part: part.mean)

    @property
    def std(self) -> np.ndarray:
        """Posterior standard deviations, ``[genes]``."""
        return self._each(lambda part: part.std)

    def prob_exceeds(self, delta: float) -> np.ndarray:
        """Return the probability of an effect larger than ``delta`` in size, ``[genes]``."""
        return self._each(lambda part: part.prob_exceeds(delta))

    def quantile(self, probability: float) -> np.ndarray:
        """Return quantiles, ``[genes]``."""
        return self._each(lambda part: part.quantile(probability))

    def _each(self, function: Callable[[NormalMixturePosterior | TabulatedPosterior], np.ndarray]) -> np.ndarray:
        found = np.empty(len(self.parts[0][0]))
        for genes, part in self.parts:
            found[genes] = function(part)
        return found
