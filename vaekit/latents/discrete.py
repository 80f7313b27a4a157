"""Discrete latent variables: vectors of bits and of categories."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent

from vaekit.distributions import OneHotCategorical
from vaekit.estimators import Estimator
from vaekit.estimators.discrete import logits_of
from vaekit.exceptions import ConfigError
from vaekit.latents.base import Latent


class Categorical(Latent):
    """``variables`` one-hot variables of ``categories`` categories each, independent given the data.

    Parameters
    ----------
    categories
        Categories of a variable.
    variables
        Number of variables.
    learned_prior
        Whether the categories' prior probabilities are learned (cluster sizes differ) or uniform.
    estimator
        Gradient estimator; ``"auto"`` sums exactly up to 64 states, else takes the score function with
        leave-one-out.
    """

    discrete = True
    event_dims = 2

    def __init__(
        self,
        categories: int,
        variables: int = 1,
        learned_prior: bool = False,
        estimator: Estimator | Literal["auto"] = "auto",
    ) -> None:
        if categories < 2 or variables < 1:
            raise ConfigError(
                f"Categorical: {variables} variables of {categories} categories; at least 1 of 2 are needed"
            )
        super().__init__(variables * categories, estimator)
        self.shape = (variables, categories)
        self.learned_prior = learned_prior

    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        """Make the posterior head, and the prior's logits if they are learned (see the base class)."""
        self.head = nn.Linear(in_features, self.size)
        if self.learned_prior:
            self.prior_logits = nn.Parameter(torch.zeros(self.shape))

    def posterior(self, h: Tensor) -> Distribution:
        """Return one-hot posteriors, event shape ``[variables, categories]`` (see the base class)."""
        logits = self.head(h).unflatten(-1, self.shape)
        return Independent(OneHotCategorical(logits), 1)

    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        """Return the prior of the categories (see the base class)."""
        logits = self.prior_logits if self.learned_prior else like.new_zeros(self.shape)
        return Independent(OneHotCategorical(logits), 1)

    def summary(self, q: Distribution) -> Tensor:
        """Return the categories' probabilities, ``[batch, variables * categories]``."""
        return self.flatten(logits_of(q).softmax(-1))


class Bernoulli(Latent):
    """A vector of bits, with a uniform prior.

    Parameters
    ----------
    dim
        Number of bits.
    estimator
        Gradient estimator; ``"auto"`` sums exactly up to 6 bits, else takes the score function with
        leave-one-out.
    """

    discrete = True
    event_dims = 1

    def __init__(self, dim: int, estimator: Estimator | Literal["auto"] = "auto") -> None:
        if dim < 1:
            raise ConfigError(f"Bernoulli: dim is {dim}, it must be at least 1")
        super().__init__(dim, estimator)

    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        """Make the posterior head (see the base class)."""
        self.head = nn.Linear(in_features, self.size)

    def posterior(self, h: Tensor) -> Distribution:
        """Return independent bits (see the base class)."""
        return Independent(BernoulliDistribution(logits=self.head(h), validate_args=False), 1)

    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        """Return fair bits (see the base class)."""
        return Independent(BernoulliDistribution(logits=like.new_zeros(self.size), validate_args=False), 1)

    def summary(self, q: Distribution) -> Tensor:
        """Return the probabilities of a 1, ``[batch, dim]``."""
        return q.mean
