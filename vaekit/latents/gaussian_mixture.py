"""Mixture of normal distributions as a prior."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.distributions.normal_mixture import NormalMixture
from vaekit.exceptions import ConfigError
from vaekit.latents.gaussian import MIN_SCALE
from vaekit.latents.positive import positive
from vaekit.latents.prior import Prior


class GaussianMixture(Prior):
    r"""A mixture of diagonal normal distributions with learned weights, means and standard deviations.

    .. math:: p(z) = \sum_k \pi_k\, \mathcal{N}(z; m_k, \mathrm{diag}\, s_k^2)

    The components are summed in the density, without a latent variable for them. For components that are codes of the
    observations, use :class:`~vaekit.latents.MixtureComponent` as a parent. Training starts from equal weights, means
    that are samples of a standard normal distribution, and standard deviations of 1.

    Parameters
    ----------
    components : int
        Number K of components.

    Raises
    ------
    ConfigError
        If ``components`` is below 2.

    Notes
    -----
    Tomczak and Welling (2018), VAE with a VampPrior, where it is the baseline "MoG prior".

    Examples
    --------
    >>> import torch, vaekit
    >>> latent = vaekit.latents.Gaussian(2, prior=GaussianMixture(10))
    >>> model = vaekit.MixedVAE(64, vaekit.likelihoods.Bernoulli(), latents={"z": latent})
    >>> model.loss(vaekit.Batch(torch.rand(8, 64))).terms["kl_z"].shape
    torch.Size([8])
    """

    def __init__(self, components: int) -> None:
        super().__init__()
        if components < 2:
            raise ConfigError(f"GaussianMixture: components={components} must be at least 2.")
        self.components = components

    @override
    def build(self, dim: int) -> None:
        self.logits = nn.Parameter(torch.zeros(self.components))
        self.loc = nn.Parameter(torch.randn(self.components, dim))
        self.raw_scale = nn.Parameter(torch.zeros(self.components, dim))

    @override
    def distribution(self, like: Tensor) -> Distribution:
        return NormalMixture(self.logits, self.loc, positive(self.raw_scale, MIN_SCALE))
