"""Dirichlet latent variables: proportions of topics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.distributions import LogDirichlet
from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.latents.gamma import MIN_PARAMETER
from vaekit.latents.latent import Latent
from vaekit.latents.positive import inverse_positive, positive


class Dirichlet(Latent):
    """Proportions x of topics; the decoder sees x, and the sampled value is log x.

    With the network ``Linear`` as decoder, each topic is a vector over the genes, and the likelihood's weights are
    its log fold changes (a product of experts). The KL divergence is analytic.

    Parameters
    ----------
    topics : int
        Number of topics.
    concentration : float
        Concentration of the symmetric prior. Below 1 a cell has few topics.
    estimator : Estimator or "auto"
        Gradient estimator; ``"auto"`` is ``Pathwise()``, by implicit reparameterization in log space.
    parents, conditional_posterior, decoded
        As in :class:`Latent`. The concentration of each topic in the prior depends on the parents.

    Raises
    ------
    ConfigError
        If there are fewer than 2 topics, ``concentration`` is not positive, or an argument is not valid for
        :class:`Latent`.

    Notes
    -----
    Blei, Ng and Jordan (2003), Latent Dirichlet Allocation; Srivastava and Sutton (2017), Autoencoding Variational
    Inference for Topic Models; Figurnov, Mohamed and Mnih (2018), Implicit Reparameterization Gradients.

    Examples
    --------
    >>> import torch
    >>> latent = Dirichlet(3, concentration=0.1)
    >>> _ = latent.build(4, None)
    >>> log_x = latent.posterior(torch.zeros(2, 4)).sample()
    >>> torch.allclose(latent.flatten(log_x).sum(-1), torch.ones(2))
    True
    """

    is_proportions = True
    unit = "topic"

    def __init__(
        self,
        topics: int,
        concentration: float = 0.5,
        estimator: Estimator | Literal["auto"] = "auto",
        parents: Sequence[str] = (),
        conditional_posterior: bool | Sequence[str] | None = None,
        decoded: bool | None = None,
    ) -> None:
        if topics < 2 or not concentration > 0:
            raise ConfigError(
                f"Dirichlet: topics={topics} must be at least 2, and concentration={concentration} positive."
            )
        super().__init__(topics, estimator, parents, conditional_posterior, decoded)
        self.concentration, self.state_shape = concentration, (1, topics)

    @override
    def posterior(self, h: Tensor) -> Distribution:
        return self._distribution(self.head_outputs(h))

    @override
    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        if parent is not None:
            return self._distribution(self.prior_outputs(parent, like))
        return LogDirichlet(like.new_full((self.size,), self.concentration), validate_args=False)

    @override
    def initial_prior_outputs(self) -> Tensor:
        return inverse_positive(torch.full((self.size,), self.concentration), MIN_PARAMETER)

    def _distribution(self, outputs: Tensor) -> Distribution:
        return LogDirichlet(positive(outputs, MIN_PARAMETER), validate_args=False)

    @override
    def flatten(self, value: Tensor) -> Tensor:
        return value.exp()

    def summary(self, q: Distribution) -> Tensor:
        """Return the posterior means of the proportions, ``[batch, topics]``."""
        return F.normalize(q.concentration, p=1, dim=-1)  # type: ignore[attr-defined]
