"""Compiled loops of the count likelihoods; the values of a cell stay in the first-level cache between passes.

Each pass over the genes is a separate function with few arrays, because the compiler vectorizes only those. Arrays are
float32 and contiguous unless stated otherwise.
"""

from __future__ import annotations

import math

import numpy as np

from vaekit._core.numba_cache import cached_njit
from vaekit.likelihoods.counts.elementary import EXACT, REORDER, exponential, f32, log_one_plus, logarithm

SMALL = 8  # counts up to 8 come from tables; beyond, Stirling's series is exact to 1e-11
LOG_FACTORIALS = np.array([math.lgamma(x + 1) for x in range(1024)])


@cached_njit()
def evaluate(logits, top, size, theta, gate, starts, gene, count, value, d_logits, d_size, d_theta, d_gate):
    """Compute the log-probability of all cells, and its gradient.

    Parameters
    ----------
    logits, top, size
        Logits of the composition, ``[cells, genes]``; their maximum per cell, and the size factors, ``[cells]``.
    theta
        Inverse dispersions, ``[cells or 1, genes]``.
    gate
        Logits of additional zeros, ``[cells, genes]``, or ``[0, genes]`` without them.
    starts, gene, count
        The non-zero counts of cell c are ``count[starts[c] : starts[c + 1]]``, in these genes. The counts repeat for
        further samples of the latents.
    value
        Output: log-probabilities, float64 ``[cells]``.
    d_logits, d_size, d_theta, d_gate
        Output: gradients with respect to the logits, the log size factors ``[cells]``, the log inverse dispersions
        ``[cells, genes]`` and the gates. Without cells they are not computed.
    """
    genes, num_cells, needs_grad = logits.shape[1], len(starts) - 1, len(d_logits) > 0
    mean, inverse, shrinkage, zero = (
        np.empty(genes, f32),
        np.empty(genes, f32),
        np.empty(genes, f32),
        np.empty(genes, f32),
    )
    slope, prob_count, count_fraction, log_zero = (
        np.empty(genes, f32),
        np.empty(genes, f32),
        np.empty(genes, f32),
        np.empty(genes, f32),
    )
    shared = len(theta) == 1
    logs, slopes = (
        np.empty((SMALL + 1, genes if shared else 0), f32),
        np.empty((SMALL + 1, genes if shared else 0), f32),
    )
    start_values = np.zeros((genes if shared else 0, 5))  # of genes with a large count so far
    if shared:
        _reciprocals(theta[0], inverse)
        _tables(theta[0], inverse, logs, slopes)
    for i in range(len(logits)):
        cell_theta = theta[0] if shared else theta[i]
        if not shared:
            _reciprocals(cell_theta, inverse)
        _exponentials(logits[i], top[i], mean)
        norm = _total(mean)
        _ratios(mean, size[i] / norm, inverse, shrinkage, zero)
        dense = _zeros(cell_theta, mean, shrinkage, zero, slope)
        if len(gate):
            _inflate(gate[i], zero, slope, prob_count, count_fraction, log_zero)
            dense = _total(log_zero)
        level = math.log(np.float64(size[i])) - np.float64(top[i]) - math.log(np.float64(norm))
        total, cell = float(dense), i % num_cells
        if needs_grad:
            _dispersion_slopes(zero, count_fraction, len(gate) > 0, slope, d_theta[i])
            if len(gate):
                _gate_slopes(prob_count, count_fraction, d_gate[i])
        for k in range(starts[cell], starts[cell + 1]):
            j, x = gene[k], count[k]
            log_mean, log1p = np.float64(logits[i, j]) + level, -np.float64(zero[j] * inverse[j])
            if not shared:
                log_sum, slope_sum = sums(np.float64(x), np.float64(cell_theta[j]))
            elif x <= SMALL:
                log_sum, slope_sum = np.float64(logs[int(x), j]), np.float64(slopes[int(x), j])
            else:
                if start_values[j, 0] == 0:
                    start_values[j] = _sums_start(np.float64(cell_theta[j]))
                log_sum, slope_sum = _sums_beyond(np.float64(x), np.float64(cell_theta[j]), start_values[j])
            if x > SMALL:  # float32 rounding would be multiplied by x
                log1p = np.float64(math.log1p(math.exp(log_mean) * np.float64(inverse[j])))
            total += x * (log_mean - log1p) + log_sum
            if len(gate):
                total += np.float64(zero[j]) + np.float64(logarithm(prob_count[j])) - np.float64(log_zero[j])
            if needs_grad:
                slope[j] = (x - mean[j]) * shrinkage[j]
                d_theta[i, j] = zero[j] - slope[j] + f32(slope_sum)
                if len(gate):
                    d_gate[i, j] = prob_count[j] - f32(1)
        value[i] = total
        if needs_grad:
            d_size[i] = _total(slope)
            _softmax_backward(slope, mean, d_size[i] / size[i], d_logits[i])


@cached_njit(fastmath=REORDER)
def _reciprocals(theta, inverse):
    for j in range(len(theta)):
        inverse[j] = f32(1) / theta[j]


@cached_njit(fastmath=EXACT)
def _exponentials(logits, top, out):
    for j in range(len(logits)):
        out[j] = exponential(logits[j] - top)


@cached_njit(fastmath=EXACT)
def _ratios(mean, scale, inverse, shrinkage, log1p):
    """Scale the means; write 1 / (1 + mean / theta) and log(1 + mean / theta)."""
    for j in range(len(mean)):
        m = mean[j] * scale
        mean[j] = m
        ratio = m * inverse[j]
        shrinkage[j] = f32(1) / (f32(1) + ratio)
        log1p[j] = log_one_plus(ratio)


