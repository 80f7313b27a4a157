"""Derivatives of densities as differences of two densities, for ``MeasureValued``.

A decomposition takes a distribution and the number of draws, ``S``, and returns

- draws, ``[S, *shape, *event]``;
- perturbed values, ``[changes, S, *shape, *event]``: a positive part for each parameter, then the negative parts of
  the first parameters; for the other parameters the draws themselves are the negative part;
- slopes, ``[parameters, S or 1, *shape]``: value 0, gradient that of the parameter times its constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Gamma, Normal, OneHotCategorical, Poisson

from vaekit.estimators.noise import zero_with_gradient
from vaekit.estimators.weak_gamma import exponential, gamma

Decomposition = Callable[[Any, int], tuple[Tensor, Tensor, Tensor]]


def decomposition(base: Distribution) -> Decomposition | None:
    """Return the decomposition of a distribution without ``Independent``; None if none is known."""
    return next((function for family, function in _DECOMPOSITIONS.items() if isinstance(base, family)), None)


def changes(base: Distribution) -> int:
    """Return how many perturbed values its decomposition makes of each draw."""
    if isinstance(base, Categorical | OneHotCategorical):
        return base.probs.shape[-1] - 1
    return 4 if isinstance(base, Gamma) else 3 if isinstance(base, Normal) else 1


def _normal(q: Any, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normal(m, s): location (m + s W) - (m - s W), over s sqrt(2 pi), W Rayleigh; scale (m + s M) - z, over s.

    Given ``z = m + s e`` the Maxwell variable is ``M = sign(e) sqrt(e^2 + 2 E)``: a uniform share of it is normal.
    """
    location, scale = q.loc.detach(), q.scale.detach()
    noise = torch.randn(count, *location.shape, dtype=location.dtype, device=location.device)
    square = 2 * exponential(noise)
    rayleigh, maxwell = scale * square.sqrt(), scale * torch.copysign((noise.square() + square).sqrt(), noise)
    slope = torch.stack([zero_with_gradient(q.loc) / math.sqrt(2 * math.pi), zero_with_gradient(q.scale)]) / scale
    other = torch.stack([location + rayleigh, location + maxwell, location - rayleigh])
    return location + scale * noise, other, slope[:, None]


def _poisson(q: Any, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Poisson: the rate's derivative is (z + 1) - z."""
    real = q.sample((count,))
    return real, real[None] + 1, zero_with_gradient(q.rate)[None, None]


def _discrete(q: Any, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """States: the derivative of the probability of each other state is that state - z, as all of them sum to 0."""
    binary = isinstance(q, Bernoulli)
    prob = torch.stack([1 - q.probs, q.probs], -1) if binary else q.probs
    real = q.sample((count,))
    state = real.argmax(-1) if isinstance(q, OneHotCategorical) else real.long()
    states = prob.shape[-1]
    other = (state[..., None] + torch.arange(1, states, device=real.device)) % states
    slope = zero_with_gradient(prob).expand(*state.shape, states).gather(-1, other).movedim(-1, 0)
    other = other.movedim(-1, 0)
    if isinstance(q, OneHotCategorical):
        return real, torch.eye(states, dtype=real.dtype, device=real.device)[other], slope
    return real, other.to(real.dtype), slope


_DECOMPOSITIONS = {
    Normal: _normal,
    Gamma: gamma,
    Poisson: _poisson,
    Bernoulli: _discrete,
    Categorical: _discrete,
    OneHotCategorical: _discrete,
}
