"""Likelihoods of pixel values in 0..1."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent, Normal

from vaekit.batch import Batch, DataStatistics
from vaekit.exceptions import DataError
from vaekit.likelihoods.heads import head
from vaekit.likelihoods.likelihood import Likelihood
from vaekit.networks.precision import at_least_float32


class PixelLikelihood(Likelihood):
    """What the likelihoods of pixels share.

    Parameters
    ----------
    pixelwise
        Whether the decoder gives features of each pixel value (``ConvDecoder``), which one small head for all
        places reads; else the head is dense.
    """

    def __init__(self, pixelwise: bool = False) -> None:
        super().__init__()
        self.pixelwise = pixelwise


def check_unit_interval(batch: Batch, name: str, others: str) -> None:
    """Raise a DataError if values lie outside 0..1."""
    low, high = batch.x.min().item(), batch.x.max().item()
    if not 0 <= low <= high <= 1:
        raise DataError(f"the likelihood {name} describes values in 0..1, and these data have {low:g} to {high:g}; "
                        f"for {others}")  # fmt: skip


class Bernoulli(PixelLikelihood):
    """Binary pixels, or the cross-entropy of grey ones.

    Parameters
    ----------
    pixelwise
        Whether the decoder gives features of each pixel value (``ConvDecoder``).
    """

    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        """Make the head of the logits (see the base class)."""
        self.logits = head(in_features, features, self.pixelwise)

    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return independent binary pixels (see the base class)."""
        return Independent(BernoulliDistribution(logits=at_least_float32(self.logits(h)), validate_args=False), 1)

    def check(self, batch: Batch) -> None:
        """Raise an error if values lie outside 0..1 (see the base class)."""
        check_unit_interval(batch, "Bernoulli", "counts use NegativeBinomial, for other values Gaussian")

    @torch.no_grad()
    def init_from_data(self, moments: DataStatistics) -> None:
        """Start from the mean picture."""
        self.logits.bias.copy_(moments.mean.clamp(0.01, 0.99).logit())


class Gaussian(PixelLikelihood):
    """Continuous values with one learned scale a feature.

    Parameters
    ----------
    pixelwise
        Whether the decoder gives features of each pixel value (``ConvDecoder``).
    """

    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        """Make the head of the location, and the scales (see the base class)."""
        self.loc = head(in_features, features, self.pixelwise)
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return independent normal values (see the base class)."""
        scale = self.log_scale.exp() + 1e-3  # a pixel that never varies would drive the scale to 0
        return Independent(Normal(at_least_float32(self.loc(h)), scale, validate_args=False), 1)

    @torch.no_grad()
    def init_from_data(self, moments: DataStatistics) -> None:
        """Start from the mean observation."""
        self.loc.bias.copy_(moments.mean)
