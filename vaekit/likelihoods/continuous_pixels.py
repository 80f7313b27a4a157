"""The continuous Bernoulli likelihood of grey pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaekit.batch import Batch, DataStatistics
from vaekit.distributions import ContinuousBernoulli as ContinuousBernoulliDistribution
from vaekit.likelihoods.heads import head
from vaekit.likelihoods.pixels import PixelLikelihood, check_unit_interval
from vaekit.networks.precision import at_least_float32

MAX_LOGIT = 1e4


class ContinuousBernoulli(PixelLikelihood):
    """Grey pixels in 0..1 with an exponential density on that interval.

    Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in variational autoencoders.

    Parameters
    ----------
    pixelwise
        Whether the decoder gives features of each pixel value (``ConvDecoder``).
    """

    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        """Make the head of the logits (see the base class)."""
        self.logits = head(in_features, features, self.pixelwise)

    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return independent grey pixels (see the base class)."""
        logits = at_least_float32(self.logits(h)).clamp(-MAX_LOGIT, MAX_LOGIT)
        return Independent(ContinuousBernoulliDistribution(logits=logits, validate_args=False), 1)

    def check(self, batch: Batch) -> None:
        """Raise an error if values lie outside 0..1 (see the base class)."""
        check_unit_interval(batch, "ContinuousBernoulli", "counts use NegativeBinomial, for other values Gaussian")

    @torch.no_grad()
    def init_from_data(self, moments: DataStatistics) -> None:
        """Start from the mean picture, by Newton's method on the logits."""
        wanted = moments.mean.double().clamp(0.01, 0.99)
        logits = torch.zeros_like(wanted)
        for _ in range(60):
            found = ContinuousBernoulliDistribution(logits=logits, validate_args=False)
            # the slope is the variance; the step is bounded, as it is flat far out
            logits = logits + ((wanted - found.mean) / found.variance).clamp(-2, 2)
        self.logits.bias.copy_(logits)
