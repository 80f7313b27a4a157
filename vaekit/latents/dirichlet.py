"""Dirichlet latent variables: proportions of topics."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.distributions import LogDirichlet
from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.latents.gamma import MIN_PARAMETER
from vaekit.latents.gaussian import UNIT
from vaekit.latents.latent import Latent
from vaekit.networks.precision import at_least_float32


class Dirichlet(Latent):
    """Proportions of ``topics`` topics: the decoder sees the proportions x, and what is drawn is log x.

    With the network ``Identity`` as decoder, each topic is a vector over the genes: the likelihood's weights are its
    log fold changes (a product of experts). The KL divergence is analytic.

    Parameters
    ----------
    topics
        Number of topics.
    concentration
        Of the symmetric prior; below 1 a cell has few topics.
    estimator
        Gradient estimator; ``"auto"`` is ``Pathwise()``, by implicit reparameterization in log space.

    Raises
    ------
    ConfigError
        If there are fewer than 2 topics, ``concentration`` is not positive, or ``estimator`` is none.

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

    discrete = False
    event_dim = 1
    unit = "topic"

    def __init__(
        self, topics: int, concentration: float = 0.5, estimator: Estimator | Literal["auto"] = "auto"
    ) -> None:
        if topics < 2 or not concentration > 0:
            raise ConfigError(
                f"Dirichlet: topics is {topics}, concentration {concentration}; at least 2 topics and a positive "
                "concentration are needed"
            )
        super().__init__(topics, estimator)
        self.concentration, self.state_shape = concentration, (1, topics)

    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        """Make the posterior head (see the base class)."""
        self.head = nn.Linear(in_features, self.size)

    def posterior(self, h: Tensor) -> Distribution:
        """Return the distribution of log x (see the base class)."""
        return LogDirichlet(F.softplus(at_least_float32(self.head(h)) + UNIT) + MIN_PARAMETER, validate_args=False)

    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        """Return the symmetric prior of log x (see the base class)."""
        return LogDirichlet(like.new_full((self.size,), self.concentration), validate_args=False)

    def flatten(self, value: Tensor) -> Tensor:
        """Return the proportions for values log x, ``[..., topics]``."""
        return value.exp()

    def summary(self, q: Distribution) -> Tensor:
        """Return the posterior means of the proportions, ``[batch, topics]``."""
        return F.normalize(q.concentration, p=1, dim=-1)  # type: ignore[attr-defined]
