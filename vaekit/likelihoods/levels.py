"""The categorical likelihood of discretized pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Distribution, Independent, constraints

from vaekit.batch import Batch, DataStatistics
from vaekit.exceptions import ConfigError
from vaekit.likelihoods.heads import head
from vaekit.likelihoods.pixels import PixelLikelihood, check_unit_interval
from vaekit.networks.precision import at_least_float32


class DiscretizedLevels(Distribution):
    """A categorical distribution over the grey levels ``0, 1 / (levels - 1), ..., 1``.

    Parameters
    ----------
    logits
        ``[*batch, levels]``.
    """

    arg_constraints = {}  # noqa: RUF012  (torch's own form)
    support = constraints.unit_interval

    def __init__(self, logits: Tensor) -> None:
        self.index = CategoricalDistribution(logits=logits, validate_args=False)
        self.levels = logits.shape[-1]
        super().__init__(self.index.batch_shape, validate_args=False)

    def expand(
        self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: object = None
    ) -> DiscretizedLevels:
        """Return the distribution with a larger batch shape."""
        return DiscretizedLevels(self.index.logits.expand(*batch_shape, self.levels))

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draw grey levels in 0..1."""
        return self.index.sample(torch.Size(sample_shape)).to(self.index.logits.dtype) / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of the level nearest to the value, in nats."""
        return self.index.log_prob((value * (self.levels - 1)).round())

    @property
    def mean(self) -> Tensor:
        """The mean grey level."""
        grid = torch.linspace(0, 1, self.levels, dtype=self.index.logits.dtype, device=self.index.logits.device)
        return self.index.probs @ grid


class Categorical(PixelLikelihood):
    """Pixels as one of some grey levels, each with a probability of its own: no order is assumed.

    A value belongs to the nearest level; log-probabilities are those of levels, not densities, and compare only
    between models with as many levels.

    van den Oord, Kalchbrenner and Kavukcuoglu (2016), Pixel Recurrent Neural Networks.

    Parameters
    ----------
    levels
        Grey levels: 256 for bytes as they are. A dense head has ``levels`` outputs a pixel: with many levels take
        ``ConvDecoder`` and ``pixelwise=True``.
    pixelwise
        Whether the decoder gives features of each pixel value (``ConvDecoder``).

    Raises
    ------
    ConfigError
        If there are fewer than two levels.
    """

    def __init__(self, levels: int = 256, pixelwise: bool = False) -> None:
        super().__init__(pixelwise)
        if levels < 2:
            raise ConfigError(f"Categorical: levels is {levels}; at least 2 are needed")
        self.levels = levels

    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        """Make the head of the levels' logits (see the base class)."""
        self.logits = head(in_features, features, self.pixelwise, self.levels)

    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return independent levels (see the base class)."""
        return Independent(DiscretizedLevels(at_least_float32(self.logits(h)).unflatten(-1, (-1, self.levels))), 1)

    def check(self, batch: Batch) -> None:
        """Raise an error if values lie outside 0..1 (see the base class)."""
        check_unit_interval(batch, "Categorical", "counts use NegativeBinomial, for other values Gaussian")

    @torch.no_grad()
    def init_from_data(self, moments: DataStatistics) -> None:
        """Start from the mean picture: logits linear in the level, whose slope is found by bisection."""
        wanted = moments.mean.double().clamp(0.01, 0.99)
        grid = torch.linspace(0, 1, self.levels, dtype=wanted.dtype, device=wanted.device)
        low, high = torch.full_like(wanted, -1e3), torch.full_like(wanted, 1e3)
        for _ in range(60):
            middle = (low + high) / 2
            above = (middle[:, None] * grid).softmax(-1) @ grid > wanted
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        self.logits.bias.copy_((low[:, None] * (grid - 0.5)).flatten())
