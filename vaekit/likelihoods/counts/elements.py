r"""Log-probability of a single count and its elementary functions, in float32 for Triton's compiler.

Products replace the gamma functions of counts up to 8. Larger counts use the saddle-point form of the binomial
distribution, in which no terms as large as the count cancel,

.. math:: \log p(x) = -D + \tfrac12 \log\frac{\theta}{2 \pi x (x + \theta)} + \delta(x + \theta) - \delta(\theta) -
    \delta(x), \qquad D = x \log\frac{x (\mu + \theta)}{\mu (x + \theta)} - \theta \log\frac{x + \theta}{\mu + \theta}

with the remainders :math:`\delta` of Stirling's formula. Log means and log inverse dispersions are clamped to the
bounds below, beyond which float32 would overflow; the value continues linearly, as the exact one does there.
The exception is a positive count whose mean and inverse dispersion are both below e^-40, one of them beyond its bound:
its value is finite, but not exact.

Triton's own exponential is approximate, and its libraries differ between devices. The functions here are the
polynomials of :mod:`vaekit.likelihoods.counts.elementary`.

Loader (2000), Fast and Accurate Computation of Binomial Probabilities.
"""

import triton
import triton.language as tl

MIN_LOG_MEAN = tl.constexpr(-60.0)  # below, log p = x log(mean) + terms independent of the mean
MAX_LOG_MEAN = tl.constexpr(40.0)  # above, log p = -theta log(mean) + terms independent of the mean
MAX_LOG_THETA = tl.constexpr(40.0)  # above, a Poisson distribution; below -40, log p = log(theta) + the rest if x > 0
SMALL = tl.constexpr(8)
LOWEST, HIGHEST = tl.constexpr(-87.0), tl.constexpr(88.0)  # of the exponential: a normal float32
LOG2_HIGH = tl.constexpr(355 / 512)  # log 2 in two parts: a small integer times the first is exact
LOG2_LOW = tl.constexpr(0.6931471805599453 - 355 / 512)
PER_LOG2 = tl.constexpr(1.4426950408889634)
ROOT_HALF = tl.constexpr(0x3F3504F3)  # the bits of sqrt(1/2)
HALF_LOG_2PI = tl.constexpr(0.9189385332046727)


@triton.jit
def negative_binomial(x, log_mean, log_theta):
    """Return the log-probability of a count, and its slopes in log mean and log theta."""
    low, high = tl.where(log_mean < MIN_LOG_MEAN, log_mean - MIN_LOG_MEAN, 0.0), MAX_LOG_MEAN
    bound = tl.where(log_mean < MIN_LOG_MEAN, MIN_LOG_MEAN, tl.where(log_mean > high, high, log_mean))
    over = tl.where(log_mean > high, log_mean - high, 0.0)
    bounded_theta = tl.where(log_theta > MAX_LOG_THETA, MAX_LOG_THETA, log_theta)
    under = tl.where(bounded_theta < -MAX_LOG_THETA, bounded_theta + MAX_LOG_THETA, 0.0)
    bounded_theta = tl.where(bounded_theta < -MAX_LOG_THETA, -MAX_LOG_THETA, bounded_theta)

    mean, theta, inverse = exponential(bound), exponential(bounded_theta), exponential(-bounded_theta)
    ratio = mean * inverse
    shrinkage, log1p = 1.0 / (1.0 + ratio), log_one_plus(ratio)
    zero = -theta * log1p
    slope = (x - mean) * shrinkage
    # product over k < min(x, 8) of (theta + k) / (k + 1), divided by max(theta, 1), and its slope
    scale = tl.where(bounded_theta > 0.0, inverse, 1.0)
    unit = tl.where(bounded_theta > 0.0, 1.0, theta)
    product, change = tl.full(x.shape, 1.0, tl.float32), tl.zeros(x.shape, tl.float32)
    for k in tl.static_range(1, SMALL):
        below = x > k
        factor = (unit + k * scale) * (1.0 / (k + 1))
        change = tl.where(below, change * factor + product * (unit * (1.0 / (k + 1))), change)
        product = tl.where(below, product * factor, product)
    log_small = tl.where(bounded_theta < 0.0, bounded_theta, 0.0)
    value = zero + x * (bound - log1p - log_small) + log_small + logarithm(product)
    sums = 1.0 + change / product
    if tl.max(x, 0) > SMALL:
        large = tl.where(x > SMALL, x, SMALL + 1.0)
        beyond_value, more = _many(large, mean, theta, bounded_theta)
        value = tl.where(x > SMALL, beyond_value, value)
        sums += tl.where(x > SMALL, more, 0.0)
    value = tl.where(x > 0.0, value + under + x * low, zero) - theta * over
    sums = tl.where(x > 0.0, sums, 0.0)
    is_count = (x >= 0.0) & (x == tl.floor(x)) & (x < float("inf"))
    value = tl.where(is_count, value, float("nan"))
    return value, slope, zero - slope + sums


