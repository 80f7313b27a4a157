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
from vaekit.estimators.weak_gamma import exponential, gamma

Decomposition = Callable[[Any, int], tuple[Tensor, Tensor, Tensor]]


def decomposition(base: Distribution) -> Decomposition | None:
    """Return the decomposition of a distribution without ``Independent``; None if it does not have one."""
    return next((function for family, function in DECOMPOSITIONS.items() if isinstance(base, family)), None)


def num_changes(base: Distribution) -> int:
    """Return the number of perturbed values per sample."""
    if isinstance(base, Categorical | OneHotCategorical):
        return base.probs.shape[-1] - 1
    return 4 if isinstance(base, Gamma) else 3 if isinstance(base, Normal) else 1


def _normal(q: Any, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normal(m, s): location (m + s W) - (m - s W), over s sqrt(2 pi), W Rayleigh; scale (m + s M) - z, over s.

    With ``z = m + s e`` the Maxwell variable is ``M = sign(e) sqrt(e^2 + 2 E)``: M times a uniform variable is normal.
    """
    loc, scale = q.loc.detach(), q.scale.detach()
    noise = torch.randn(num_samples, *loc.shape, dtype=loc.dtype, device=loc.device)
    square = 2 * exponential(noise)
    rayleigh, maxwell = scale * square.sqrt(), scale * torch.copysign((noise.square() + square).sqrt(), noise)
    slope = torch.stack([zero_with_gradient(q.loc) / math.sqrt(2 * math.pi), zero_with_gradient(q.scale)]) / scale
    return loc + scale * noise, torch.stack([loc + rayleigh, loc + maxwell, loc - rayleigh]), slope[:, None]


def _poisson(q: Any, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Poisson: the derivative by the rate is (z + 1) - z."""
    value = q.sample((num_samples,))
    return value, value[None] + 1, zero_with_gradient(q.rate)[None, None]


def _discrete(q: Any, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """States: the derivative by the probability of each other state is that state - z, because all sum to 0."""
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


DECOMPOSITIONS: dict[type[Distribution], Decomposition] = {
    Normal: _normal,
    Gamma: gamma,
    Poisson: _poisson,
    Bernoulli: _discrete,
    Categorical: _discrete,
    OneHotCategorical: _discrete,
}
