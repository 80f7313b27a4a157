"""Student-t latent variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, Independent
from torch.distributions import StudentT as StudentTDistribution
from typing_extensions import override

from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.latents.gaussian import MIN_SCALE
from vaekit.latents.latent import Latent
from vaekit.latents.positive import positive


class StudentT(Latent):
    """A vector with heavy tails, in which outlying cells have a low cost.

    The prior of each dimension is a standard Student-t distribution. The posterior has the same degrees of freedom,
    with a location and a scale. The KL divergence has no closed form and is estimated at the samples.

    Parameters
    ----------
    dim : int
        Number of dimensions.
    df : float
        Degrees of freedom, above 1 so that the mean exists. At 30 the distribution is nearly normal.
    estimator : Estimator or "auto"
        Gradient estimator; ``"auto"`` is ``Pathwise()``.
    parents, conditional_posterior, decoded
        As in :class:`Latent`. Location and scale of the prior depend on the parents.

    Raises
    ------
    ConfigError
        If ``dim`` is below 1, ``df`` is not above 1, or an argument is not valid for :class:`Latent`.

    Examples
    --------
    >>> import torch
    >>> latent = StudentT(2, df=3.0)
    >>> _ = latent.build(4, None)
    >>> latent.prior(None, torch.zeros(())).log_prob(torch.zeros(2)).exp()  # (2 / (pi sqrt(3)))^2
    tensor(0.1351)
    """

    num_parameters = 2

    def __init__(
        self,
        dim: int,
        df: float = 5.0,
        estimator: Estimator | Literal["auto"] = "auto",
        parents: Sequence[str] = (),
        conditional_posterior: bool | Sequence[str] | None = None,
        decoded: bool | None = None,
    ) -> None:
        if dim < 1 or not df > 1:
            raise ConfigError(f"StudentT: dim={dim} must be at least 1, and df={df} above 1.")
        super().__init__(dim, estimator, parents, conditional_posterior, decoded)
        self.df = df

    @override
    def posterior(self, h: Tensor) -> Distribution:
        return self._from_outputs(self.head_outputs(h))

    @override
    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        if parent is not None:
            return self._from_outputs(self.prior_outputs(parent, like))
        return self._distribution(like.new_zeros(self.size), like.new_ones(self.size))

    def _from_outputs(self, outputs: Tensor) -> Distribution:
        loc, raw = outputs.chunk(2, -1)
        return self._distribution(loc, positive(raw, MIN_SCALE))

    def _distribution(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Independent(_StudentT(torch.full_like(loc, self.df), loc, scale), 1)


class _StudentT(StudentTDistribution):
    """Torch's distribution without the checks of its chi-square part, which would wait for a GPU."""

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.df, self.loc, self.scale = df, loc, scale
        self._chi2 = Gamma(df / 2, torch.full_like(df, 0.5), validate_args=False)  # type: ignore[assignment]
        Distribution.__init__(self, df.shape, validate_args=False)

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> StudentTDistribution:
        return super().expand(batch_shape, self.__new__(type(self)) if _instance is None else _instance)
