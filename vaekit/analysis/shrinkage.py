"""Empirical Bayes shrinkage of the effects of many genes."""

from __future__ import annotations

import numpy as np

from vaekit.analysis.effects import NormalMixturePosterior, Posterior, TabulatedPosterior

MAX_STEPS = 2000  # of expectation maximization
TOLERANCE = 1e-6  # change of the weights at which expectation maximization stops
NULL_WEIGHT = 10.0  # prior counts of the spike at 0, which takes effects that noise alone can explain
NORMAL_COUNTS = 100.0  # from here on, the logarithm of a mean count is close to normal
POINT_SPACING = 0.04  # of a table, relative to the value
MIN_POINT_SPACING = 0.01  # for many counts with estimated errors
CHUNK_ENTRIES = 2_000_000  # table entries computed at once


def shrink(
    estimate: np.ndarray, error: np.ndarray, shapes: np.ndarray | None = None, degrees: float = np.inf
) -> Posterior:
    r"""Return the posterior of effects; the prior is their distribution over all genes (empirical Bayes).

    .. math::
        \hat\beta_g \mid \beta_g \sim N(\beta_g, s_g^2), \qquad
        \beta_g \sim \pi_0\, \delta_0 + \sum_k \pi_k\, N(0, \sigma_k^2)

    on a grid of :math:`\sigma_k`. Expectation maximization finds the weights :math:`\pi` with the highest likelihood
    over all genes.

    The log ratio of two small mean counts a and b is far from normal. Its likelihood is binomial: a of the a + b counts
    are in the first group,

    .. math:: L(\beta) \propto p^a (1 - p)^b, \qquad \log\frac{p}{1 - p} = \log\frac{a}{b} + \beta - \hat\beta.

    If the counts were deflated by an estimated variance with :math:`\nu` degrees of freedom, the likelihood is

    .. math:: L_\nu(\beta) \propto \Big(1 - \frac{2}{\nu} \log \frac{L(\beta)}{L(\hat\beta)}\Big)^{-(\nu + 1) / 2},

    which is a t distribution if L is normal.

    Parameters
    ----------
    estimate, error : ndarray, shape (genes,)
        Estimates and their positive standard errors, finite float64.
    shapes : ndarray, shape (2, genes), optional
        Positive counts a and b, if the estimates are natural logarithms of ratios of counts. None means that all
        errors are normal.
    degrees : float
        Degrees of freedom of the errors; infinite means that they are known. Finite ones need ``shapes``.

    Notes
    -----
    Stephens (2017), False discovery rates: a new deal; Przyborowski and Wilenski (1940), Homogeneity of results in
    testing samples from Poisson series; Smyth (2004), Linear models and empirical Bayes methods for assessing
    differential expression in microarray experiments (the t distribution of moderated variances).
    """
    grid = _grid(estimate, error)
    few = np.zeros(len(estimate), dtype=bool) if shapes is None else shapes.min(0) < NORMAL_COUNTS
    few |= np.isfinite(degrees)
    density = np.empty((len(estimate), len(grid)))
    variance = error[~few, None] ** 2 + grid**2
    log_density = -0.5 * (estimate[~few, None] ** 2 / variance + np.log(variance))
    density[~few] = np.exp(log_density - log_density.max(1, keepdims=True))
    spacing = POINT_SPACING if np.isinf(degrees) else _spacing(estimate, error)
    value, prior = _table(grid, estimate[few], spacing)
    likelihood = np.empty((0, len(value)))
    if few.any():
        assert shapes is not None
        likelihood = _likelihood(value, estimate[few], shapes[:, few], degrees)
        density[few] = likelihood @ prior
        density[few] /= density[few].max(1, keepdims=True)
    weight = _weights(density)
    responsibility = density[~few] * weight
    responsibility /= responsibility.sum(1, keepdims=True)
    ratio = grid**2 / variance
    normal = NormalMixturePosterior(responsibility, ratio * estimate[~few, None], np.sqrt(ratio) * error[~few, None])
    likelihood *= prior @ weight
    likelihood /= likelihood.sum(1, keepdims=True)
    return Posterior(((~few, normal), (few, TabulatedPosterior(value, likelihood))))


def _weights(density: np.ndarray) -> np.ndarray:
    """Return the components' weights for the genes' densities ``[genes, components]``."""
    prior_counts = np.zeros(density.shape[1])
    prior_counts[0] = NULL_WEIGHT - 1
    weight = np.full(len(prior_counts), 1 / len(prior_counts))
    for _ in range(MAX_STEPS):
        previous = weight
        weight = previous * (density.T @ (1 / (density @ previous))) + prior_counts
        weight /= weight.sum()
        if np.abs(weight - previous).max() < TOLERANCE:
            break
    return weight


def _likelihood(value: np.ndarray, estimate: np.ndarray, shapes: np.ndarray, degrees: float) -> np.ndarray:
    """Return each gene's likelihood at the values of a table, up to a factor, ``[genes, points]``."""
    likelihood = np.empty((len(estimate), len(value)))
    step = max(1, CHUNK_ENTRIES // len(value))
    for start in range(0, len(estimate), step):
        part = slice(start, start + step)
        a, b = shapes[:, part, None]
        logit = np.log(a) - np.log(b) + value - estimate[part, None]
        log = -a * np.logaddexp(0, -logit) - b * np.logaddexp(0, logit)
        log -= log.max(1, keepdims=True)
        likelihood[part] = np.exp(-(degrees + 1) / 2 * np.log1p(-2 * log / degrees) if np.isfinite(degrees) else log)
    return likelihood


def _spacing(estimate: np.ndarray, error: np.ndarray) -> float:
    """Return a spacing of points that is small compared with the errors of nearly all genes."""
    largest = max(float(np.quantile(np.abs(estimate), 0.99)), np.finfo(float).tiny)
    return float(np.clip(np.quantile(error, 0.05) / largest / 2, MIN_POINT_SPACING, POINT_SPACING))


def _table(grid: np.ndarray, estimate: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Return values, dense around 0, and the components' probabilities there, ``[points, components]``."""
    smallest = grid[1] / 2
    largest = max(3 * grid[-1], 2 * np.abs(estimate).max(initial=0.0))
    steps = np.arange(1, int(np.ceil(np.arcsinh(largest / smallest) / spacing)) + 1)
    positive = smallest * np.sinh(spacing * steps)
    value = np.concatenate([-positive[::-1], [0.0], positive])
    scale = np.where(grid > 0, grid, 1)
    prior = np.exp(-0.5 * (value[:, None] / scale) ** 2) * np.gradient(value)[:, None]
    prior[:, grid == 0] = (value == 0)[:, None]
    return value, prior / prior.sum(0)


def _grid(estimate: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return standard deviations: 0, then from a tenth of the smallest error to twice the largest effect."""
    smallest = error.min() / 10
    largest = 2 * np.sqrt(max((estimate**2 - error**2).max(), (8 * smallest) ** 2))
    steps = int(np.ceil(2 * np.log2(largest / smallest)))
    return np.concatenate([[0.0], largest * 2.0 ** (-0.5 * np.arange(steps + 1))[::-1]])
