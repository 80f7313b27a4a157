"""Table of the distributions with pathwise gradients, each with scipy's density, for the common tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical, Distribution, Laplace, Normal

from vaekit.distributions import LogGamma, MixtureSameFamily, TruncatedNormal, VonMises

INF = float("inf")


class Family(NamedTuple):
    """A distribution at given parameters.

    ``make`` maps one tensor per parameter to the distribution. ``frozen`` maps one float per parameter to an object
    with scipy's ``pdf`` and ``cdf``. ``edges`` and the parameters ``corners`` split the support for quadrature.
    """

    name: str
    make: Callable[..., Distribution]
    frozen: Callable[..., stats.distributions.rv_frozen]
    parameters: tuple[float, ...]
    edges: tuple[float, ...]
    costs: tuple[Callable, ...] = ()
    precision: float = 0.01
    corners: tuple[int, ...] = ()


class Mixed:
    """A mixture of two scipy distributions, with the logit of the first one as a parameter."""

    def __init__(self, logit, first, second):
        self.share, self.first, self.second = 1 / (1 + np.exp(-logit)), first, second

    def pdf(self, z):
        return self.share * self.first.pdf(z) + (1 - self.share) * self.second.pdf(z)

    def cdf(self, z):
        return self.share * self.first.cdf(z) + (1 - self.share) * self.second.cdf(z)


class Wrapped:
    """scipy's von Mises distribution on [-pi, pi]."""

    def __init__(self, loc, kappa):
        self.pdf = stats.vonmises(kappa, loc=loc).pdf
        self.cdf = lambda z: stats.vonmises(kappa, loc=loc).cdf(z) - stats.vonmises(kappa, loc=loc).cdf(-np.pi)


def mixture(component: type[Distribution]) -> Callable[..., Distribution]:
    """Return a function of a logit and two pairs of location and scale."""

    def make(logit: Tensor, m: Tensor, s: Tensor, n: Tensor, t: Tensor) -> Distribution:
        logits = torch.stack([logit, torch.zeros_like(logit)], -1)
        return MixtureSameFamily(
            Categorical(logits=logits), component(torch.stack([m, n], -1), torch.stack([s, t], -1))
        )

    return make


def bend(z):
    """Return a smooth, skewed cost with a bounded slope, of an array or a tensor."""
    log1p = torch.log1p if isinstance(z, Tensor) else np.log1p
    return log1p((z - 0.4) ** 2) + 0.3 * z


def square(z):
    return (z - 0.7) ** 2


def turn(z):
    sin, cos = (torch.sin, torch.cos) if isinstance(z, Tensor) else (np.sin, np.cos)
    return cos(z - 0.3) + 0.5 * sin(2 * z)


def ripple(z):
    exp, cos = (torch.exp, torch.cos) if isinstance(z, Tensor) else (np.exp, np.cos)
    return exp(cos(z + 0.5))


LINE = (bend, square)
CIRCLE = (turn, ripple)


def loggamma(a: float, b: float) -> stats.distributions.rv_frozen:
    return stats.loggamma(a, loc=-np.log(b))


def truncnorm(low: float, high: float) -> Callable[..., stats.distributions.rv_frozen]:
    return lambda m, s: stats.truncnorm((low - m) / s, (high - m) / s, loc=m, scale=s)


def truncated(low: float, high: float) -> Callable[..., Distribution]:
    return lambda m, s: TruncatedNormal(m, s, low, high)


FAMILIES = [
    Family("von_mises_flat", VonMises, Wrapped, (0.4, 0.1), (-np.pi, 0, np.pi), CIRCLE),
    Family("von_mises", VonMises, Wrapped, (2.5, 1.7), (-np.pi, 0, np.pi), CIRCLE),
    Family("von_mises_sharp", VonMises, Wrapped, (-0.6, 40.0), (-np.pi, -1.2, -0.6, 0, np.pi), CIRCLE),
    Family("log_gamma_0.01", LogGamma, loggamma, (0.01, 1.5), (-4500, -1000, -300, -100, -30, -8, 0, 4, 8), LINE, 0.02),
    Family("log_gamma_0.1", LogGamma, loggamma, (0.1, 0.7), (-450, -100, -30, -8, 0, 4, 8), LINE, 0.02),
    Family("log_gamma_1", LogGamma, loggamma, (1.0 + 1e-2, 2.0), (-40, -15, -8, -3, 0, 2, 5), LINE),
    Family("log_gamma_10", LogGamma, loggamma, (10.0, 3.0), (-8, -2, 0, 1, 2, 3, 5), LINE),
    Family("log_gamma_1000", LogGamma, loggamma, (1000.0, 300.0), (0.8, 1.1, 1.2, 1.3, 1.6), LINE),
    Family("truncated", truncated(-0.5, 1.0), truncnorm(-0.5, 1.0), (0.3, 0.8), (-0.5, 1.0), LINE),
    Family("truncated_half", truncated(0.0, INF), truncnorm(0.0, INF), (-0.4, 0.9), (0.0, 1.5, 4.0, 9.0), LINE),
    Family("truncated_tail", truncated(-INF, -4.0), truncnorm(-INF, -4.0), (1.0, 0.5), (-8, -5, -4.3, -4), LINE),
    Family(
        "mixture_normal",
        mixture(Normal),
        lambda a, m, s, n, t: Mixed(a, stats.norm(m, s), stats.norm(n, t)),
        (0.4, -0.6, 0.5, 1.1, 0.8),
        (-12, -4, -2, -1, 0, 1, 2, 4, 12),
        LINE,
    ),
    Family(
        "mixture_laplace",
        mixture(Laplace),
        lambda a, m, s, n, t: Mixed(a, stats.laplace(m, s), stats.laplace(n, t)),
        (-0.3, -0.5, 0.6, 0.8, 0.7),
        (-30, -8, -3, 0, 3, 8, 30),
        LINE,
        corners=(1, 3),
    ),
]
BY_NAME = {family.name: family for family in FAMILIES}


def integral(family: Family, cost: Callable, parameters: np.ndarray) -> float:
    """Return E[cost], by 200 Gauss-Legendre points per piece."""
    x, w = np.polynomial.legendre.leggauss(200)
    edges = np.sort([*family.edges, *(parameters[i] for i in family.corners)])
    half = np.diff(edges)[:, None] / 2
    z = edges[:-1, None] + half * (x + 1)
    return float((half * w * cost(z) * family.frozen(*parameters).pdf(z)).sum())


def derivatives(function: Callable[[np.ndarray], float], at: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Return gradient and Hessian by central differences of fourth order, in steps relative to the parameters."""
    steps = np.diag(4e-3 * np.maximum(np.abs(at), 1e-3))
    shifts, first = np.array([-2, -1, 1, 2]), np.array([1, -8, 8, -1]) / 12

    def slope(i: int, around: np.ndarray) -> float:
        return sum(c * function(around + k * steps[i]) for k, c in zip(shifts, first, strict=True)) / steps[i, i]

    size, center = range(len(at)), np.array(at, dtype=float)
    gradient = [slope(i, center) for i in size]
    hessian = np.empty((len(at), len(at)))
    for i in size:
        for j in range(i + 1):
            mixed = sum(c * slope(j, center + k * steps[i]) for k, c in zip(shifts, first, strict=True)) / steps[i, i]
            hessian[i, j] = hessian[j, i] = mixed
    return torch.tensor(gradient, dtype=torch.float64), torch.from_numpy(hessian)
