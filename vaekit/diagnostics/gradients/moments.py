"""Streaming moments of gradient estimates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROUNDING_FACTOR = 100.0  # sums of many terms in another order differ by about this multiple of the type's resolution


class GradientMoments:
    """Mean and total variance of gradients, and their mean cosine with a reference in float64, by Welford's updates."""

    def __init__(self, reference: Tensor | None = None) -> None:
        self.count, self.mean = 0, torch.zeros((), dtype=torch.float64)
        self._scatter = self._cosines = self._squares = self._resolution = 0.0
        self._direction = None if reference is None else reference / reference.norm().clamp_min(1e-300)

    def update(self, gradients: Tensor) -> None:
        """Add gradients, shape (count, components)."""
        self._squares += gradients.square().sum(dtype=torch.float64).item()
        self._resolution = torch.finfo(gradients.dtype).eps
        mean = gradients.mean(0, dtype=torch.float64)
        scatter = (gradients - mean.to(gradients.dtype)).square().sum(dtype=torch.float64).item()
        if self._direction is not None:
            norms = gradients.norm(dim=1).clamp_min(torch.finfo(gradients.dtype).tiny)
            self._cosines += (gradients @ self._direction.to(gradients.dtype) / norms).sum().item()
        self.mean = self.mean.to(mean.device)
        change, total = mean - self.mean, self.count + len(gradients)
        self._scatter += scatter + change.square().sum().item() * self.count * len(gradients) / total
        self.mean = self.mean + change * (len(gradients) / total)
        self.count = total

    @property
    def rounding(self) -> float:
        """Squared error of one gradient that rounding may cause."""
        return (ROUNDING_FACTOR * self._resolution) ** 2 * self._squares / self.count

    @property
    def variance(self) -> float:
        """Unbiased variance of one gradient, summed over components; 0 if rounding explains it."""
        variance = self._scatter / max(1, self.count - 1)
        return variance if variance > self.rounding else 0.0

    @property
    def cosine(self) -> float:
        """Mean cosine with the reference; a zero gradient counts as 0."""
        return math.nan if self._direction is None else self._cosines / self.count
