"""Likelihoods of pixel values in 0..1."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent, Normal
from typing_extensions import override

from vaekit.batch import Batch, DataStatistics
from vaekit.distributions import ContinuousBernoulli as ContinuousBernoulliDistribution
from vaekit.exceptions import ConfigError, DataError
from vaekit.likelihoods.likelihood import Likelihood
from vaekit.networks.precision import at_least_float32

MAX_LOGIT = 1e4  # of the continuous Bernoulli distribution


class PixelwiseLinear(nn.Module):
    """A 1x1 convolution: one small linear map for all pixels, with a separate bias for each.

    Parameters
    ----------
    in_features : int
        Number of decoder features, a multiple of ``features``.
    features : int
        Number of observed values.
    parameters : int
        Number of outputs per value.

    Raises
    ------
    ConfigError
        If ``in_features`` is not a multiple of ``features``.
    """

    def __init__(self, in_features: int, features: int, parameters: int) -> None:
        super().__init__()
        if in_features % features:
            raise ConfigError(
                f"pixelwise=True needs a decoder with the same number of features for each of the {features} values "
                f"(ConvDecoder), but this one has {in_features} in total. Use pixelwise=False for other decoders."
            )
        self.features = features
        self.mix = nn.Linear(in_features // features, parameters, bias=False)
        self.bias = nn.Parameter(torch.zeros(features * parameters))

    def forward(self, h: Tensor) -> Tensor:
        """Return ``[*sample, features * parameters]`` for ``[*sample, in_features]``."""
        return self.mix(h.unflatten(-1, (self.features, -1))).flatten(-2) + self.bias


class PixelLikelihood(Likelihood):
    """Base class of the likelihoods of pixels, with one head ``logits``.

    Parameters
    ----------
    pixelwise : bool
        Whether the decoder returns features of each pixel value (``ConvDecoder``), which one small head shared by all
        pixels reads. If False, the head is dense.
    """

    def __init__(self, pixelwise: bool = False) -> None:
        super().__init__()
        self.pixelwise = pixelwise

    def make_head(self, in_features: int, features: int, parameters: int = 1) -> nn.Linear | PixelwiseLinear:
        """Return a dense or pixelwise head with ``bias`` of shape ``[features * parameters]``."""
        if self.pixelwise:
            return PixelwiseLinear(in_features, features, parameters)
        return nn.Linear(in_features, features * parameters)

    @override
    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        self.logits = self.make_head(in_features, features)

    @override
    def check(self, batch: Batch) -> None:
        low, high = batch.x.min().item(), batch.x.max().item()
        if not 0 <= low <= high <= 1:
            raise DataError(
                f"likelihood {type(self).__name__} needs values in 0..1, but these data have {low:g} to {high:g}. Use "
                "NegativeBinomial for counts, and Gaussian for other values."
            )


class Bernoulli(PixelLikelihood):
    """Binary pixels, or the cross-entropy of gray ones.

    Parameters
    ----------
    pixelwise : bool
        Whether the decoder returns features of each pixel value (``ConvDecoder``).

    Examples
    --------
    >>> import torch, vaekit
    >>> likelihood = vaekit.likelihoods.Bernoulli()
    >>> likelihood.build(in_features=8, features=3)
    >>> batch = vaekit.Batch(torch.ones(5, 3))
    >>> likelihood.log_prob(torch.zeros(5, 8), batch).shape  # one log-probability per observation
    torch.Size([5])
    """

    @override
    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        return Independent(BernoulliDistribution(logits=at_least_float32(self.logits(h)), validate_args=False), 1)

    @override
    @torch.no_grad()
    def init_from_data(self, statistics: DataStatistics) -> None:
        self.logits.bias.copy_(statistics.mean.clamp(0.01, 0.99).logit())


class ContinuousBernoulli(PixelLikelihood):
    """Gray pixels in 0..1 with an exponential density on this interval.

    Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in variational autoencoders.

    Parameters
    ----------
    pixelwise : bool
        Whether the decoder returns features of each pixel value (``ConvDecoder``).

    Examples
    --------
    >>> import torch, vaekit
    >>> likelihood = vaekit.likelihoods.ContinuousBernoulli()
    >>> likelihood.build(in_features=8, features=3)
    >>> batch = vaekit.Batch(torch.full((5, 3), 0.5))
    >>> likelihood.log_prob(torch.zeros(5, 8), batch).shape  # one log-density per observation
    torch.Size([5])
    """

    @override
    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        logits = at_least_float32(self.logits(h)).clamp(-MAX_LOGIT, MAX_LOGIT)
        return Independent(ContinuousBernoulliDistribution(logits=logits, validate_args=False), 1)

    @torch.no_grad()
    def init_from_data(self, statistics: DataStatistics) -> None:
        """Set the biases to the mean image, by Newton's method on the logits."""
        target = statistics.mean.double().clamp(0.01, 0.99)
        logits = torch.zeros_like(target)
        for _ in range(60):
            p = ContinuousBernoulliDistribution(logits=logits, validate_args=False)
            # the slope of the mean is the variance, which is so small at large logits that the step must be bounded
            logits = logits + ((target - p.mean) / p.variance).clamp(-2, 2)
        self.logits.bias.copy_(logits)


class Gaussian(PixelLikelihood):
    """Continuous values with one learned scale per feature.

    Parameters
    ----------
    pixelwise : bool
        Whether the decoder returns features of each pixel value (``ConvDecoder``).

    Examples
    --------
    >>> import torch, vaekit
    >>> likelihood = vaekit.likelihoods.Gaussian()
    >>> likelihood.build(in_features=8, features=3)
    >>> batch = vaekit.Batch(torch.ones(5, 3))
    >>> likelihood.log_prob(torch.zeros(5, 8), batch).shape  # one log-density per observation
    torch.Size([5])
    """

    short_names = ("normal",)

    @override
    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        self.loc = self.make_head(in_features, features)
        self.log_scale = nn.Parameter(torch.zeros(features))

    @override
    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        scale = self.log_scale.exp() + 1e-3  # the scale of a constant pixel would go to 0
        return Independent(Normal(at_least_float32(self.loc(h)), scale, validate_args=False), 1)

    def check(self, batch: Batch) -> None:
        """Accept all data."""

    @override
    @torch.no_grad()
    def init_from_data(self, statistics: DataStatistics) -> None:
        self.loc.bias.copy_(statistics.mean)
