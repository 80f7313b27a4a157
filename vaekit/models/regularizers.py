"""What training adds to a model's objective, and no bound knows of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit._core.components import Component
from vaekit.estimators.discrete_support import get_logits
from vaekit.exceptions import ConfigError, did_you_mean
from vaekit.latents import Latent

__all__ = ["InformationMaximization", "Regularizer"]


class Regularizer(Component, nn.Module, ABC):
    """A penalty on the posteriors of a mini-batch, in nats; training alone sees it, never a logged bound."""

    @abstractmethod
    def check(self, latents: Mapping[str, Latent]) -> None:
        """Raise a ConfigError if the model's latents are not those that it needs."""

    @abstractmethod
    def forward(
        self, latents: Mapping[str, Latent], h: Tensor, x: Tensor, encoder: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the penalty, a scalar, which is added to the loss of a batch.

        Parameters
        ----------
        latents
            The model's.
        h
            Encoder features of the batch, ``[batch, width]``.
        x
            What the encoder made them of, ``[batch, features]``.
        encoder
            From the latter to the former.
        """


class InformationMaximization(Regularizer):
    r"""Clusters that are of like size, and whose borders lie where there are few data.

    .. math::
        a \, E_x\big[\max_{\lVert r \rVert \le \rho} \mathrm{KL}(q(y | x) \,\|\, q(y | x + r))\big]
        - \iota \big(\beta H(E_x[q(y | x)]) - E_x[H(q(y | x))]\big)

    The second term is at :math:`\beta = 1` the mutual information of category and data; a larger :math:`\beta` weighs
    the balance of the aggregated posterior more. The first asks that the category stay the same under the small change
    of the encoder's input that changes it most, found by one step of the power method. The bound alone is content with
    clusters that share a component or halve one. Mean over the batch stands for that over the data, so a batch should
    hold several observations of each category.

    Hu, Miyato, Tokui, Matsumoto and Sugiyama (2017), Learning discrete representations via information maximizing
    self-augmented training; Miyato et al. (2018), Virtual adversarial training.

    Parameters
    ----------
    latent
        Name of a categorical latent without parents.
    information
        :math:`\iota`, weight of the mutual information.
    balance
        :math:`\beta`, weight of the aggregated posterior's entropy in it.
    adversarial
        :math:`a`, weight of the invariance.
    radius
        :math:`\rho`, Euclidean length of the change.

    Raises
    ------
    ConfigError
        If a weight is negative, or the radius not positive.
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
        weights = {"information": information, "balance": balance, "adversarial": adversarial}
        for name, weight in weights.items():
            if not weight >= 0:
                raise ConfigError(f"InformationMaximization: {name} is {weight}; a weight must not be negative")
        if not radius > 0:
            raise ConfigError(
                f"InformationMaximization: radius is {radius}; it must be positive: adversarial=0 spares the invariance"
            )
        self.latent, self.information, self.balance = latent, information, balance
        self.adversarial, self.radius = adversarial, radius

    def check(self, latents: Mapping[str, Latent]) -> None:
        """Raise an error if there is no such latent, or it is no category by itself (see the base class)."""
        if self.latent not in latents:
            raise ConfigError(
                f"InformationMaximization: latent={self.latent!r} not found. {did_you_mean(self.latent, latents)}"
            )
        latent = latents[self.latent]
        if not latent.is_categorical or latent.parents:
            parents = f" with parents {', '.join(map(repr, latent.parents))}" if latent.parents else ""
            raise ConfigError(
                f"InformationMaximization: latent {self.latent!r} is {type(latent).__name__}{parents}; name a "
                "Categorical without parents"
            )

    def forward(
        self, latents: Mapping[str, Latent], h: Tensor, x: Tensor, encoder: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the penalty (see the base class), added up over the variables of the latent."""

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
        with torch.enable_grad():  # of a random direction, the divergence's gradient is the direction that counts
            probe = F.normalize(torch.randn_like(x), dim=-1).requires_grad_()
            (worst,) = torch.autograd.grad(_divergence(q, log_probs(encoder(x.detach() + probe))), probe)
        shifted = x + self.radius * F.normalize(worst, dim=-1)
        return penalty + self.adversarial * _divergence(q, log_probs(encoder(shifted)))


def _divergence(q: Tensor, log_p: Tensor) -> Tensor:
    """Return KL(q || p), its mean over the batch."""
    return (torch.xlogy(q, q) - q * log_p).sum() / len(q)
