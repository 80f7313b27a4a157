"""Gaussian latent variables."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.latents.latent import Latent
from vaekit.networks.precision import at_least_float32

MIN_SCALE = 1e-4  # keeps log-densities finite in float32
UNIT = 0.5413  # softplus(0.5413) = 1


def diagonal_normal(parameters: Tensor) -> Distribution:
    """Return a diagonal normal from ``[..., 2 dim]``: locations, then scales before their softplus."""
    loc, raw = at_least_float32(parameters).chunk(2, -1)
    return Independent(Normal(loc, F.softplus(raw + UNIT) + MIN_SCALE, validate_args=False), 1)


class Gaussian(Latent):
    r"""A vector with a diagonal normal posterior.

    Its prior is standard normal; with a ``parent`` y, normal with a location and scale for each of the parent's
    categories: a mixture, whose components are clusters that can be read.

    .. math:: q(z | x) = \mathcal{N}(z; \mu(x), \mathrm{diag}\, \sigma(x)^2), \qquad
              p(z) = \sum_k p(y = k)\, \mathcal{N}(z; m_k, \mathrm{diag}\, s_k^2)

    The components' :math:`m_k, s_k` are learned. The KL divergence is analytic: with a parent, from the component at
    the parent's value, :math:`\mathrm{KL}(q(z | x) \,\|\, p(z | y))`.

    Parameters
    ----------
    dim
        Number of dimensions.
    parent
        Name of the categorical latent that chooses the prior's component; the decoder then sees this latent
        and not the parent.
    estimator
        Gradient estimator; ``"auto"`` is ``Pathwise()``.

    Raises
    ------
    ConfigError
        If ``dim`` is below 1, or ``estimator`` is none.

    Notes
    -----
    Kingma and Welling (2014), Auto-Encoding Variational Bayes; Jiang, Zheng, Tan, Tang and Zhou (2017), Variational
    Deep Embedding: An Unsupervised and Generative Approach to Clustering.
    """

    discrete = False
    event_dim = 1
    supports_traversal = True

    def __init__(self, dim: int, parent: str | None = None, estimator: Estimator | Literal["auto"] = "auto") -> None:
        if dim < 1:
            raise ConfigError(f"Gaussian: dim is {dim}, it must be at least 1")
        super().__init__(dim, estimator, () if parent is None else (parent,))

    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        """Make the posterior head, and the mixture's components (see the base class)."""
        self.head = nn.Linear(in_features, 2 * self.size)
        if parent_size is not None:
            self.components = nn.Linear(parent_size, 2 * self.size, bias=False)
            with torch.no_grad():  # far enough apart to tell, near enough to be reached
                loc, raw = self.components.weight.chunk(2, 0)
                loc.normal_()
                raw.zero_()

    def posterior(self, h: Tensor) -> Distribution:
        """Return the diagonal normal posterior (see the base class)."""
        return diagonal_normal(self.head(h))

    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        """Return the standard normal, or the parent's component of the mixture (see the base class)."""
        if parent is not None:
            return diagonal_normal(self.components(parent))
        return Independent(Normal(like.new_zeros(self.size), like.new_ones(self.size), validate_args=False), 1)

    def summary(self, q: Distribution) -> Tensor:
        """Return the posterior means, ``[batch, dim]``."""
        return q.mean
