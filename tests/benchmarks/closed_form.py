"""Gradient variances that are known in closed form, next to those of vaekit's estimators.

Part one is E[(b - t)^2] for b ~ Bernoulli(sigmoid(phi)), differentiated with respect to phi. The exact moments of each
estimate are computed here, from its definition alone: a sum over the values of its bits, or an integral over its
uniform number by pieces on which the integrand is a polynomial.

Part two is E||z||^2 for z ~ Normal(mu, 1) in D dimensions, differentiated with respect to mu at mu = 0, where S =
||z||^2 has the chi-squared distribution with D degrees of freedom. The gradient is 0, so that the variance of one
component is the mean of its square, which is the same for each:

  pathwise        2 z_i                        4
  score function  S z_i                        E[S^2 z_i^2] = E[S^3] / D = (D + 2)(D + 4)
  leave-one-out   (S - S')(z_i - z_i') / 2     (E[S^2 z_i^2] + E[S^2] - 2 E[S z_i^2] E[S]) / 2 = 2 (D + 2)

by E[S^k] = D (D + 2) .. (D + 2k - 2) and, the components being alike, E[S^k z_i^2] = E[S^(k+1)] / D. Pathwise with 2
samples has 2. At equal samples the ratio to pathwise thus grows as (D + 2)(D + 4) / 4, and as D + 2 with leave-one-out.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal
from tqdm.auto import tqdm

from vaekit import expectation
from vaekit.estimators import ARM, DisARM, Estimator, LeaveOneOut, Pathwise, ScoreFunction

TARGET = 0.499
CHUNK_NUMBERS = 1_000_000  # floating-point numbers drawn at a time, at most

Moments = tuple[float, float]  # mean and variance


def leave_one_out() -> ScoreFunction:
    """Create the score function with leave-one-out over two samples."""
    return ScoreFunction(2, baseline=LeaveOneOut())


# --- E[(b - t)^2]

# gradient, and variances of: score function, leave-one-out with 2 samples, ARM, DisARM (shared/ANCHORS.md)
ANCHORS: dict[float, tuple[float, dict[str, float]]] = {
    0.0: (5.000e-4, {"score function": 1.563e-2, "leave-one-out, 2": 2.50e-7, "ARM": 8.33e-8, "DisARM": 0.0}),
    1.0: (3.932e-4, {"score function": 1.224e-2, "leave-one-out, 2": 2.386e-7, "ARM": 1.458e-7, "DisARM": 1.328e-7}),
    2.0: (2.100e-4, {"score function": 6.522e-3, "leave-one-out, 2": 1.659e-7, "ARM": 1.420e-7, "DisARM": 1.409e-7}),
}


def cost(b: Any) -> Any:
    """Return (b - t)^2."""
    return (b - TARGET) ** 2


def by_summation(estimate: Callable[..., float], bits: int, p: float) -> Moments:
    """Return mean and variance of an estimate that is a function of independent bits."""
    states = list(itertools.product((0, 1), repeat=bits))
    probabilities = [math.prod(p if b else 1 - p for b in state) for state in states]
    values = [estimate(*state) for state in states]
    mean = sum(w * v for w, v in zip(probabilities, values, strict=True))
    return mean, sum(w * (v - mean) ** 2 for w, v in zip(probabilities, values, strict=True))


def by_integration(estimate: Callable[[np.ndarray], np.ndarray], p: float) -> Moments:
    """Return mean and variance of an estimate that is a function of a uniform number, smooth but at p and 1 - p."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    ends = [0.0, min(p, 1 - p), max(p, 1 - p), 1.0]
    pieces = [(a + (b - a) * (nodes + 1) / 2, (b - a) * weights / 2) for a, b in itertools.pairwise(ends)]
    u, w = (np.concatenate(part) for part in zip(*pieces, strict=True))
    mean = float((w * estimate(u)).sum())
    return mean, float((w * (estimate(u) - mean) ** 2).sum())


def exact_moments(phi: float) -> dict[str, Moments]:
    """Return mean and variance of one estimate of each estimator."""
    p = 1 / (1 + math.exp(-phi))

    def arm(u: np.ndarray) -> np.ndarray:
        return (cost(u > 1 - p) - cost(u < p)) * (u - 0.5)

    def disarm(u: np.ndarray) -> np.ndarray:
        b, other = u > 1 - p, u < p
        sign = np.where(other, -1.0, 1.0)
        return 0.5 * (cost(b) - cost(other)) * sign * (b != other) * max(p, 1 - p)

    return {
        "score function": by_summation(lambda b: cost(b) * (b - p), 1, p),
        "leave-one-out, 2": by_summation(lambda b, c: (cost(b) - cost(c)) * (b - c) / 2, 2, p),
        "ARM": by_integration(arm, p),
        "DisARM": by_integration(disarm, p),
    }


ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "score function": ScoreFunction,
    "leave-one-out, 2": leave_one_out,
    "ARM": ARM,
    "DisARM": DisARM,
}


