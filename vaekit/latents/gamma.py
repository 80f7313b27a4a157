"""Gamma latent variables."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from vaekit.distributions import LogGamma
from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.latents.gaussian import UNIT
from vaekit.latents.latent import Latent
from vaekit.networks.precision import at_least_float32

MIN_PARAMETER = 1e-3


class Gamma(Latent):
    """A vector of positive activities: the decoder sees x, and what is drawn is log x.

    Posterior and prior are gamma distributions of each dimension; small concentrations, where x is mostly below the
    smallest float, are drawn in log space, by implicit reparameterization. Their KL divergence is analytic.

    Parameters
    ----------
    dim
        Number of dimensions.
    concentration, rate
        Of the prior; below a concentration of 1 most activities are near 0.
    estimator
        Gradient estimator; ``"auto"`` is ``Pathwise()``.

    Raises
    ------
    ConfigError
        If ``dim`` is below 1, ``concentration`` or ``rate`` is not positive, or ``estimator`` is none.

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

    discrete = False
    event_dim = 1

    def __init__(
        self, dim: int, concentration: float = 1.0, rate: float = 1.0, estimator: Estimator | Literal["auto"] = "auto"
    ) -> None:
        if dim < 1 or not concentration > 0 or not rate > 0:
            raise ConfigError(
                f"Gamma: dim is {dim}, concentration {concentration}, rate {rate}; dim must be at least 1, the others "
                "positive"
            )
        super().__init__(dim, estimator)
        self.concentration, self.rate = concentration, rate

    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        """Make the posterior head (see the base class)."""
        self.head = nn.Linear(in_features, 2 * self.size)

    def posterior(self, h: Tensor) -> Distribution:
        """Return the distribution of log x (see the base class)."""
        concentration, rate = (F.softplus(at_least_float32(self.head(h)) + UNIT) + MIN_PARAMETER).chunk(2, -1)
        return Independent(LogGamma(concentration, rate, validate_args=False), 1)

    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        """Return the prior of log x (see the base class)."""
        concentration, rate = like.new_full((self.size,), self.concentration), like.new_full((self.size,), self.rate)
        return Independent(LogGamma(concentration, rate, validate_args=False), 1)

    def flatten(self, value: Tensor) -> Tensor:
        """Return x for values log x, ``[..., dim]``."""
        return value.exp()

    def summary(self, q: Distribution) -> Tensor:
        """Return the posterior means of x, ``[batch, dim]``."""
        return q.base_dist.concentration / q.base_dist.rate  # type: ignore[attr-defined]
