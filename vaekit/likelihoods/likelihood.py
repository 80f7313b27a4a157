"""Base class of the likelihoods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit._core.components import Component
from vaekit.batch import Batch, DataStatistics


class Likelihood(Component, nn.Module, ABC):
    """Base class of the distributions p(x given latents), computed from the decoder's features.

    The parameters of the distribution are at least float32, also with mixed precision.

    Attributes
    ----------
    uses_size_factor : bool
        Whether ``Batch.size_factor`` scales the mean, so that the size factor may be a latent variable.
    has_composition : bool
        Whether the mean is the size factor times a composition over the features, with a method ``logits``.

    Examples
    --------
    >>> import vaekit
    >>> vaekit.likelihoods.NegativeBinomial().has_composition, vaekit.likelihoods.Gaussian().has_composition
    (True, False)
    """

    uses_size_factor: ClassVar[bool] = False
    has_composition: ClassVar[bool] = False

    @abstractmethod
    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        """Create the heads.

        Parameters
        ----------
        in_features : int
            Width of the decoder's features.
        features : int
            Number of observed variables.
        covariates : int
            Width of the covariates.

        Raises
        ------
        ConfigError
            If the likelihood needs covariates, and their width is 0.
        """

    @abstractmethod
    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return the distribution of ``batch.x``, an ``Independent`` with event shape ``[features]``.

        Parameters
        ----------
        h : Tensor, shape (*sample, batch, in_features)
            Decoder features.
        batch : Batch
            The mini-batch, whose size factors and covariates the distribution may depend on.
        """

    def log_prob(self, h: Tensor, batch: Batch) -> Tensor:
        """Return log p(x given latents) in at least float32, ``[*sample, batch]``, without unobserved features.

        Only the matrix products of the heads may use half precision: it would round sums over thousands of features to
        whole nats.
        """
        p = self(h, batch)
        if batch.observed is None:
            log_prob = p.log_prob(batch.x)
        else:
            log_prob = torch.where(batch.observed, p.base_dist.log_prob(batch.x), 0).sum(-1)
        return log_prob.to(torch.promote_types(h.dtype, torch.float32))

    def check(self, batch: Batch) -> None:
        """Raise a DataError if the likelihood does not support such data. The default accepts all."""

    def encoder_input(self, batch: Batch) -> Tensor:
        """Return the encoder's input for the observations, ``[batch, features]``. The default is ``batch.x``."""
        return batch.x

    def init_from_data(self, statistics: DataStatistics) -> None:
        """Set the biases so that a decoder that returns 0 predicts the mean of the data. The default does nothing."""