def bernoulli_table(replicates: int) -> list[dict[str, Any]]:
    """Return a line for each phi and estimator: exact, published and measured variance."""
    lines = []
    jobs = [(phi, name) for phi in ANCHORS for name in ESTIMATORS]
    for phi, name in tqdm(jobs, desc="(a) one bit", file=sys.stderr):
        p = 1 / (1 + math.exp(-phi))
        gradient = p * (1 - p) * (cost(1) - cost(0))
        mean, variance = exact_moments(phi)[name]
        if not math.isclose(mean, gradient, rel_tol=1e-9):
            raise AssertionError(f"{name}: mean {mean} by definition, gradient {gradient}")

        logits = torch.tensor(phi, dtype=torch.float64)
        found = measured(
            lambda at: Bernoulli(logits=at, validate_args=False), cost, logits, ESTIMATORS[name](), replicates, gradient
        )
        published_gradient, published = ANCHORS[phi]
        lines.append(
            {
                "phi": phi,
                "estimator": name,
                "gradient": gradient,
                "published_gradient": published_gradient,
                "published": published[name],
                "exact": variance,
                **compare(found, variance, floor=1e-9 * gradient**2),
            }
        )
    return lines


# --- E||z||^2

SAMPLES = {"pathwise": 1, "score function": 1, "leave-one-out, 2": 2}


def normal_moments(dimensions: int) -> dict[str, float]:
    """Return the variance of a component of one estimate; checks the formulas against moments of chi-squared."""
    d = dimensions
    first, second, third = (float(chi2(d).moment(k)) for k in (1, 2, 3))
    formula = {"pathwise": 4.0, "score function": (d + 2.0) * (d + 4.0), "leave-one-out, 2": 2.0 * (d + 2)}
    by_moments = {
        "pathwise": 4 * first / d,
        "score function": third / d,
        "leave-one-out, 2": (third / d + second - 2 * second / d * first) / 2,
    }
    for name, value in formula.items():
        if not math.isclose(value, by_moments[name], rel_tol=1e-9):
            raise AssertionError(f"{name}, {d} dimensions: {value} by formula, {by_moments[name]} by moments")
    return formula


def normal_table(replicates: int, dimensions: tuple[int, ...] = (1, 2, 5, 10, 50, 100)) -> list[dict[str, Any]]:
    """Return a line for each dimension and estimator: variance, and its ratio to pathwise with as many samples."""
    makers: dict[str, Callable[[], Estimator]] = {
        "pathwise": Pathwise,
        "score function": ScoreFunction,
        "leave-one-out, 2": leave_one_out,
    }
    lines = []
    for d, name in tqdm([(d, name) for d in dimensions for name in makers], desc="(b) E||z||^2", file=sys.stderr):
        variance = normal_moments(d)[name]
        mu = torch.zeros(d, dtype=torch.float64)
        found = measured(gaussian, square_norm, mu, makers[name](), max(replicates // 10, replicates // d), 0.0)
        against = normal_moments(d)["pathwise"] / SAMPLES[name]  # pathwise with as many samples
        line = {"dimensions": d, "estimator": name, "exact": variance, **compare(found, variance, floor=0.0)}
        lines.append({**line, "exact_ratio": variance / against, "measured_ratio": line["measured"] / against})
    return lines


def gaussian(mu: Tensor) -> Distribution:
    """Return Normal(mu, 1) over the last axis."""
    return Independent(Normal(mu, 1.0, validate_args=False), 1, validate_args=False)


def square_norm(z: Tensor) -> Tensor:
    """Return ||z||^2."""
    return z.square().sum(-1)


# --- both


def measured(
    q: Callable[[Tensor], Distribution],
    function: Callable[[Tensor], Tensor],
    parameter: Tensor,
    estimator: Estimator,
    replicates: int,
    gradient: float,
) -> Tensor:
    """Return squared distances of estimates from the gradient, averaged over the components, ``[replicates]``."""
    size = max(1, CHUNK_NUMBERS // parameter.numel())
    found = []
    for start in range(0, replicates, size):
        leaf = parameter.expand(min(size, replicates - start), *parameter.shape).clone().requires_grad_()
        (estimate,) = torch.autograd.grad(expectation(function, q(leaf), estimator).sum(), leaf)
        found.append((estimate - gradient).square().reshape(len(leaf), -1).mean(1))
    return torch.cat(found)


def compare(squares: Tensor, variance: float, floor: float) -> dict[str, float]:
    """Return the measured variance with its standard error, and the z-score against the exact one."""
    mean, error = squares.mean().item(), squares.std().item() / math.sqrt(len(squares))
    return {
        "measured": mean,
        "standard_error": error,
        "z": (mean - variance) / (error + floor),
        "replicates": len(squares),
    }
