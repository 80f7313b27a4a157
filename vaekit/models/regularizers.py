"""Regularizers: penalties that training adds to the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from vaekit._core.components import Component
from vaekit.estimators.discrete_support import get_logits
from vaekit.exceptions import ConfigError, did_you_mean
from vaekit.latents import Latent

__all__ = ["InformationMaximization", "Regularizer"]


class Regularizer(Component, nn.Module, ABC):
    """A penalty on the posteriors of a mini-batch, in nats. The logged ELBO does not contain it.

    Examples
    --------
    A penalty on the features of the encoder, for a model in Python:

    >>> import vaekit
    >>> class SmallFeatures(vaekit.regularizers.Regularizer):
    ...     def check(self, latents):
    ...         pass
    ...
    ...     def forward(self, latents, h, x, encoder):
    ...         return 0.01 * h.square().mean()
    >>> model = vaekit.MixedVAE(64, vaekit.likelihoods.Bernoulli(), regularizer=SmallFeatures())
    """

    @abstractmethod
    def check(self, latents: Mapping[str, Latent]) -> None:
        """Raise a ConfigError if the model does not have the latents that the regularizer needs."""

    @abstractmethod
    def forward(
        self, latents: Mapping[str, Latent], h: Tensor, x: Tensor, encoder: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the penalty of a mini-batch, a scalar.

        Parameters
        ----------
        latents : Mapping[str, Latent]
            Latents of the model.
        h : Tensor, shape (batch, width)
            Encoder features.
        x : Tensor, shape (batch, features)
            Input of the encoder.
        encoder : Callable
            Function that computes ``h`` from ``x``.
        """


class InformationMaximization(Regularizer):
    r"""Clusters of similar size, with borders in regions of low density.

    .. math::
        a \, E_x\big[\max_{\lVert r \rVert \le \rho} \mathrm{KL}(q(y | x) \,\|\, q(y | x + r))\big]
        - \iota \big(\beta H(E_x[q(y | x)]) - E_x[H(q(y | x))]\big)

    At :math:`\beta = 1` the second term is the mutual information of category and data; a larger :math:`\beta` favors
    equal cluster sizes. The first term penalizes a change of the category under the small perturbation of the encoder's
    input that changes it most, found by one step of the power method. The ELBO alone does not prevent clusters from
    sharing a component or splitting one. Means over the mini-batch estimate those over the data, so that a mini-batch
    should contain several observations per category. The penalties of several variables are added up.

    Hu, Miyato, Tokui, Matsumoto and Sugiyama (2017), Learning discrete representations via information maximizing
    self-augmented training; Miyato et al. (2018), Virtual adversarial training.

    Parameters
    ----------
    latent : str
        Name of a categorical latent without parents.
    information : float
        :math:`\iota`, weight of the mutual information.
    balance : float
        :math:`\beta`, weight of the entropy of the aggregated posterior.
    adversarial : float
        :math:`a`, weight of the invariance.
    radius : float
        :math:`\rho`, Euclidean length of the perturbation.

    Raises
    ------
    ConfigError
        If a weight is negative, or ``radius`` is not positive.

    Examples
    --------
    >>> import vaekit
    >>> regularizer = vaekit.regularizers.InformationMaximization("y")
    >>> model = vaekit.MixedVAE(64, vaekit.likelihoods.Bernoulli(), regularizer=regularizer)
    >>> model.regularizer.latent
    'y'
    """

    def __init__(
        self,
        latent: str = "y",
        information: float = 2.0,
        balance: float = 4.0,
        adversarial: float = 4.0,
        radius: float = 2.0,
    ) -> None:
        super().__init__()
        for name, weight in {"information": information, "balance": balance, "adversarial": adversarial}.items():
            if not weight >= 0:
                raise ConfigError(f"InformationMaximization: {name}={weight} must not be negative.")
        if not radius > 0:
            raise ConfigError(
                f"InformationMaximization: radius={radius} must be positive. To omit the invariance, set adversarial=0."
            )
        self.latent, self.information, self.balance = latent, information, balance
        self.adversarial, self.radius = adversarial, radius

    @override
    def check(self, latents: Mapping[str, Latent]) -> None:
        if self.latent not in latents:
            raise ConfigError(
                f"InformationMaximization: latent={self.latent!r} not found. {did_you_mean(self.latent, latents)}"
            )
        latent = latents[self.latent]
        if not latent.is_categorical or latent.parents:
            parents = f" with parents {', '.join(map(repr, latent.parents))}" if latent.parents else ""
            raise ConfigError(
                f"InformationMaximization: latent={self.latent!r} is a {type(latent).__name__}{parents}, but must be a "
                "Categorical without parents."
            )

    @override
    def forward(
        self, latents: Mapping[str, Latent], h: Tensor, x: Tensor, encoder: Callable[[Tensor], Tensor]
    ) -> Tensor:
        def log_probs(features: Tensor) -> Tensor:
            return get_logits(latents[self.latent].posterior(features)).log_softmax(-1)

        log_q = log_probs(h)  # [batch, variables, categories]
        q = log_q.exp()
        aggregated = q.mean(0)
        entropy = -torch.special.xlogy(aggregated, aggregated.clamp_min(1e-8)).sum()
        conditional = -(q * log_q).sum() / len(q)
        penalty = self.information * (conditional - self.balance * entropy)
        if not self.adversarial:
            return penalty
        q = q.detach()
        with torch.enable_grad():  # power method: the gradient of the divergence at a random direction
            direction = F.normalize(torch.randn_like(x), dim=-1).requires_grad_()
            (worst,) = torch.autograd.grad(_mean_divergence(q, log_probs(encoder(x.detach() + direction))), direction)
        perturbed = x + self.radius * F.normalize(worst, dim=-1)
        return penalty + self.adversarial * _mean_divergence(q, log_probs(encoder(perturbed)))


def _mean_divergence(q: Tensor, log_p: Tensor) -> Tensor:
    """Return KL(q || p), averaged over the mini-batch."""
    return (torch.xlogy(q, q) - q * log_p).sum() / len(q)
