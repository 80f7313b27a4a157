"""The straight-through estimator of discrete variables."""

from __future__ import annotations

import torch
from torch.distributions import Distribution

from vaekit.estimators.discrete_support import sample_discrete, unwrap_independent
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.support import DiscreteEstimator


class StraightThrough(DiscreteEstimator):
    r"""Discrete value in the forward pass, and the gradient of its mean in the backward pass.

    .. math:: y = z + \pi - \mathrm{stop}(\pi), \quad z \sim q_\pi

    Shapes: values ``[num_samples, *batch, *event]``, exactly discrete. Bias: the gradient is unbiased for a cost that
    is linear in each variable, else biased; the forward value is unbiased. Cost: ``num_samples`` evaluations with a
    backward pass. Nodes: Bernoulli, OneHotCategorical, and ``Independent`` vectors of them.

    Bengio, Léonard and Courville (2013), Estimating or Propagating Gradients Through Stochastic Neurons.

    Parameters
    ----------
    num_samples : int
        Number of independent samples.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.ones((), requires_grad=True)  # E[(b - 0.3)^2] has the gradient 0.4 p (1 - p) = 0.08
    >>> q = Bernoulli(logits=logit.expand(100_000))
    >>> vaekit.expectation(lambda b: (b - 0.3) ** 2, q, vaekit.estimators.StraightThrough()).mean().backward()
    >>> round(logit.grad.item(), 2)
    0.17
    """

    requires_differentiable_cost = True
    unbiased = False
    has_correction = False
    handles_zero_probabilities = True

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        mean = unwrap_independent(q)[0].mean
        value = sample_discrete(q, shape, common_noise_dims) + (mean - mean.detach())
        return NodeSample(value, uniform_weight(value, q), None, q, equal_weights=True)