@triton.jit
def _many(x, mean, theta, log_theta):
    """Return the log-probability of counts above 8, and the part of the slope in log theta from the terms k >= 8."""
    both, start = x + theta, theta + SMALL
    gap = x - mean
    excess = gap / (mean + theta)
    log_excess = _log_of(excess, both / (mean + theta))
    deviance = x * _log_of(theta * (gap / both) / mean, x / mean * ((mean + theta) / both)) - theta * log_excess
    # delta(theta): Stirling's series if it is exact, otherwise the gamma function's recurrence from theta + 8
    product = theta
    for k in tl.static_range(1, SMALL):
        product *= tl.where(theta < SMALL, theta + k, 1.0)
    small = tl.where(theta < SMALL, theta, 1.0)
    shifted = (small + (SMALL - 0.5)) * logarithm(small + SMALL) - SMALL - (small - 0.5) * log_theta
    shifted += _stirling(small + SMALL) - logarithm(tl.where(theta < SMALL, product, 1.0))
    remainder = tl.where(theta < SMALL, shifted, _stirling(tl.where(theta < SMALL, SMALL, theta)))
    value = -deviance + 0.5 * (log_theta - logarithm(x) - logarithm(both)) - HALF_LOG_2PI
    value += _stirling(both) - _stirling(x) - remainder
    more = x - SMALL
    return value, theta * (log_one_plus(more / start) + _digamma_series(both) - _digamma_series(start))


@triton.jit
def inflate(x, p, gate):
    """Return the log-probability with additional zeros, the fraction of the count term, and the slope in the gate."""
    # log(e^gate + e^p) - log(1 + e^gate) at a zero, with the larger term of each sum factored out
    gap = gate - p
    far, near = tl.where(gap > 0.0, gap, -gap), tl.where(gate > 0.0, gate, -gate)
    larger, positive = tl.where(gap > 0.0, gate, p), tl.where(gate > 0.0, gate, 0.0)
    rest = log_one_plus(exponential(-near))
    at_zero = (larger - positive) + (log_one_plus(exponential(-far)) - rest)
    value = tl.where(x > 0.0, p - positive - rest, at_zero)
    fraction = tl.where(x > 0.0, 1.0, _sigmoid(-gap))
    return value, fraction, tl.where(x > 0.0, -_sigmoid(gate), _sigmoid(-gate) - fraction)


@triton.jit
def exponential(x):
    """Return exp(x), for x below -87 the smallest normal number, above 88 the value there; NaN stays."""
    x = tl.where(x < LOWEST, LOWEST, x)
    x = tl.where(x > HIGHEST, HIGHEST, x)
    n = tl.floor(x * PER_LOG2 + 0.5)
    r = x - n * LOG2_HIGH - n * LOG2_LOW
    p = r * 0.0013950478751212358 + 0.008368882350623608
    p = p * r + 0.04166620597243309
    p = p * r + 0.1666651964187622
    p = p * r + 0.5
    p = p * r * r + r + 1.0
    power = (tl.where(n == n, n, 0.0).to(tl.int32) + 127) << 23
    return p * power.to(tl.float32, bitcast=True)


@triton.jit
def logarithm(x):
    """Return log(x) of a positive finite normal x."""
    bits = x.to(tl.int32, bitcast=True)
    n = (bits - ROOT_HALF) >> 23
    m = (bits - (n << 23)).to(tl.float32, bitcast=True) - 1.0  # from sqrt(1/2) - 1 to sqrt(2) - 1
    p = m * -0.07823377102613449 + 0.13004831969738007
    p = p * m - 0.13208796083927155
    p = p * m + 0.14163468778133392
    p = p * m - 0.16611149907112122
    p = p * m + 0.2000301629304886
    p = p * m - 0.2500152289867401
    p = p * m + 0.3333330750465393
    p = p * m - 0.49999988079071045
    n = n.to(tl.float32)
    return m * m * p + n * LOG2_LOW + m + n * LOG2_HIGH


@triton.jit
def log_one_plus(x):
    """Return log(1 + x), also for small x with the relative precision of float32."""
    u = 1.0 + x
    return logarithm(u) + (x - (u - 1.0)) / u  # restores the rounding error of u


@triton.jit
def _log_of(excess, ratio):
    """Return the log of ``ratio`` = 1 + ``excess``, from the more precise of the two."""
    near = (excess < 0.5) & (excess > -0.5)
    small = tl.where(near, excess, 0.0)
    return tl.where(near, log_one_plus(small), logarithm(ratio))


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + exponential(-x))


@triton.jit
def _stirling(y):
    """Return log Gamma(y) - (y - 1/2) log y + y - log(2 pi) / 2 for y >= 8."""
    square = 1.0 / (y * y)
    return (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680)))) / y


@triton.jit
def _digamma_series(y):
    """Return digamma(y) - log y for y >= 8."""
    square = 1.0 / (y * y)
    return -0.5 / y - square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240))))
