"""Augment-REINFORCE-merge: gradients of binary variables from antithetic pairs of uniforms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.disarm import antithetic, sum_variables
from vaekit.estimators.discrete_support import get_logits, is_bernoulli, log_prob
from vaekit.estimators.estimator import Estimator
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.noise import zero_with_gradient


class ARM(Estimator):
    r"""Difference of the costs of two values that come from one uniform variable and its mirror image.

    .. math:: \nabla_\phi E[f(b)] = E[(f(b) - f(\tilde b)) (u - \tfrac12)], \quad
              b = 1[u > \sigma(-\phi)], \quad \tilde b = 1[u < \sigma(\phi)], \quad u \sim U(0, 1)

    for logits :math:`\phi`. All variables of a vector are mirrored together, so the cost always receives a whole
    vector. ``DisARM`` integrates u out, and its variance is never larger.

    Shapes: values ``[2 num_samples, *batch, *event]``, first the values, then their mirror images, which have the
    distribution of the node, too. Bias: none. Cost: ``2 num_samples`` evaluations and no backward pass through the
    cost for the gradient of this node. Nodes: Bernoulli, and ``Independent`` vectors of them.

    Yin and Zhou (2019), ARM: Augment-REINFORCE-Merge Gradient for Stochastic Binary Networks.

    Parameters
    ----------
    num_samples : int
        Number of independent pairs.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.ones((), requires_grad=True)  # E[(b - 0.3)^2] has the gradient 0.4 p (1 - p) = 0.08
    >>> q = Bernoulli(logits=logit.expand(100_000))
    >>> vaekit.expectation(lambda b: (b - 0.3) ** 2, q, vaekit.estimators.ARM()).mean().backward()
    >>> round(logit.grad.item(), 2)
    0.08
    """

    supports_joint_samples = False
    common_random_numbers = True
    evaluations_per_sample = 2

    @classmethod
    @override
    def supports(cls, q: Distribution) -> bool:
        return is_bernoulli(q)

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        logits = get_logits(q)
        uniform = torch.rand(shape + logits.shape, dtype=logits.dtype, device=logits.device)
        value = torch.cat(antithetic(logits.detach(), uniform)).to(logits.dtype)
        score = log_prob(q, value)
        return NodeSample(value, uniform_weight(value, q, score.dtype), score, q, uniform)

    @override
    def correction(self, sample: NodeSample, cost: Tensor) -> Tensor:
        first, second = cost.detach().chunk(2)
        score = (sample.noise - 0.5) * zero_with_gradient(get_logits(sample.q))
        pair = (first - second) * sum_variables(score, sample.q)
        return torch.cat([pair, pair])
