"""The contract of a likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
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

    def log_prob(self, h: Tensor, batch: Batch) -> Tensor:
        """Return log p(x | latents) of the mini-batch, ``[*rows, batch]``, in float32 at least.

        Half-precision sums over thousands of variables would be rounded to whole nats.
        """
        return self(h, batch).log_prob(batch.x).to(torch.promote_types(h.dtype, torch.float32))

    def check(self, batch: Batch) -> None:
        """Raise an error if the likelihood cannot describe such data; here, never.

        Raises
        ------
        DataError
            Naming what does not fit, and which likelihoods do.
        """

    def encoder_input(self, batch: Batch) -> Tensor:
        """Return what the encoder sees of the observations, ``[batch, features]``; here, as they are."""
        return batch.x

    def start_at(self, mean: Tensor) -> None:
        """Set the heads' biases so that a decoder of zeros predicts ``mean`` ``[features]``; here, nothing."""
