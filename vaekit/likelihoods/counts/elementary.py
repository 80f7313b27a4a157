r"""Exponential and logarithm in float32 that numba can vectorize, unlike calls of libm.

They use Cody and Waite's range reduction and minimax polynomials (relative error 2e-9 and 4e-9, below the rounding of
float32). NaN stays NaN in the exponential. The logarithm needs positive finite values; its callers add a term that
propagates NaN.

Cody and Waite (1980), Software Manual for the Elementary Functions.
"""

from __future__ import annotations

import math

import numpy as np

from vaekit._core.numba_cache import cached_njit

# Permissions of the compiler, which keep NaN and infinity. Sums are vectorized only if they may be reordered, which
# would remove the terms that compensate rounding, so that no function of this module may be part of such a sum.
EXACT = {"contract", "arcp", "nsz"}
REORDER = {"reassoc", *EXACT}

f32, i32 = np.float32, np.int32

LOG2_HIGH = f32(355 / 512)  # log 2 in two parts: a small integer times the first is exact
LOG2_LOW = f32(math.log(2) - 355 / 512)
PER_LOG2 = f32(1 / math.log(2))
LOWEST, HIGHEST = f32(-87.0), f32(88.0)  # of the exponential: a normal float32
ROOT_HALF = np.array([0.5**0.5], f32).view(i32)[0]  # as bits


@cached_njit(fastmath=EXACT)
def exponential(x):
    """Return exp(x), for x below -87 the smallest normal number, above 88 the value there."""
    x = LOWEST if x < LOWEST else x  # in this order NaN passes
    x = HIGHEST if x > HIGHEST else x
    n = np.floor(x * PER_LOG2 + f32(0.5))
    r = x - n * LOG2_HIGH - n * LOG2_LOW
    p = f32(0.0013950478751212358)
    p = p * r + f32(0.008368882350623608)
    p = p * r + f32(0.04166620597243309)
    p = p * r + f32(0.1666651964187622)
    p = p * r + f32(0.5)
    p = p * r * r + r + f32(1)
    return p * i32(i32(i32(n) + i32(127)) << i32(23)).view(f32)


@cached_njit(fastmath=EXACT)
def logarithm(x):
    """Return log(x) of a positive finite normal x."""
    bits = f32(x).view(i32)
    n = i32(i32(bits - ROOT_HALF) >> i32(23))
    m = i32(bits - i32(n << i32(23))).view(f32) - f32(1)  # from sqrt(1/2) - 1 to sqrt(2) - 1
    p = f32(-0.07823377102613449)
    p = p * m + f32(0.13004831969738007)
    p = p * m + f32(-0.13208796083927155)
    p = p * m + f32(0.14163468778133392)
    p = p * m + f32(-0.16611149907112122)
    p = p * m + f32(0.2000301629304886)
    p = p * m + f32(-0.2500152289867401)
    p = p * m + f32(0.3333330750465393)
    p = p * m + f32(-0.49999988079071045)
    return m * m * p + f32(n) * LOG2_LOW + m + f32(n) * LOG2_HIGH


@cached_njit(fastmath=EXACT)
def log_one_plus(x):
    """Return log(1 + x) for x >= 0, also for small x with the relative precision of float32; NaN stays NaN."""
    u = f32(1) + x
    return logarithm(u) + (x - (u - f32(1))) / u  # restores the rounding error of u
