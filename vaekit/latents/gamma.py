"""Gamma latent variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent
from typing_extensions import override

from vaekit.distributions import LogGamma
from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.latents.latent import Latent
from vaekit.latents.positive import inverse_positive, positive

MIN_PARAMETER = 1e-3


class Gamma(Latent):
    """A vector of positive activities x; the decoder sees x, and the sampled value is log x.

    Posterior and prior are gamma distributions of each dimension, with an analytic KL divergence. Samples are drawn in
    log space by implicit reparameterization, because at small concentrations x underflows.

    Parameters
    ----------
    dim : int
        Number of dimensions.
    concentration, rate : float
        Parameters of the prior. Below a concentration of 1 most activities are near 0.
    estimator : Estimator or "auto"
        Gradient estimator; ``"auto"`` is ``Pathwise()``.
    parents, conditional_posterior, decoded
        As in :class:`Latent`. Concentration and rate of the prior depend on the parents.

    Raises
    ------
    ConfigError
        If ``dim`` is below 1, ``concentration`` or ``rate`` is not positive, or an argument is not valid for
        :class:`Latent`.

    Notes
    -----
    Figurnov, Mohamed and Mnih (2018), Implicit Reparameterization Gradients.

    Examples
    --------
    >>> import torch
    >>> latent = Gamma(3, concentration=0.5)
    >>> _ = latent.build(4, None)
    >>> log_x = latent.posterior(torch.zeros(2, 4)).sample()
    >>> latent.flatten(log_x).shape, bool((latent.flatten(log_x) >= 0).all())
    (torch.Size([2, 3]), True)
    """

    num_parameters = 2

    def __init__(
        self,
        dim: int,
        concentration: float = 1.0,
        rate: float = 1.0,
        estimator: Estimator | Literal["auto"] = "auto",
        parents: Sequence[str] = (),
        conditional_posterior: bool | Sequence[str] | None = None,
        decoded: bool | None = None,
    ) -> None:
        if dim < 1 or not concentration > 0 or not rate > 0:
            raise ConfigError(
                f"Gamma: dim={dim} must be at least 1, concentration={concentration} and rate={rate} must be positive."
            )
        super().__init__(dim, estimator, parents, conditional_posterior, decoded)
        self.concentration, self.rate = concentration, rate

    @override
    def posterior(self, h: Tensor) -> Distribution:
        return self._distribution(self.head_outputs(h))

    @override
    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        if parent is not None:
            return self._distribution(self.prior_outputs(parent, like))
        concentration, rate = like.new_full((self.size,), self.concentration), like.new_full((self.size,), self.rate)
        return Independent(LogGamma(concentration, rate, validate_args=False), 1)

    @override
    def initial_prior_outputs(self) -> Tensor:
        parameters = torch.tensor([self.concentration, self.rate]).repeat_interleave(self.size)
        return inverse_positive(parameters, MIN_PARAMETER)

    def _distribution(self, outputs: Tensor) -> Distribution:
        concentration, rate = positive(outputs, MIN_PARAMETER).chunk(2, -1)
        return Independent(LogGamma(concentration, rate, validate_args=False), 1)

    @override
    def flatten(self, value: Tensor) -> Tensor:
        return value.exp()

    def summary(self, q: Distribution) -> Tensor:
        """Return the posterior means of x, ``[batch, dim]``."""
        return q.base_dist.concentration / q.base_dist.rate  # type: ignore[attr-defined]
