"""Student-t latent variables."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Gamma, Independent
from torch.distributions import StudentT as StudentTDistribution

from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.latents.gaussian import MIN_SCALE, UNIT
from vaekit.latents.latent import Latent
from vaekit.networks.precision import at_least_float32


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

    Raises
    ------
    ConfigError
        If ``dim`` is below 1, ``df`` is not above 1, or ``estimator`` is none.

    Examples
    --------
    >>> import torch
    >>> latent = StudentT(2, df=3.0)
    >>> _ = latent.build(4, None)
    >>> latent.prior(None, torch.zeros(())).log_prob(torch.zeros(2)).exp()  # (2 / (pi sqrt(3)))^2
    tensor(0.1351)
    """

    discrete = False
    event_dim = 1

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
        loc, raw = at_least_float32(self.head(h)).chunk(2, -1)
        return self._distribution(loc, F.softplus(raw + UNIT) + MIN_SCALE)

    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        """Return standard Student-t variables (see the base class)."""
        return self._distribution(like.new_zeros(self.size), like.new_ones(self.size))

    def _distribution(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Independent(_StudentT(torch.full_like(loc, self.df), loc, scale), 1)

    def summary(self, q: Distribution) -> Tensor:
        """Return the posterior means, ``[batch, dim]``."""
        return q.mean


class _StudentT(StudentTDistribution):
    """Torch's, made without a look at its arguments: torch checks the chi-square part's whatever it is told.

    Such a check, and a number that becomes a tensor, makes the host wait for a GPU.
    """

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.df, self.loc, self.scale = df, loc, scale
        self._chi2 = Gamma(df / 2, torch.full_like(df, 0.5), validate_args=False)  # type: ignore[assignment]
        Distribution.__init__(self, df.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> StudentTDistribution:
        """Return the distribution expanded to ``batch_shape``."""
        return super().expand(batch_shape, self.__new__(type(self)) if _instance is None else _instance)
