"""Log ratio of two groups' compositions with errors from replicates, such as donors or batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vaekit.analysis.group_sums import PSEUDOCOUNT, GroupSums, LogRatio, count_ratio, count_ratios, divide

MIN_COUNTS = 5.0  # per replicate and group; genes with fewer do not estimate the variance between replicates
MIN_GENES = 10  # that estimate it
MAX_VARIANCE = 100.0  # between replicates, of the natural logarithm
NUM_BISECTIONS = 60
MAX_DEGREES = 1e4  # of a common variance; more are infinite


class ReplicatedLogRatio(NamedTuple):
    """Log ratio of two groups' mean compositions over replicates.

    Attributes
    ----------
    ratio : LogRatio
        Estimate, its standard error, and the effective counts that have this error.
    degrees : float
        Degrees of freedom of the errors; infinite if all genes have the same variance between replicates.
    """

    ratio: LogRatio
    degrees: float


class _Sample(NamedTuple):
    """Independent values of replicates: of one group, or differences of two.

    Attributes
    ----------
    model : ndarray, shape (replicates, genes)
        Log composition by the model, or its difference.
    ratios : tuple of ndarray, shape (replicates, genes)
        Ratio of observed and expected counts in each group.
    noise : tuple of ndarray, shape (replicates, genes)
        Variance of the logarithm of each group's ratio, by the counts and the number of cells.
    pooled : tuple of ndarray, shape (genes,)
        Positive ratio of each group over all its replicates.
    """

    model: np.ndarray
    ratios: tuple[np.ndarray, ...]
    noise: tuple[np.ndarray, ...]
    pooled: tuple[np.ndarray, ...]

    def weights(self, between: float) -> np.ndarray:
        """Return the weights of the replicates for a variance between them, ``[replicates, genes]``."""
        return 1 / (np.sum(self.noise, 0) + between)

    def squares(self, between: float) -> np.ndarray:
        """Return the weighted sum of the squared residuals, ``[genes]``."""
        weight = self.weights(between)
        residual = self.model - _mean(self.model, weight)
        for sign, ratio, pooled in zip((1, -1), self.ratios, self.pooled, strict=False):
            residual = residual + sign * (ratio - _mean(ratio, weight)) / pooled
        return (weight * residual**2).sum(0)

    def variances(self, between: float, scale: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the part of each group in the variance of the mean, ``[genes]``; at least that by the counts."""
        weight = self.weights(between)
        noise = sum(self.noise)
        total = weight.sum(0)
        by_counts = divide((weight**2 * np.where(weight > 0, noise, 0)).sum(0), total**2)
        variance = np.maximum(divide(scale, total, np.inf), by_counts)
        share = between / len(self.noise)
        parts = [(weight**2 * np.where(weight > 0, part + share, 0)).sum(0) for part in self.noise]
        return tuple(variance * divide(part, sum(parts), 1 / len(parts)) for part in parts)


def replicated_log_ratio(
    first: Sequence[GroupSums], second: Sequence[GroupSums], is_paired: bool
) -> ReplicatedLogRatio:
    r"""Estimate the log ratio of the mean compositions of two groups, with errors from their replicates.

    Replicate r of group k has the value

    .. math:: y_{kr} = \log\bar\rho_{kr} + r_{kr} / r_k

    with the model's composition and the ratio of observed and expected counts
    (:func:`vaekit.analysis.group_sums.log_ratio`), relative to the ratio of the group. The estimate compares the means
    of the groups with the weights :math:`w_{kr} = 1 / (s_{kr}^2 + \tau^2)`. Here s is the error by the counts and the
    number of cells, and :math:`\tau^2` the variance between the replicates of the median gene. The weighted squared
    residuals of a gene are shrunk to their mean over genes, which multiplies the variance of its estimate and adds
    degrees of freedom. The variance is at least that by the counts.

    Parameters
    ----------
    first, second : sequence of GroupSums
        Replicates of the groups, at least two each.
    is_paired : bool
        Whether the replicates are the same in both groups, in this order. Then y is their difference.

    Notes
    -----
    Smyth (2004), Linear models and empirical Bayes methods for assessing differential expression in microarray
    experiments; Lund, Nettleton, McCarthy and Smyth (2012), Detecting differential expression in RNA-sequence data
    using quasi-likelihood with shrunken dispersion estimates; Squair et al. (2021), Confronting false discoveries in
    single-cell differential expression.
    """
    from scipy.special import polygamma

    samples = [_pair(first, second)] if is_paired else [_sample(first), _sample(second)]
    degrees = sum(len(sample.model) - 1 for sample in samples)
    informative = _informative_genes(samples)
    between = _variance_between(samples, informative, degrees)
    squares = np.sum([sample.squares(between) for sample in samples], 0) / degrees
    scale, prior_degrees = moderate(squares, degrees, informative)
    estimate, shapes = np.zeros(len(scale)), []
    for sign, sample in zip((1, -1), samples, strict=False):
        weight = sample.weights(between)
        estimate += sign * _mean(sample.model, weight)
        for ratio, pooled, variance in zip(sample.ratios, sample.pooled, sample.variances(between, scale), strict=True):
            effective = divide(1.0, variance * pooled)
            shapes.append(_mean(ratio, weight) * effective + PSEUDOCOUNT)
            estimate += (1 - 2 * (len(shapes) - 1)) * np.log(shapes[-1] / (effective + PSEUDOCOUNT))
    error = np.sqrt(polygamma(1, np.stack(shapes)).sum(0))
    return ReplicatedLogRatio(LogRatio(estimate, error, np.stack(shapes)), degrees + prior_degrees)


