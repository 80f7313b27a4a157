"""The contract of a likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit._core.components import Component
from vaekit.batch import Batch, DataStatistics


class Likelihood(Component, nn.Module, ABC):
    """The distribution p(x | latents) of an observation, from the features of the decoder's last layer.

    Its parameters are float32 at least, also where training is in mixed precision
    (:func:`vaekit.networks.precision.at_least_float32`).

    Attributes
    ----------
    scaled
        Whether the size factor of an observation scales its mean, so that it can be a latent variable.
    """

    uses_size_factor: ClassVar[bool] = False

    @abstractmethod
    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        """Make the heads.

        Parameters
        ----------
        in_features
            Width of the decoder's features.
        features
            Observed variables.
        covariates
            Width of the known covariates.

        Raises
        ------
        ConfigError
            If the likelihood needs covariates, and there are none.
        """

    @abstractmethod
    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return the distribution of ``batch.x``: batch shape ``[*rows, batch]``, event shape ``[features]``.

        An ``Independent`` one: given the latents, the features are.

        Parameters
        ----------
        h
            Decoder features, ``[*rows, batch, in_features]``.
        batch
            The mini-batch; what is known of each cell besides the observation conditions the distribution.
        """

    def log_prob(self, h: Tensor, batch: Batch) -> Tensor:
        """Return log p(x | latents) of the mini-batch, ``[*rows, batch]``, in float32 at least.

        Half-precision sums over thousands of variables would be rounded to whole nats: no part of it is in half
        precision but the matrix products of the heads. Features that were not
        observed are left out.
        """
        p = self(h, batch)
        if batch.observed is None:
            log_prob = p.log_prob(batch.x)
        else:
            log_prob = torch.where(batch.observed, p.base_dist.log_prob(batch.x), 0).sum(-1)
        return log_prob.to(torch.promote_types(h.dtype, torch.float32))

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

    def init_from_data(self, moments: DataStatistics) -> None:
        """Set the heads' biases so that a decoder of zeros predicts the data's mean; here, nothing."""