@cached_njit(fastmath=REORDER)
def _zeros(theta, mean, shrinkage, log1p, slope):
    """Overwrite ``log1p`` with the log-probabilities of zeros, write their slopes in log mean, and return the sum."""
    total = f32(0)
    for j in range(len(mean)):
        z = -theta[j] * log1p[j]
        log1p[j] = z
        slope[j] = -mean[j] * shrinkage[j]
        total += z
    return total


@cached_njit(fastmath=EXACT)
def _inflate(gate, zero, slope, prob_count, count_fraction, log_zero):
    """Write the probability of no additional zero, the fraction of count zeros, and the log-probability of a zero."""
    for j in range(len(gate)):
        odds, alone = exponential(gate[j]), exponential(zero[j])
        both = odds + alone
        k = f32(1) / (f32(1) + odds)
        prob_count[j] = k
        fraction = alone / both
        count_fraction[j] = fraction
        slope[j] *= fraction
        log_zero[j] = logarithm(both * k) + (both - both)  # the last carries NaN


@cached_njit(fastmath=REORDER)
def _dispersion_slopes(zero, count_fraction, inflated, slope, out):
    if inflated:
        for j in range(len(zero)):
            out[j] = zero[j] * count_fraction[j] - slope[j]
    else:
        for j in range(len(zero)):
            out[j] = zero[j] - slope[j]


@cached_njit(fastmath=REORDER)
def _gate_slopes(prob_count, count_fraction, out):
    for j in range(len(prob_count)):
        out[j] = prob_count[j] - count_fraction[j]


@cached_njit(fastmath=REORDER)
def _total(values):
    total = f32(0)
    for j in range(len(values)):
        total += values[j]
    return total


@cached_njit(fastmath=REORDER)
def _softmax_backward(slope, mean, total, out):
    for j in range(len(slope)):
        out[j] = slope[j] - mean[j] * total


@cached_njit(fastmath=REORDER)
def _tables(theta, inverse, logs, slopes):
    """Write the results of :func:`sums` for counts up to SMALL, one row per count."""
    for j in range(len(theta)):
        logs[0, j] = logs[1, j] = slopes[0, j] = f32(0)
        slopes[1, j] = f32(1)
    for k in range(1, SMALL):
        _next_row(theta, inverse, f32(k), logs[k], slopes[k], logs[k + 1], slopes[k + 1])


@cached_njit(fastmath=EXACT)
def _next_row(theta, inverse, k, logs, slopes, next_logs, next_slopes):
    log_divisor = log_one_plus(k)
    for j in range(len(theta)):
        next_logs[j] = logs[j] + log_one_plus(k * inverse[j]) - log_divisor
        next_slopes[j] = slopes[j] + theta[j] / (theta[j] + k)


@cached_njit()
def sums(x, theta):
    r"""Return the sums over k < x that replace gamma functions, in float64, for a count x of at least 1.

    .. math:: \sum_{k < x} \log\frac{1 + k / \theta}{1 + k} =
        \log\Gamma(x + \theta) - \log\Gamma(\theta) - x \log\theta - \log\Gamma(x + 1)

    .. math:: \sum_{k < x} \frac{\theta}{\theta + k} = \theta (\psi(x + \theta) - \psi(\theta))
    """
    if x > SMALL:
        return _sums_beyond(x, theta, _sums_start(theta))
    product, slope = _small_sums(int(x), theta)
    return math.log(product) - LOG_FACTORIALS[int(x)], slope


@cached_njit()
def _small_sums(count, theta):
    """Return the product and the sum over k < count."""
    product, slope = 1.0, 0.0
    for k in range(count):
        product *= 1 + k / theta
        slope += theta / (theta + k)
    return product, slope


@cached_njit()
def _sums_start(theta):
    """Return the common part of the sums for all counts beyond SMALL; its first entry is never 0."""
    product, slope = _small_sums(SMALL, theta)
    start = theta + SMALL
    return math.log1p(SMALL / theta), math.log(product), slope, _log_gamma_series(start), _digamma_series(start)


@cached_njit()
def _sums_beyond(x, theta, start_values):
    """Return the sums for a count beyond SMALL, continued by Stirling's series."""
    start, more = theta + SMALL, x - SMALL
    stop, growth = start + more, math.log1p(more / start)
    log_factorial = LOG_FACTORIALS[int(x)] if x < len(LOG_FACTORIALS) else math.lgamma(x + 1)
    log_sum = start_values[1] + more * start_values[0] - log_factorial
    log_sum += (stop - 0.5) * growth - more + _log_gamma_series(stop) - start_values[3]
    return log_sum, start_values[2] + theta * (growth + _digamma_series(stop) - start_values[4])


@cached_njit()
def _log_gamma_series(y):
    """Return log Gamma(y) - (y - 1/2) log y + y - log(2 pi) / 2 for y >= SMALL, by Stirling's series."""
    square = 1 / (y * y)
    return (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680))) / y


@cached_njit()
def _digamma_series(y):
    """Return digamma(y) - log y for y >= SMALL."""
    square = 1 / (y * y)
    return -0.5 / y - square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))


@cached_njit(fastmath=EXACT)
def all_counts(values):
    """Return whether all values are positive integers."""
    num_invalid = 0
    for k in range(len(values)):
        num_invalid += not (values[k] >= 1 and values[k] == np.floor(values[k]))
    return num_invalid == 0
