"""Student-t latent variables."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.distributions import StudentT as StudentTDistribution

from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.latents.base import Latent
from vaekit.latents.gaussian import MIN_SCALE, UNIT


class StudentT(Latent):
    """A vector with heavy tails: cells far from all others cost little.

    The prior of each dimension is a standard Student-t, the posterior one of the same degrees of freedom with a
    location and scale. Their KL divergence has no closed form: it is estimated at the draws.

    Parameters
    ----------
    dim
        Number of dimensions.
    df
        Degrees of freedom, above 1 so that there is a mean; at 30 all but normal.
    estimator
        Gradient estimator; ``"auto"`` is ``Pathwise()``.

    Examples
    --------
    >>> import torch
    >>> latent = StudentT(2, df=3.0)
    >>> _ = latent.build(4, None)
    >>> latent.prior(None, torch.zeros(())).log_prob(torch.zeros(2)).exp()  # (2 / (pi sqrt(3)))^2
    tensor(0.1351)
    """

    discrete = False
    event_dims = 1

    def __init__(self, dim: int, df: float = 5.0, estimator: Estimator | Literal["auto"] = "auto") -> None:
        if dim < 1 or not df > 1:
            raise ConfigError(f"StudentT: dim is {dim}, df {df}; dim must be at least 1, df above 1")
        super().__init__(dim, estimator)
        self.df = df

    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        """Make the posterior head (see the base class)."""
        self.head = nn.Linear(in_features, 2 * self.size)

    def posterior(self, h: Tensor) -> Distribution:
        """Return independent Student-t variables (see the base class)."""
        loc, raw = self.head(h).chunk(2, -1)
        return self._distribution(loc, F.softplus(raw + UNIT) + MIN_SCALE)

    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        """Return standard Student-t variables (see the base class)."""
        return self._distribution(like.new_zeros(self.size), like.new_ones(self.size))

    def _distribution(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Independent(StudentTDistribution(loc.new_full((), self.df), loc, scale, validate_args=False), 1)

    def summary(self, q: Distribution) -> Tensor:
        """Return the posterior means, ``[batch, dim]``."""
        return q.mean
