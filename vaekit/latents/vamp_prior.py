"""Mixture of the posteriors of learned pseudo-inputs as a prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.distributions.normal_mixture import NormalMixture
from vaekit.exceptions import ConfigError
from vaekit.latents.prior import Prior
from vaekit.networks import Network


class VampPrior(Prior):
    r"""The mixture of the posteriors of K learned pseudo-inputs: a variational mixture of posteriors.

    .. math:: p(z) = \frac{1}{K} \sum_k q(z | u_k)

    The pseudo-inputs u are parameters in the space of the encoder's input, which is ``log(1 + count)`` for counts and
    includes the covariates if the encoder sees them. They start at random training observations, or at uniform random
    numbers in [0, 1) if training has no data module. The encoder encodes them once per training step, not once per
    observation.

    Parameters
    ----------
    components : int
        Number K of pseudo-inputs.

    Raises
    ------
    ConfigError
        If ``components`` is below 2; at the start of training, if there are fewer training observations.

    Notes
    -----
    Tomczak and Welling (2018), VAE with a VampPrior.

    Examples
    --------
    >>> import torch, vaekit
    >>> latent = vaekit.latents.Gaussian(2, prior=VampPrior(10))
    >>> model = vaekit.MixedVAE(64, vaekit.likelihoods.Bernoulli(), latents={"z": latent})
    >>> vaekit.diagnostics.sample_prior(model, count=5)["z"].shape
    torch.Size([5, 2])
    """

    needs_normal_posterior = True
    # in a tuple, so that the encoder is not a submodule of two modules
    _encoder: tuple[Network, Callable[[Tensor], Distribution]] | None = None

    def __init__(self, components: int) -> None:
        super().__init__()
        if components < 2:
            raise ConfigError(f"VampPrior: components={components} must be at least 2.")
        self.components = components

    @override
    def build(self, dim: int) -> None:
        """Do nothing: the parameters depend on the encoder only."""

    @override
    def connect_encoder(self, encoder: Network, in_features: int, posterior: Callable[[Tensor], Distribution]) -> None:
        self.pseudo_inputs = nn.Parameter(torch.rand(self.components, in_features))
        self._encoder = (encoder, posterior)

    @override
    @torch.no_grad()
    def init_from_observations(self, draw: Callable[[int], Tensor]) -> None:
        observations = draw(self.components)
        if len(observations) < self.components:
            raise ConfigError(
                f"VampPrior: components={self.components} must not exceed the {len(observations)} training "
                "observations."
            )
        self.pseudo_inputs.copy_(observations)

    @override
    def distribution(self, like: Tensor) -> Distribution:
        if self._encoder is None:
            raise ConfigError("VampPrior.distribution: the prior needs an encoder. Pass its latent to a model first.")
        encoder, posterior = self._encoder
        q: Any = posterior(encoder(self.pseudo_inputs))
        return NormalMixture(q.mean.new_zeros(self.components), q.mean, q.stddev)
