"""Gaussian latent variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from typing_extensions import override

from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.latents.latent import Latent
from vaekit.latents.positive import inverse_positive, positive
from vaekit.latents.prior import Prior
from vaekit.networks import Network
from vaekit.networks.precision import at_least_float32

MIN_SCALE = 1e-4  # keeps log-densities finite in float32


def diagonal_normal(parameters: Tensor) -> Distribution:
    """Return a diagonal normal from ``[..., 2 dim]``: locations, then scales before their softplus."""
    loc, raw = at_least_float32(parameters).chunk(2, -1)
    return Independent(Normal(loc, positive(raw, MIN_SCALE), validate_args=False), 1)


def standard_normal(dim: int, like: Tensor) -> Distribution:
    """Return a standard normal vector with the device and dtype of ``like``."""
    return Independent(Normal(like.new_zeros(dim), like.new_ones(dim), validate_args=False), 1)


class Gaussian(Latent):
    r"""A vector with a diagonal normal posterior.

    The prior is standard normal. With a discrete parent, ``parents=["y"]``, it is a normal with a location and a scale
    for each category of y, so that the marginal prior is a mixture whose components are interpretable clusters.

    .. math:: q(z | x) = \mathcal{N}(z; \mu(x), \mathrm{diag}\, \sigma(x)^2), \qquad
              p(z) = \sum_k p(y = k)\, \mathcal{N}(z; m_k, \mathrm{diag}\, s_k^2)

    The parameters :math:`m_k, s_k` of the components are learned. If y is a
    :class:`~vaekit.latents.MixtureComponent`, its posterior has a closed form, and k-means starts the components. With
    a continuous parent, location and scale are a network of it, as in a hierarchical VAE. The KL divergence is analytic
    given the parents: :math:`\mathrm{KL}(q(z | x) \,\|\, p(z | y))`. A learned ``prior`` such as
    :class:`~vaekit.latents.VampPrior` replaces the standard normal; its KL divergence is estimated at the samples.

    Parameters
    ----------
    dim : int
        Number of dimensions.
    parents : Sequence[str]
        Names of the latents that the prior depends on. If all are discrete, they select the component: the
        contributions of several parents, and of the bits or variables of one, are added up.
    estimator : Estimator or "auto"
        Gradient estimator; ``"auto"`` is ``Pathwise()``.
    conditional_posterior, decoded
        As in :class:`Latent`. The posterior does not depend on the parents by default, and the decoder then sees this
        latent and not the parents.
    prior : Prior or None
        Learned prior without parents: :class:`~vaekit.latents.VampPrior`, :class:`~vaekit.latents.GaussianMixture` or
        :class:`~vaekit.latents.FlowPrior`. None: a standard normal, or one that depends on the parents.

    Raises
    ------
    ConfigError
        If ``dim`` is below 1, there are both ``prior`` and ``parents``, or an argument is not valid for
        :class:`Latent`.

    Notes
    -----
    Kingma and Welling (2014), Auto-Encoding Variational Bayes; Jiang, Zheng, Tan, Tang and Zhou (2017), Variational
    Deep Embedding: An Unsupervised and Generative Approach to Clustering.

    Examples
    --------
    >>> import torch, vaekit
    >>> latent = vaekit.latents.Gaussian(10)
    >>> _ = latent.build(in_features=32, parent_size=0)
    >>> latent.posterior(torch.zeros(5, 32)).batch_shape
    torch.Size([5])
    """

    supports_traversal = True
    has_normal_posterior = True
    num_parameters = 2

    def __init__(
        self,
        dim: int,
        parents: Sequence[str] = (),
        estimator: Estimator | Literal["auto"] = "auto",
        conditional_posterior: bool | Sequence[str] | None = None,
        decoded: bool | None = None,
        prior: Prior | None = None,
    ) -> None:
        name = type(self).__name__
        if dim < 1:
            raise ConfigError(f"{name}: dim={dim} must be at least 1.")
        if prior is not None and parents:
            raise ConfigError(
                f"{name}: prior={type(prior).__name__} cannot be combined with parents={list(parents)}, on which the "
                "prior would depend. Omit one of them."
            )
        if prior is not None and prior.needs_normal_posterior and not self.has_normal_posterior:
            raise ConfigError(
                f"{name}: prior={type(prior).__name__} needs a diagonal normal posterior. Use Gaussian, or another "
                "prior such as GaussianMixture."
            )
        super().__init__(dim, estimator, parents, conditional_posterior, decoded)
        self.learned_prior = prior

    @override
    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        super().build_layers(in_features, parent_size)
        if self.learned_prior is not None:
            self.learned_prior.build(self.size)

    @override
    def build_prior(self, width: int, parent_size: int) -> None:
        if not self.discrete_parents:
            super().build_prior(width, parent_size)
            return
        self.components = nn.Linear(parent_size, 2 * self.size, bias=False)
        with torch.no_grad():  # distinct components, close enough for the posterior to reach all of them
            loc, raw = self.components.weight.chunk(2, 0)
            loc.normal_()
            raw.zero_()

    @override
    def posterior(self, h: Tensor) -> Distribution:
        return diagonal_normal(self.head(h))

    @override
    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        if self.learned_prior is not None:
            return self.learned_prior.distribution(like)
        if parent is None:
            return standard_normal(self.size, like)
        has_components = self.discrete_parents
        return diagonal_normal(self.components(parent) if has_components else self.prior_outputs(parent, like))

    @override
    def connect_encoder(self, encoder: Network, in_features: int) -> None:
        if self.learned_prior is not None:
            self.learned_prior.connect_encoder(encoder, in_features, self.posterior)

    @override
    def init_from_observations(self, draw: Callable[[int], Tensor]) -> None:
        if self.learned_prior is not None:
            self.learned_prior.init_from_observations(draw)

    @override
    def set_components(self, loc: Tensor, scale: Tensor) -> list[nn.Parameter]:
        with torch.no_grad():
            self.components.weight.copy_(torch.cat([loc, inverse_positive(scale, MIN_SCALE)], -1).T)
        return list(self.components.parameters())

    @override
    def undecayed_layers(self) -> list[nn.Module]:
        return [self.components] if self.parents and self.discrete_parents else []
