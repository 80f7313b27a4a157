"""Poisson latent variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.distributions import Poisson as PoissonDistribution
from typing_extensions import override

from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.latents.latent import Latent
from vaekit.latents.positive import inverse_positive, positive

MIN_RATE = 1e-3


class Poisson(Latent):
    r"""A vector of counts, independent given the data: how often each of ``dim`` events occurs.

    .. math:: q(z | x) = \prod_d \mathrm{Poisson}(z_d; \lambda_d(x)), \quad
              \mathrm{KL} = \sum_d \lambda_d \log \frac{\lambda_d}{\rho} - \lambda_d + \rho

    with the rate :math:`\rho` of the prior. The KL divergence is analytic, also given parents. A count is not
    differentiable, so that the gradient is a score function or measure-valued. The counts are coordinates of an
    observation in embeddings, not codes.

    Vafaii, Galor and Yates (2024), Poisson Variational Autoencoder.

    Parameters
    ----------
    dim : int
        Number of counts.
    rate : float
        Rate of the prior.
    estimator : Estimator or "auto"
        Gradient estimator; ``"auto"`` is the score function with leave-one-out baseline.
    parents, conditional_posterior, decoded
        As in :class:`Latent`. The rates of the prior depend on the parents.

    Raises
    ------
    ConfigError
        If ``dim`` is below 1, ``rate`` is not positive, or an argument is not valid for :class:`Latent`.

    Examples
    --------
    >>> import torch
    >>> latent = Poisson(3, rate=0.5)
    >>> _ = latent.build(4, None)
    >>> latent.posterior(torch.zeros(2, 4)).sample().shape
    torch.Size([2, 3])
    >>> latent.prior(None, torch.zeros(())).mean
    tensor([0.5000, 0.5000, 0.5000])
    """

    unit = "count"

    def __init__(
        self,
        dim: int,
        rate: float = 1.0,
        estimator: Estimator | Literal["auto"] = "auto",
        parents: Sequence[str] = (),
        conditional_posterior: bool | Sequence[str] | None = None,
        decoded: bool | None = None,
    ) -> None:
        if dim < 1 or not rate > 0:
            raise ConfigError(f"Poisson: dim={dim} must be at least 1, and rate={rate} positive.")
        super().__init__(dim, estimator, parents, conditional_posterior, decoded)
        self.rate = rate

    @override
    def posterior(self, h: Tensor) -> Distribution:
        return _counts(positive(self.head_outputs(h), MIN_RATE))

    @override
    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        if parent is not None:
            return _counts(positive(self.prior_outputs(parent, like), MIN_RATE))
        return _counts(like.new_full((self.size,), self.rate))

    @override
    def initial_prior_outputs(self) -> Tensor:
        return inverse_positive(torch.full((self.size,), self.rate), MIN_RATE)


def _counts(rate: Tensor) -> Distribution:
    return Independent(PoissonDistribution(rate, validate_args=False), 1)
