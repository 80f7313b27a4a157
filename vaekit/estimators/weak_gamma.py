"""Derivative of the gamma density as a difference of two densities (see ``weak_derivatives``)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vaekit.estimators.noise import zero_with_gradient


def exponential(like: Tensor) -> Tensor:
    """Sample standard exponential noise, which must not be 0."""
    noise = torch.empty_like(like, memory_format=torch.contiguous_format).exponential_()
    return noise.clamp_min(torch.finfo(like.dtype).tiny)


def gamma(q: Any, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gamma(a, b): rate x- minus x+, concentration x+ e^-V minus x- e^-V, with x- < a / b < x+ from one exponential.

    The derivative by the rate multiplies the density by ``a / b - z``. It is the slope of
    ``(b z)^a e^-bz / b / gamma(a)``, which rises up to a / b and then falls. A level that is uniform below this peak is
    crossed at x- and x+, and the constant is the height of the peak.

    For the concentration, with b = 1, the factor is ``log z - psi(a)``, which equals the integral of
    ``((1 + t)^-a - e^-tz) / t`` over t > 0 (Frullani for the logarithm, Cauchy for psi). Multiplying by
    ``(1 + t)^a e^-tz`` changes the rate of the density to 1 + t, so the factor compares the rates 1 and 1 + t. This
    difference is the derivative by the rate, integrated from 1 to 1 + t. With ``t = e^u - 1`` and the rate ``e^V``, V
    is uniform on (0, u) and u has the weight ``a u e^-au / (1 - e^-u)``, times the peak. The code samples u from
    ``(1 + u) e^-au a^2 / (1 + a)``; the remaining ratio is 1 + 1/a times a number in [0.77, 1].
    """
    concentration, rate, value = q.concentration.detach(), q.rate.detach(), q.sample((num_samples,))
    tiny = torch.finfo(value.dtype).tiny
    fall, rise = _crossings((exponential(value) / concentration).clamp_min(tiny))
    low, high = concentration / rate * fall.exp(), concentration / rate * rise.exp()
    second = torch.rand_like(value) * (1 + concentration) < 1
    u = (exponential(value) + torch.where(second, exponential(value), 0)) / concentration
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
