"""Discrete latent variables: vectors of bits and of categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent

from vaekit.distributions import OneHotCategorical
from vaekit.estimators import Estimator
from vaekit.estimators.discrete_support import get_logits
from vaekit.exceptions import ConfigError
from vaekit.latents.latent import Latent
from vaekit.networks import MLP
from vaekit.networks.precision import at_least_float32


class Categorical(Latent):
    r"""``variables`` one-hot variables of ``categories`` categories each, independent given the data.

    With ``parents`` both posterior and prior are conditional on their values, each by a network of one layer: a level
    of a sequence or tree, where the decoder sees the parents too. The KL divergence given the parents,

    .. math:: \mathrm{KL}\big(q(z_t | x, z_{<t}) \,\|\, p(z_t | z_{<t})\big),

    is analytic; what is left to chance are the parents' values in it.

    Parameters
    ----------
    categories
        Categories of a variable.
    variables
        Number of variables.
    learned_prior
        Whether the categories' prior probabilities are learned (cluster sizes differ) or uniform. Given parents they
        are learned, uniform at first.
    estimator
        Gradient estimator; ``"auto"`` sums exactly up to 64 states, else takes the score function with
        leave-one-out.
    parents
        Names of the discrete latents that it depends on.

    Raises
    ------
    ConfigError
        If there are fewer than 2 categories or 1 variable, ``estimator`` is none, or ``parents`` are not different
        names.

    Examples
    --------
    Three kinds within each of two kinds:

    >>> import torch
    >>> latent = Categorical(3, parents=["kind"])
    >>> _ = latent.build(in_features=8, parent_size=2)
    >>> kind = torch.eye(2)[:, None].expand(2, 5, 2)  # both, of five observations
    >>> latent.posterior(latent.condition_on_parents(torch.zeros(5, 8), kind)).batch_shape
    torch.Size([2, 5])
    >>> latent.prior(kind, kind).mean[0, 0].detach()
    tensor([[0.3333, 0.3333, 0.3333]])
    """

    conditional_posterior = True
    discrete = True
    event_dim = 2
    is_categorical = True
    state_shape: tuple[int, int]
    unit = "code"

    def __init__(
        self,
        categories: int,
        variables: int = 1,
        learned_prior: bool = False,
        estimator: Estimator | Literal["auto"] = "auto",
        parents: Sequence[str] = (),
    ) -> None:
        if categories < 2 or variables < 1:
            raise ConfigError(
                f"Categorical: {variables} variables of {categories} categories; at least 1 of 2 are needed"
            )
        super().__init__(variables * categories, estimator, parents)
        self.state_shape = (variables, categories)
        self.learned_prior = learned_prior

    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        """Make the posterior head, and what the prior's logits come from (see the base class)."""
        self.head = nn.Linear(in_features, self.size)
        if parent_size is not None:
            network, last = MLP([in_features]), nn.Linear(in_features, self.size)
            network.build(parent_size)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.prior_network = nn.Sequential(network, last)
        elif self.learned_prior:
            self.prior_logits = nn.Parameter(torch.zeros(self.state_shape))

    def posterior(self, h: Tensor) -> Distribution:
        """Return one-hot posteriors, event shape ``[variables, categories]`` (see the base class)."""
        logits = at_least_float32(self.head(h)).unflatten(-1, self.state_shape)
        return Independent(OneHotCategorical(logits=logits), 1)

    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        """Return the prior of the categories (see the base class)."""
        if parent is not None:
            logits = at_least_float32(self.prior_network(parent.to(like.dtype))).unflatten(-1, self.state_shape)
            return Independent(OneHotCategorical(logits=logits), 1)
        logits = self.prior_logits if self.learned_prior else like.new_zeros(self.state_shape)
        return Independent(OneHotCategorical(logits=logits), 1)

    def summary(self, q: Distribution) -> Tensor:
        """Return the categories' probabilities, ``[batch, variables * categories]``."""
        return self.flatten(get_logits(q).softmax(-1))

    def point_estimate(self, q: Distribution) -> Tensor:
        """Return the most probable codes (see the base class)."""
        return q.mode

    def unit_name(self, index: int) -> str:
        """Return ``"3"``, or ``"1:3"`` for category 3 of variable 1."""
        return self.state_name(*divmod(index, self.state_shape[1]))


class Bernoulli(Latent):
    r"""A vector of bits, independent given the data, with a uniform prior.

    .. math:: q(z | x) = \prod_d \pi_d^{z_d} (1 - \pi_d)^{1 - z_d}, \quad p(z) = 2^{-D}, \quad \pi = \sigma(W h(x) + c)

    for encoder features h. The KL divergence :math:`D \log 2 - \sum_d H(\pi_d)`, with the entropies of the bits, is
    analytic.

    Parameters
    ----------
    dim
        Number of bits.
    estimator
        Gradient estimator; ``"auto"`` sums exactly up to 6 bits, else takes ``DisARM()``, or in joint trajectories the
        score function with leave-one-out.

    Raises
    ------
    ConfigError
        If ``dim`` is below 1, or ``estimator`` is none.

    Notes
    -----
    Mnih and Gregor (2014), Neural Variational Inference and Learning in Belief Networks.
    """

    discrete = True
    event_dim = 1
    unit = "bit"

    def __init__(self, dim: int, estimator: Estimator | Literal["auto"] = "auto") -> None:
        if dim < 1:
            raise ConfigError(f"Bernoulli: dim is {dim}, it must be at least 1")
        super().__init__(dim, estimator)
        self.state_shape = (dim, 2)

    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        """Make the posterior head (see the base class)."""
        self.head = nn.Linear(in_features, self.size)

    def posterior(self, h: Tensor) -> Distribution:
        """Return independent bits (see the base class)."""
        return Independent(BernoulliDistribution(logits=at_least_float32(self.head(h)), validate_args=False), 1)

    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        """Return fair bits (see the base class)."""
        return Independent(BernoulliDistribution(logits=like.new_zeros(self.size), validate_args=False), 1)

    def summary(self, q: Distribution) -> Tensor:
        """Return the probabilities of a 1, ``[batch, dim]``."""
        return q.mean

    def state_probabilities(self, summary: Tensor) -> Tensor:
        """Return the probabilities of 0 and 1, ``[observations, dim, 2]``."""
        return torch.stack([1 - summary, summary], -1)

    def point_estimate(self, q: Distribution) -> Tensor:
        """Return the most probable bits (see the base class)."""
        return (q.mean > 0.5).to(q.mean.dtype)  # torch's own mode is NaN at 1/2