def moderate(squares: np.ndarray, degrees: float, genes: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the genes' mean squares shrunk to a common value, and the degrees of freedom of this value.

    Parameters
    ----------
    squares : ndarray, shape (genes,)
        Mean squares.
    degrees : float
        Their degrees of freedom.
    genes : ndarray, shape (genes,)
        Mask of the genes that estimate the distribution of the variances.

    Notes
    -----
    Smyth (2004), section 6.2.
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    if genes.sum() < 2:
        return squares, 0.0
    positive = np.maximum(squares[genes], np.finfo(float).tiny)
    positive = np.maximum(positive, 1e-5 * np.median(positive))  # as in limma: the logarithm of 0
    log = np.log(positive) - digamma(degrees / 2) + np.log(degrees / 2)
    excess = log.var(ddof=1) - polygamma(1, degrees / 2)
    if excess <= polygamma(1, MAX_DEGREES / 2):
        return np.full_like(squares, np.exp(log.mean())), np.inf
    half = brentq(lambda value: polygamma(1, value) - excess, 1e-3, MAX_DEGREES / 2)
    common = np.exp(log.mean() + digamma(half) - np.log(half))
    prior_degrees = 2 * half
    return (prior_degrees * common + degrees * squares) / (prior_degrees + degrees), prior_degrees


def _pair(first: Sequence[GroupSums], second: Sequence[GroupSums]) -> _Sample:
    """Return the differences of the same replicates in two groups."""
    ratios = [count_ratios(one, other) for one, other in zip(first, second, strict=True)]
    model = _log_compositions(first) - _log_compositions(second)
    parts = [_group([pair[group] for pair in ratios], parts) for group, parts in enumerate((first, second))]
    return _Sample(model, *zip(*parts, strict=True))


def _sample(parts: Sequence[GroupSums]) -> _Sample:
    """Return the values of a group's replicates."""
    group = _group([count_ratio(part, part.expected) for part in parts], parts)
    return _Sample(_log_compositions(parts), *((value,) for value in group))


def _log_compositions(parts: Sequence[GroupSums]) -> np.ndarray:
    return np.log(np.stack([part.composition for part in parts]))


def _group(
    ratios: Sequence[tuple[np.ndarray, np.ndarray]], parts: Sequence[GroupSums]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ratio and noise of a group's replicates ``[replicates, genes]``, and their pooled ratio ``[genes]``."""
    ratio, effective = (np.stack(values) for values in zip(*ratios, strict=True))
    pooled = ((ratio * effective).sum(0) + PSEUDOCOUNT) / (effective.sum(0) + PSEUDOCOUNT)
    return ratio, divide(1.0, effective * pooled, np.inf) + _cell_variance(parts), pooled


def _cell_variance(parts: Sequence[GroupSums]) -> np.ndarray:
    """Return the relative variance of each replicate's mean composition between its cells ``[replicates, genes]``."""
    cells = np.array([part.cells.sum() for part in parts])
    means = np.stack([part.composition for part in parts])
    squares = np.stack([part.squared_compositions for part in parts])
    relative = divide((squares - cells[:, None] * means**2).sum(0), (cells[:, None] * means**2).sum(0))
    return np.maximum(relative, 0) / cells[:, None]


def _informative_genes(samples: Sequence[_Sample]) -> np.ndarray:
    """Return a mask of the genes with enough counts in all groups."""
    noise = np.max([np.median(part, axis=0) for sample in samples for part in sample.noise], axis=0)
    largest = np.sort(noise)[min(MIN_GENES, len(noise)) - 1]
    return noise <= max(1 / MIN_COUNTS, largest)


def _variance_between(samples: Sequence[_Sample], genes: np.ndarray, degrees: float) -> float:
    """Return the variance between replicates at which the median gene has its expected mean square, by bisection."""
    from scipy.stats import chi2

    samples = [
        _Sample(sample.model[:, genes], *(tuple(x[..., genes] for x in values) for values in sample[1:]))
        for sample in samples
    ]
    expected = chi2.median(degrees)

    def is_too_small(between: float) -> bool:
        return bool(np.median(sum(sample.squares(between) for sample in samples)) > expected)

    if not is_too_small(0.0):
        return 0.0
    low, high = 0.0, MAX_VARIANCE
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_too_small(middle) else (low, middle)
    return high


def _mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the weighted mean over replicates, ``[genes]``; the plain one without weights."""
    return divide((weight * values).sum(0), weight.sum(0), values.mean(0))
