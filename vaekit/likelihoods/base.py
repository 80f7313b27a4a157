"""The contract of a likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.batch import Batch
from vaekit.component import Component


class Likelihood(Component, nn.Module, ABC):
    """The distribution p(x | latents) of an observation, from the features of the decoder's last layer."""

    @abstractmethod
    def build(self, in_features: int, features: int) -> None:
        """Make the heads, from ``in_features`` decoder features to ``features`` observed variables."""

    @abstractmethod
    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return the distribution of ``batch.x``: batch shape ``[*rows, batch]``, event shape ``[features]``.

        Parameters
        ----------
        h
            Decoder features, ``[*rows, batch, in_features]``.
        batch
            The mini-batch; what is known of each cell besides the observation conditions the distribution.
        """

    def encoder_input(self, batch: Batch) -> Tensor:
        """Return what the encoder sees of the observations, ``[batch, features]``; here, as they are."""
        return batch.x

    def start_at(self, mean: Tensor) -> None:
        """Set the heads' biases so that a decoder of zeros predicts ``mean`` ``[features]``; here, nothing."""
