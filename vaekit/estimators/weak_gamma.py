"""The derivative of the gamma density as a difference of two densities (see ``weak_derivatives``)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vaekit.estimators.noise import zero_with_gradient


def exponential(like: Tensor) -> Tensor:
    """Draw standard exponential noise, which must not be 0."""
    noise = torch.empty_like(like, memory_format=torch.contiguous_format).exponential_()
    return noise.clamp_min(torch.finfo(like.dtype).tiny)


def gamma(q: Any, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gamma(a, b): rate x- less x+, concentration x+ e^-V less x- e^-V, with x- < a / b < x+ from one exponential.

    The rate multiplies the density by ``a / b - z``: a rise and a fall of ``(b z)^a e^-bz / b / gamma(a)``, which is
    largest at a / b. A level that is uniform below that peak is crossed at x- and x+, and the constant is the peak.

    For the concentration, with b = 1, the factor is ``log z - psi(a)``, which is the integral of
    ``((1 + t)^-a - e^-tz) / t`` over t > 0 (Frullani for the logarithm, Cauchy for psi). As ``(1 + t)^a e^-tz``
    turns the density into that of rate 1 + t, it compares the rates 1 and 1 + t, and that difference is the rate's
    derivative, integrated from 1 to 1 + t. With ``t = e^u - 1`` and the rate ``e^V``, V is uniform on (0, u) and
    u has the weight ``a u e^-au / (1 - e^-u)``, times the peak. It is drawn with ``(1 + u) e^-au a^2 / (1 + a)``;
    what that leaves over lies in 1 + 1/a times [0.77, 1].
    """
    concentration, rate, real = q.concentration.detach(), q.rate.detach(), q.sample((count,))
    tiny = torch.finfo(real.dtype).tiny
    fall, rise = _crossings((exponential(real) / concentration).clamp_min(tiny))
    low, high = concentration / rate * fall.exp(), concentration / rate * rise.exp()
    second = torch.rand_like(real) * (1 + concentration) < 1
    u = (exponential(real) + torch.where(second, exponential(real), 0)) / concentration
    ratio = (1 + 1 / concentration) * u / (-torch.expm1(-u) * (1 + u))
    shrink, peak = (-u * torch.rand_like(u)).exp(), _peak(concentration)
    other = torch.stack([high * shrink, low, low * shrink, high]).clamp_min(tiny)
    slope = torch.stack(
        [
            zero_with_gradient(q.concentration) * peak * ratio,
            (zero_with_gradient(q.rate) * peak * concentration / rate).expand_as(u),
        ]
    )
    return real, other, slope


def _crossings(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the negative and the positive root s of ``e^s - 1 - s = t``, by Newton's method from beyond each."""
    width = (2 * t).sqrt()
    fall, rise = -t - width, torch.minimum(width, torch.log1p(t + width))
    for _ in range(6):  # of a convex function: monotone, and exact to the last digits of float64 after five
        fall, rise = (s - (s.expm1() - s - t) / s.expm1() for s in (fall, rise))
    return fall, rise


def _peak(a: Tensor) -> Tensor:
    """Return ``a^a e^-a / gamma(a + 1)``, by Stirling's series where the logarithms would cancel."""
    direct = (torch.xlogy(a, a) - a - torch.lgamma(a + 1)).exp()
    large = a.clamp_min(10)
    series = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * large**2)) / large**2) / large**2) / large
    return torch.where(a < 10, direct, (-series).exp() / (2 * math.pi * large).sqrt())
