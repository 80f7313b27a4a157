"""Derivatives of densities as differences of two densities, for ``MeasureValued``.

A decomposition is a function of a distribution and the number of samples, ``S``. It returns

- samples, ``[S, *shape, *event]``;
- perturbed values, ``[changes, S, *shape, *event]``: a positive part for each parameter, then the negative parts of
  the first parameters. The samples themselves are the negative part of the other parameters;
- slopes, ``[parameters, S or 1, *shape]``: value 0, with the gradient of the parameter times its constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Gamma, Normal, OneHotCategorical, Poisson

from vaekit.estimators.noise import zero_with_gradient

Decomposition = Callable[[Any, int], tuple[Tensor, Tensor, Tensor]]


def decomposition(base: Distribution) -> Decomposition | None:
    """Return the decomposition of a distribution without ``Independent``; None if it does not have one."""
    return next((function for family, function in DECOMPOSITIONS.items() if isinstance(base, family)), None)


def num_changes(base: Distribution) -> int:
    """Return the number of perturbed values per sample."""
    if isinstance(base, Categorical | OneHotCategorical):
        return base.probs.shape[-1] - 1
    return 4 if isinstance(base, Gamma) else 3 if isinstance(base, Normal) else 1


def _exponential(like: Tensor) -> Tensor:
    """Sample standard exponential noise, which must not be 0."""
    noise = torch.empty_like(like, memory_format=torch.contiguous_format).exponential_()
    return noise.clamp_min(torch.finfo(like.dtype).tiny)


def _normal(q: Any, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normal(m, s): location (m + s W) - (m - s W), over s sqrt(2 pi), W Rayleigh; scale (m + s M) - z, over s.

    With ``z = m + s e`` the Maxwell variable is ``M = sign(e) sqrt(e^2 + 2 E)``: M times a uniform variable is normal.
    """
    loc, scale = q.loc.detach(), q.scale.detach()
    noise = torch.randn(num_samples, *loc.shape, dtype=loc.dtype, device=loc.device)
    square = 2 * _exponential(noise)
    rayleigh, maxwell = scale * square.sqrt(), scale * torch.copysign((noise.square() + square).sqrt(), noise)
    slope = torch.stack([zero_with_gradient(q.loc) / math.sqrt(2 * math.pi), zero_with_gradient(q.scale)]) / scale
    return loc + scale * noise, torch.stack([loc + rayleigh, loc + maxwell, loc - rayleigh]), slope[:, None]


def _poisson(q: Any, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Poisson: the derivative with respect to the rate is (z + 1) - z."""
    value = q.sample((num_samples,))
    return value, value[None] + 1, zero_with_gradient(q.rate)[None, None]


def _discrete(q: Any, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """States: the derivative with respect to the probability of another state k is k - z, because all sum to 0."""
    one_hot = isinstance(q, OneHotCategorical)
    prob = torch.stack([1 - q.probs, q.probs], -1) if isinstance(q, Bernoulli) else q.probs
    value = q.sample((num_samples,))
    state = value.argmax(-1) if one_hot else value.long()
    states = prob.shape[-1]
    other = (state[..., None] + torch.arange(1, states, device=value.device)) % states
    slope = zero_with_gradient(prob).expand(*state.shape, states).gather(-1, other).movedim(-1, 0)
    other = other.movedim(-1, 0)
    changed = torch.eye(states, dtype=value.dtype, device=value.device)[other] if one_hot else other.to(value.dtype)
    return value, changed, slope


def _gamma(q: Any, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gamma(a, b): rate x- minus x+, concentration x+ e^-V minus x- e^-V, with x- < a / b < x+ from one exponential.

    The derivative with respect to the rate multiplies the density by ``a / b - z``. It is the slope of
    ``(b z)^a e^-bz / b / gamma(a)``, which rises up to a / b and then falls. A level that is uniform below this peak is
    crossed at x- and x+, and the constant is the height of the peak.

    For the concentration, with b = 1, the factor is ``log z - psi(a)``, which equals the integral of
    ``((1 + t)^-a - e^-tz) / t`` over t > 0 (Frullani for the logarithm, Cauchy for psi). Multiplying by
    ``(1 + t)^a e^-tz`` changes the rate of the density to 1 + t, so the factor compares the rates 1 and 1 + t. This
    difference is the derivative with respect to the rate, integrated from 1 to 1 + t. With ``t = e^u - 1`` and the rate
    ``e^V``, V is uniform on (0, u) and u has the weight ``a u e^-au / (1 - e^-u)``, times the peak. The code samples u
    from ``(1 + u) e^-au a^2 / (1 + a)``; the remaining ratio is 1 + 1/a times a number in [0.77, 1].
    """
    concentration, rate, value = q.concentration.detach(), q.rate.detach(), q.sample((num_samples,))
    tiny = torch.finfo(value.dtype).tiny
    fall, rise = _crossings((_exponential(value) / concentration).clamp_min(tiny))
    low, high = concentration / rate * fall.exp(), concentration / rate * rise.exp()
    second = torch.rand_like(value) * (1 + concentration) < 1
    u = (_exponential(value) + torch.where(second, _exponential(value), 0)) / concentration
    ratio = (1 + 1 / concentration) * u / (-torch.expm1(-u) * (1 + u))
    shrink, peak = (-u * torch.rand_like(u)).exp(), _peak(concentration)
    changed = torch.stack([high * shrink, low, low * shrink, high]).clamp_min(tiny)
    by_concentration = zero_with_gradient(q.concentration) * peak * ratio
    by_rate = (zero_with_gradient(q.rate) * peak * concentration / rate).expand_as(u)
    return value, changed, torch.stack([by_concentration, by_rate])


def _crossings(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the negative and the positive root s of ``e^s - 1 - s = t``, by Newton's method from beyond each."""
    width = (2 * t).sqrt()
    fall, rise = -t - width, torch.minimum(width, torch.log1p(t + width))
    for _ in range(6):  # monotone for a convex function, and exact to the last digits of float64 after five steps
        fall, rise = (s - (s.expm1() - s - t) / s.expm1() for s in (fall, rise))
    return fall, rise


def _peak(a: Tensor) -> Tensor:
    """Return ``a^a e^-a / gamma(a + 1)``, by Stirling's series if the logarithms would cancel."""
    direct = (torch.xlogy(a, a) - a - torch.lgamma(a + 1)).exp()
    large = a.clamp_min(10)
    series = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * large**2)) / large**2) / large**2) / large
    return torch.where(a < 10, direct, (-series).exp() / (2 * math.pi * large).sqrt())


DECOMPOSITIONS: dict[type[Distribution], Decomposition] = {
    Normal: _normal,
    Gamma: _gamma,
    Poisson: _poisson,
    Bernoulli: _discrete,
    Categorical: _discrete,
    OneHotCategorical: _discrete,
}
