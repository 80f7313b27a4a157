"""Categorical likelihood of discretized pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Distribution, Independent, constraints
from typing_extensions import override

from vaekit.batch import Batch, DataStatistics
from vaekit.exceptions import ConfigError
from vaekit.likelihoods.pixels import PixelLikelihood
from vaekit.networks.precision import at_least_float32


class DiscretizedLevels(Distribution):
    """Categorical distribution over the gray levels ``0, 1 / (levels - 1), ..., 1``.

    Parameters
    ----------
    logits : Tensor, shape (*batch, levels)
        Unnormalized log-probabilities of the levels.
    """

    arg_constraints = {}  # noqa: RUF012  (as torch declares it)
    support = constraints.unit_interval

    def __init__(self, logits: Tensor) -> None:
        self.index = CategoricalDistribution(logits=logits, validate_args=False)
        self.levels = logits.shape[-1]
        super().__init__(self.index.batch_shape, validate_args=False)

    @override
    def expand(
        self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: object = None
    ) -> DiscretizedLevels:
        return DiscretizedLevels(self.index.logits.expand(*batch_shape, self.levels))

    @override
    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        return self.index.sample(torch.Size(sample_shape)).to(self.index.logits.dtype) / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of the level nearest to the value, in nats."""
        return self.index.log_prob((value * (self.levels - 1)).round())

    @property
    def mean(self) -> Tensor:
        """The mean gray level."""
        grid = torch.linspace(0, 1, self.levels, dtype=self.index.logits.dtype, device=self.index.logits.device)
        return self.index.probs @ grid


class Categorical(PixelLikelihood):
    """Pixels with one of several gray levels, whose probabilities are independent parameters without an order.

    A value counts as the nearest level. Log-probabilities refer to levels, not densities, and are only comparable
    between models with the same number of levels.

    van den Oord, Kalchbrenner and Kavukcuoglu (2016), Pixel Recurrent Neural Networks.

    Parameters
    ----------
    levels : int
        Number of gray levels: 256 for unchanged bytes. A dense head has ``levels`` outputs per pixel, so that many
        levels need ``ConvDecoder`` and ``pixelwise=True``.
    pixelwise : bool
        Whether the decoder returns features of each pixel value (``ConvDecoder``).

    Raises
    ------
    ConfigError
        If there are fewer than two levels.

    Examples
    --------
    >>> import torch, vaekit
    >>> likelihood = vaekit.likelihoods.Categorical(levels=16)
    >>> likelihood.build(in_features=8, features=3)
    >>> batch = vaekit.Batch(torch.ones(5, 3))
    >>> likelihood.log_prob(torch.zeros(5, 8), batch).shape  # one log-probability per observation
    torch.Size([5])
    """

    def __init__(self, levels: int = 256, pixelwise: bool = False) -> None:
        super().__init__(pixelwise)
        if levels < 2:
            raise ConfigError(f"Categorical: levels={levels} must be at least 2.")
        self.levels = levels

    @override
    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        self.logits = self.make_head(in_features, features, self.levels)

    @override
    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        return Independent(DiscretizedLevels(at_least_float32(self.logits(h)).unflatten(-1, (-1, self.levels))), 1)

    @torch.no_grad()
    def init_from_data(self, statistics: DataStatistics) -> None:
        """Set the biases to the mean image: logits linear in the level, with a slope found by bisection."""
        target = statistics.mean.double().clamp(0.01, 0.99)
        grid = torch.linspace(0, 1, self.levels, dtype=target.dtype, device=target.device)
        low, high = torch.full_like(target, -1e3), torch.full_like(target, 1e3)
        for _ in range(60):
            middle = (low + high) / 2
            too_high = (middle[:, None] * grid).softmax(-1) @ grid > target
            low, high = torch.where(too_high, low, middle), torch.where(too_high, middle, high)
        self.logits.bias.copy_((low[:, None] * (grid - 0.5)).flatten())
