"""Base class of the learned priors of a vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit._core.components import Component
from vaekit.networks import Network


class Prior(Component, nn.Module, ABC):
    """Base class of the learned priors p(z) of a vector z, such as ``Gaussian(20, prior=VampPrior(100))``.

    The KL divergence from such a prior has no closed form. Objectives estimate it at the samples of z.

    Attributes
    ----------
    needs_normal_posterior : bool
        Whether the posterior of the latent must be a diagonal normal.

    Examples
    --------
    >>> import torch
    >>> from vaekit.latents import GaussianMixture
    >>> prior = GaussianMixture(components=10)
    >>> prior.build(2)
    >>> prior.distribution(torch.zeros(())).sample(torch.Size([5])).shape
    torch.Size([5, 2])
    """

    needs_normal_posterior: ClassVar[bool] = False

    @abstractmethod
    def build(self, dim: int) -> None:
        """Create the parameters for ``dim`` dimensions."""

    @abstractmethod
    def distribution(self, like: Tensor) -> Distribution:
        """Return p(z), batch shape ``[]`` and event shape ``[dim]``, with the device and dtype of ``like``."""

    def connect_encoder(self, encoder: Network, in_features: int, posterior: Callable[[Tensor], Distribution]) -> None:
        """Receive the encoder of the built model. The default ignores it.

        Parameters
        ----------
        encoder : Network
            The encoder.
        in_features : int
            Width of its input.
        posterior : Callable
            Returns q(z given x) for features of the encoder.
        """

    def init_from_observations(self, draw: Callable[[int], Tensor]) -> None:
        """Initialize from random training observations. The default does nothing.

        Parameters
        ----------
        draw : Callable
            Returns the inputs of the encoder, ``[count, in_features]``, of ``count`` different observations. If the
            training data have fewer, it returns all.
        """
