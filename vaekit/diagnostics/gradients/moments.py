"""Moments of gradient estimates as they come: none of them is kept."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 100.0  # in units of the type's resolution: what sums of many terms in another order differ by


class GradientMoments:
    """Mean and total variance of gradients, and the mean of their cosine with a reference (Welford's updates).

    Parameters
    ----------
    reference
        ``[components]`` in float64, or None.

    Attributes
    ----------
    count
        Gradients seen.
    mean
        ``[components]``, float64.
    """

    def __init__(self, reference: Tensor | None = None) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self._scatter = 0.0
        self._cosines = 0.0
        self._squares = 0.0
        self._resolution = 0.0
        self._direction = None if reference is None else reference / reference.norm().clamp_min(1e-300)

    def add(self, gradients: Tensor) -> None:
        """Take in gradients ``[count, components]``."""
        new = len(gradients)
        self._squares += gradients.square().sum(dtype=torch.float64).item()
        self._resolution = torch.finfo(gradients.dtype).eps
        mean = gradients.mean(0, dtype=torch.float64)
        scatter = (gradients - mean.to(gradients.dtype)).square().sum(dtype=torch.float64).item()
        if self._direction is not None:
            norms = gradients.norm(dim=1).clamp_min(torch.finfo(gradients.dtype).tiny)
            self._cosines += (gradients @ self._direction.to(gradients.dtype) / norms).sum().item()
        if self.mean is None:
            self.count, self.mean, self._scatter = new, mean, scatter
            return
        change, total = mean - self.mean, self.count + new
        self._scatter += scatter + change.square().sum().item() * self.count * new / total
        self.mean = self.mean + change * (new / total)
        self.count = total

    @property
    def rounding(self) -> float:
        """The squared error that rounding may leave in one gradient."""
        return (ROUNDING * self._resolution) ** 2 * self._squares / self.count

    @property
    def variance(self) -> float:
        """The unbiased variance of one gradient, summed over its components; 0 where it is rounding alone."""
        variance = self._scatter / max(1, self.count - 1)
        return variance if variance > self.rounding else 0.0

    @property
    def cosine(self) -> float:
        """The mean cosine with the reference; a gradient of zero counts as 0."""
        return math.nan if self._direction is None else self._cosines / self.count


class Reference(NamedTuple):
    """The gradient that estimates are compared with.

    Attributes
    ----------
    mean
        ``[components]``, float64.
    first, blocks
        Of a gradient known by Monte Carlo: the mean of the first half of its draws, and means ``[blocks,
        components]`` of parts of the second. Two independent halves, for a direction is chosen with one and tested
        with the other.
    noise
        Squared error to be expected of the mean.
    """

    mean: Tensor
    first: Tensor
    blocks: Tensor | None
    noise: float


class BiasTest(NamedTuple):
    """A test of unbiasedness: the statistic and its one-sided p-value."""

    z: float
    p_value: float


class Projection:
    """Projections of gradients on the bias that the first half of the draws shows.

    For an unbiased estimator that direction is noise, independent of the second half: the mean projection of the
    second half, over its standard error, is Student's t whatever the number of components. A bias makes it large.

    Parameters
    ----------
    mean
        ``[components]``, mean of the first half.
    reference
        What it is compared with.
    """

    def __init__(self, mean: Tensor, reference: Reference) -> None:
        difference = mean - reference.first
        norm = difference.norm()
        fallback = torch.full_like(difference, 1 / math.sqrt(len(difference)))
        self.direction = difference / norm if norm > 0 else fallback
        self._reference = reference
        self._values: list[Tensor] = []
        self._squared_norms = 0.0
        self._resolution = torch.finfo(torch.float64).eps

    def add(self, gradients: Tensor) -> None:
        """Take in gradients ``[count, components]`` of the second half."""
        self._values.append(gradients @ self.direction.to(gradients.dtype))
        self._squared_norms += gradients.square().sum(dtype=torch.float64).item()
        self._resolution = torch.finfo(gradients.dtype).eps

    def test(self) -> BiasTest:
        """Return the statistic, with Welch's degrees of freedom where the reference has an error of its own."""
        from scipy import stats

        values = torch.cat(self._values).double()
        count = len(values)
        own = values.var().item() / count if count > 1 else math.inf
        expected, other, blocks = (self._reference.mean @ self.direction).item(), 0.0, 2
        if self._reference.blocks is not None:
            projected = self._reference.blocks.double() @ self.direction
            blocks = len(projected)
            expected, other = projected.mean().item(), projected.var().item() / blocks
        freedom = own**2 / (count - 1) + other**2 / (blocks - 1)
        degrees = (own + other) ** 2 / freedom if freedom > 0 else 1e6
        rounding = (ROUNDING * self._resolution) ** 2 * self._squared_norms / count
        z = (values.mean().item() - expected) / math.sqrt(own + other + rounding + 1e-300)
        return BiasTest(z, float(stats.t.sf(z, degrees)))
