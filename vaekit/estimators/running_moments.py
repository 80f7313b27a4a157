"""The running mean and deviation of costs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.exceptions import EstimatorError

ROUNDING = 1e-6  # below this share of the mean a deviation is what rounding leaves of the difference of squares


class RunningMoments(nn.Module):
    """Bias-corrected exponential moving averages of the cost and of its square, held as buffers."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise EstimatorError(f"decay is {decay}, it must lie in [0, 1)")
        self.decay = decay
        self.first: Tensor
        self.second: Tensor
        self.seen: Tensor
        for name in ("first", "second", "seen"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def mean(self) -> Tensor:
        """Return the mean of the costs before this one; 0 before the first."""
        return self._share(self.first)

    def std(self) -> Tensor:
        """Return the standard deviation of the costs before this one; 1 before the first, and of equal costs."""
        square, mean = self._share(self.second), self.mean()
        deviation = (square - mean.square()).clamp_min(0).sqrt()
        return torch.where(deviation > ROUNDING * mean.abs(), deviation, 1.0)

    def _share(self, total: Tensor) -> Tensor:
        """Return a total over what was seen, in float64: a module that was converted holds its buffers in less."""
        return total.double() / self.seen.double().clamp_min(torch.finfo(torch.float64).tiny)

    @torch.no_grad()
    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Take in the weighted means of ``cost`` and its square; costs that are not finite change nothing."""
        weight = weight.double().expand(cost.shape)
        cost = torch.where(weight > 0, cost.double(), 0)  # counterfactual rows may hold anything
        share = weight / weight.sum()
        new = torch.stack([(share * cost).sum(), (share * cost.square()).sum(), share.sum()])
        old = torch.stack([self.first, self.second, self.seen]).double()
        kept = torch.where(new.isfinite().all(), torch.lerp(new, old, self.decay), old)
        for buffer, value in zip((self.first, self.second, self.seen), kept, strict=True):
            buffer.copy_(value)
