"""The straight-through estimator of discrete variables."""

from __future__ import annotations

import torch
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.discrete_support import is_bernoulli, is_one_hot, sample_discrete, unwrap_independent
from vaekit.estimators.estimator import Estimator
from vaekit.estimators.node_sample import NodeSample, uniform_weight


class StraightThrough(Estimator):
    r"""Use the discrete value forward and the gradient of its mean backward.

    .. math:: y = z + \pi - \mathrm{stop}(\pi), \quad z \sim q_\pi

    Shapes: values ``[num_samples, *batch, *event]``, exactly discrete. Bias: of the gradient, none for a cost
    that is linear in each variable, else yes; none of the forward value. Cost: ``num_samples`` evaluations and
    their backward pass. Nodes: Bernoulli, OneHotCategorical, and ``Independent`` vectors of them.

    Bengio, Léonard and Courville (2013), Estimating or Propagating Gradients Through Stochastic Neurons.

    Parameters
    ----------
    num_samples
        Independent draws.
    """

    requires_differentiable_cost = True
    unbiased = False
    handles_zero_probabilities = True

    @classmethod
    def supports(cls, q: Distribution) -> bool:
        """Tell whether ``q`` is made of Bernoulli or one-hot categorical variables."""
        return is_bernoulli(q) or is_one_hot(q)

    @override
    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        """Draw discrete values with the gradient of their mean (see the base class)."""
        mean = unwrap_independent(q)[0].mean
        value = sample_discrete(q, shape, common_noise_dims) + (mean - mean.detach())
        return NodeSample(value, uniform_weight(value, q), None, q, equal_weights=True)
