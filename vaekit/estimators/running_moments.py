"""Running mean and standard deviation of costs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.exceptions import EstimatorError

ROUNDING = 1e-6  # relative to the mean: a smaller deviation is the rounding error of the difference of squares


class RunningMoments(nn.Module):
    """Bias-corrected exponential moving averages of the cost and of its square, stored as buffers."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise EstimatorError(f"RunningMoments: decay={decay} must be in [0, 1).")
        self.decay = decay
        self.first: Tensor
        self.second: Tensor
        self.seen: Tensor
        for name in ("first", "second", "seen"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def mean(self) -> Tensor:
        """Return the mean of the earlier costs; 0 before the first."""
        return self._correct_bias(self.first)

    def std(self) -> Tensor:
        """Return the standard deviation of the earlier costs; 1 before the first, and for equal costs."""
        square, mean = self._correct_bias(self.second), self.mean()
        deviation = (square - mean.square()).clamp_min(0).sqrt()
        return torch.where(deviation > ROUNDING * mean.abs(), deviation, 1.0)

    def _correct_bias(self, total: Tensor) -> Tensor:
        """Divide by the total weight, in float64: a converted module stores its buffers in lower precision."""
        return total.double() / self.seen.double().clamp_min(torch.finfo(torch.float64).tiny)

    @torch.no_grad()
    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Update with the weighted means of ``cost`` and its square; non-finite costs change nothing."""
        weight = weight.double().expand(cost.shape)
        cost = torch.where(weight > 0, cost.double(), 0)  # auxiliary samples may have any cost
        weight = weight / weight.sum()
        new = torch.stack([(weight * cost).sum(), (weight * cost.square()).sum(), weight.sum()])
        old = torch.stack([self.first, self.second, self.seen]).double()
        updated = torch.where(new.isfinite().all(), torch.lerp(new, old, self.decay), old)
        for buffer, value in zip((self.first, self.second, self.seen), updated, strict=True):
            buffer.copy_(value)
