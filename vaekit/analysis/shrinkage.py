"""Effects of many genes, estimated with errors, and what their common distribution says of each."""

from __future__ import annotations

import numpy as np

from vaekit.analysis.effects import NormalMixturePosterior, Posterior, TabulatedPosterior

STEPS = 2000  # of expectation maximisation; it stops where the weights do
TOLERANCE = 1e-6
NULL_WEIGHT = 10.0  # prior counts of the spike at 0: where effects and errors cannot be told apart, there are none
FEW = 100.0  # counts from which on the logarithm of their mean is as good as normal
STEP = 0.04  # between points of a table, relative to their size
AT_ONCE = 2_000_000  # table entries


def shrink(estimate: np.ndarray, error: np.ndarray, shapes: np.ndarray | None = None) -> Posterior:
    r"""Return the posterior of effects, with their distribution over the genes as the prior (empirical Bayes).

    .. math::
        \hat\beta_g \mid \beta_g \sim N(\beta_g, s_g^2), \qquad
        \beta_g \sim \pi_0\, \delta_0 + \sum_k \pi_k\, N(0, \sigma_k^2)

    on a grid of sigma; the weights pi are those of the highest likelihood over all genes, by expectation
    maximisation.

    An effect that is the log ratio of two means of few counts, a and b, has another likelihood, that of the
    a + b counts of which a are in the first group,

    .. math:: L(\beta) \propto p^a (1 - p)^b, \qquad \log\frac{p}{1 - p} = \log\frac{a}{b} + \beta - \hat\beta,

    which is skewed: no count where many are expected leaves open how small the mean is, but not that it is as large
    as expected.

    Parameters
    ----------
    estimate, error
        Estimates and their standard errors, float64 ``[genes]``, finite; errors positive.
    shapes
        Counts a and b behind them, positive ``[2, genes]``, for natural logarithms; None: normal errors.

    Notes
    -----
    Stephens (2017), False discovery rates: a new deal; Przyborowski and Wilenski (1940), Homogeneity of results in
    testing samples from Poisson series.
    """
    grid = _grid(estimate, error)
    few = np.zeros(len(estimate), dtype=bool) if shapes is None else shapes.min(0) < FEW
    density = np.empty((len(estimate), len(grid)))
    variance = error[~few, None] ** 2 + grid**2
    log_density = -0.5 * (estimate[~few, None] ** 2 / variance + np.log(variance))
    density[~few] = np.exp(log_density - log_density.max(1, keepdims=True))
    value, prior = _table(grid, estimate[few])
    likelihood = np.empty((0, len(value)))
    if few.any():
        assert shapes is not None
        likelihood = _likelihood(value, estimate[few], shapes[:, few])
        density[few] = likelihood @ prior
        density[few] /= density[few].max(1, keepdims=True)
    weight = _weights(density)
    share = density[~few] * weight
    share /= share.sum(1, keepdims=True)
    kept = grid**2 / variance
    many = NormalMixturePosterior(share, kept * estimate[~few, None], np.sqrt(kept) * error[~few, None])
    likelihood *= prior @ weight
    likelihood /= likelihood.sum(1, keepdims=True)
    return Posterior(((~few, many), (few, TabulatedPosterior(value, likelihood))))


def _weights(density: np.ndarray) -> np.ndarray:
    """Return the weights of the components, from the genes' densities under each, ``[genes, components]``."""
    pseudo = np.zeros(density.shape[1])
    pseudo[0] = NULL_WEIGHT - 1
    weight = np.full(len(pseudo), 1 / len(pseudo))
    for _ in range(STEPS):
        new = weight * (density.T @ (1 / (density @ weight))) + pseudo
        new /= new.sum()
        done = np.abs(new - weight).max() < TOLERANCE
        weight = new
        if done:
            break
    return weight


def _likelihood(value: np.ndarray, estimate: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Return each gene's likelihood at the values of a table, up to a factor, ``[genes, points]``."""
    found = np.empty((len(estimate), len(value)))
    step = max(1, AT_ONCE // len(value))
    for first in range(0, len(estimate), step):
        part = slice(first, first + step)
        a, b = shapes[:, part, None]
        logit = np.log(a) - np.log(b) + value - estimate[part, None]
        log = -a * np.logaddexp(0, -logit) - b * np.logaddexp(0, logit)
        found[part] = np.exp(log - log.max(1, keepdims=True))
    return found


def _table(grid: np.ndarray, estimate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values around 0, dense near it, and the components' probabilities there, ``[points, components]``."""
    smallest = grid[1] / 2
    largest = max(3 * grid[-1], 2 * np.abs(estimate).max(initial=0.0))
    steps = np.arange(1, int(np.ceil(np.arcsinh(largest / smallest) / STEP)) + 1)
    beside = smallest * np.sinh(STEP * steps)
    value = np.concatenate([-beside[::-1], [0.0], beside])
    width = np.gradient(value)
    scale = np.where(grid > 0, grid, 1)
    prior = np.exp(-0.5 * (value[:, None] / scale) ** 2) * width[:, None]
    prior[:, grid == 0] = (value == 0)[:, None]
    return value, prior / prior.sum(0)


def _grid(estimate: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return standard deviations: 0, then from a tenth of the smallest error to twice the largest effect."""
    smallest = error.min() / 10
    largest = 2 * np.sqrt(max((estimate**2 - error**2).max(), (8 * smallest) ** 2))
    steps = int(np.ceil(2 * np.log2(largest / smallest)))
    return np.concatenate([[0.0], largest * 2.0 ** (-0.5 * np.arange(steps + 1))[::-1]])
