"""Likelihoods of pixel values in 0..1."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent, Normal

from vaekit.batch import Batch
from vaekit.exceptions import DataError
from vaekit.likelihoods.base import Likelihood


class Bernoulli(Likelihood):
    """Binary pixels, or the cross-entropy of grey ones."""

    def build(self, in_features: int, features: int) -> None:
        """Make the head of the logits (see the base class)."""
        self.logits = nn.Linear(in_features, features)

    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return independent binary pixels (see the base class)."""
        return Independent(BernoulliDistribution(logits=self.logits(h), validate_args=False), 1)

    def check(self, batch: Batch) -> None:
        """Raise an error if values lie outside 0..1 (see the base class)."""
        low, high = batch.x.min().item(), batch.x.max().item()
        if low < 0 or high > 1:
            raise DataError(
                f"the likelihood Bernoulli describes values in 0..1, and these data have {low:g} to {high:g}; for "
                "counts use NegativeBinomial, for other values Gaussian"
            )

    @torch.no_grad()
    def start_at(self, mean: Tensor) -> None:
        """Start from the mean picture."""
        self.logits.bias.copy_(mean.clamp(0.01, 0.99).logit())


class Gaussian(Likelihood):
    """Continuous values with one learned scale a feature."""

    def build(self, in_features: int, features: int) -> None:
        """Make the head of the location, and the scales (see the base class)."""
        self.loc = nn.Linear(in_features, features)
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return independent normal values (see the base class)."""
        scale = self.log_scale.exp() + 1e-3  # a pixel that never varies would drive the scale to 0
        return Independent(Normal(self.loc(h), scale, validate_args=False), 1)

    @torch.no_grad()
    def start_at(self, mean: Tensor) -> None:
        """Start from the mean observation."""
        self.loc.bias.copy_(mean)
