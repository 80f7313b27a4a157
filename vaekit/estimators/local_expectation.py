"""Local expectation gradients: enumerate one variable of a vector at a time, with the others held fixed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.distributions.precise import given_probs
from vaekit.estimators.derivatives import likelihood_ratio
from vaekit.estimators.discrete_support import (
    get_logits,
    is_bernoulli,
    log_prob,
    num_variables,
    replace_each_variable,
    sample_discrete,
    unwrap_independent,
)
from vaekit.estimators.node_sample import NodeSample
from vaekit.estimators.noise import to_probs
from vaekit.estimators.support import DiscreteEstimator


class LocalExpectation(DiscreteEstimator):
    r"""Exact sum over the values of one variable at a time, with the other variables held at a sample.

    .. math:: \nabla_\theta E_q[f(z)] = E_z\Big[\sum_d \sum_k \nabla_\theta q_d(k)\, f(z_{-d}, k)\Big]

    The forward value is such a sum as well, averaged over the variables: :math:`\frac{1}{D} \sum_d \sum_k q_d(k)
    f(z_{-d}, k)`. It therefore has a lower variance than the samples alone, and so has the gradient with respect to
    parameters of the cost. A single variable is summed exactly, as by ``Enumerate``.

    Shapes: values ``[num_samples (1 + D (K - 1)), *batch, *event]`` for D variables with K categories: the samples,
    followed by the other values of each variable. Bias: none. Cost: one evaluation per value, and no backward pass
    through the cost for the gradient of this node. Nodes: Bernoulli, OneHotCategorical, and ``Independent`` vectors of
    them.

    Titsias and Lázaro-Gredilla (2015), Local Expectation Gradients for Black Box Variational Inference.

    Parameters
    ----------
    num_samples : int
        Number of independent samples of the whole vector.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli, Independent
    >>> logits = torch.zeros(8, requires_grad=True)
    >>> q = Independent(Bernoulli(logits=logits), 1)  # eight bits: 1 + 8 evaluations of the cost
    >>> vaekit.expectation(lambda bits: bits.sum(-1), q, vaekit.estimators.LocalExpectation()).backward()
    >>> logits.grad  # exact for a sum of terms with one bit each
    tensor([0.2500, 0.2500, 0.2500, 0.2500, 0.2500, 0.2500, 0.2500, 0.2500])
    """

    supports_joint_samples = False
    higher_order = True
    common_random_numbers = True
    uses_auxiliary_samples = True
    lists_states = True
    handles_zero_probabilities = True

    @override
    def num_evaluations(self, q: Distribution) -> int:
        other_values = 1 if is_bernoulli(q) else q.event_shape[-1] - 1
        return self.num_samples * (1 + num_variables(q) * other_values)

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        logits, probs, binary = get_logits(q), given_probs(unwrap_independent(q)[0]), is_bernoulli(q)
        if probs is None:  # the difference 1 - p would be rounded
            probs, rest = to_probs(logits, binary), to_probs(-logits, binary) if binary else logits
        else:
            rest = 1 - probs
        width = () if binary else logits.shape[-1:]
        flat = (*q.batch_shape, -1, *width)  # [*batch, D], or [*batch, D, K]
        value = sample_discrete(q, shape).reshape(*shape, *flat)
        probs, rest = probs.reshape(flat), rest.reshape(flat)
        if binary:
            changed = 1 - value[None]  # [1, samples, *batch, D]
            prob, other_prob = (torch.where(v > 0, probs, rest) for v in (value, changed))
        else:  # [K - 1, samples, *batch, D, K]
            changed = torch.stack([value.roll(shift, -1) for shift in range(1, logits.shape[-1])])
            prob, other_prob = ((v * probs).sum(-1) for v in (value, changed))
        variables = prob.shape[-1]
        neighbors = replace_each_variable(value, changed, len(width)).flatten(0, 1)  # [D (K - 1), samples, *batch, D]
        values = torch.cat([value[None], neighbors]).flatten(0, 1).reshape(-1, *q.batch_shape, *q.event_shape)
        other_prob = other_prob.movedim(-1, 0).flatten(0, 1)  # [D (K - 1), samples, *batch]
        weight = torch.cat([prob.sum(-1)[None], other_prob]).detach().flatten(0, 1) / (variables * self.num_samples)
        score = prob.log()
        before = (score.cumsum(-1) - score).movedim(-1, 0)[:, None].expand(variables, len(changed), *prob.shape[:-1])
        return NodeSample(values, weight, log_prob(q, values), q, (other_prob, before.flatten(0, 1)))

    @override
    def correction(self, sample: NodeSample, cost: Tensor) -> Tensor:
        cost, (other_prob, before) = cost.unflatten(0, (-1, self.num_samples)), sample.noise
        # Probabilities sum to 1, so their gradients weight the difference from the cost of the sample. The product over
        # all variables telescopes: (q_d - q_d.detach()) has q before it and q.detach() after it.
        change = (other_prob - other_prob.detach()) * (1 + likelihood_ratio(before))
        # a neighbor of probability 0 may have any cost
        difference = torch.where((other_prob > 0) | cost[1:].isfinite(), cost[1:] - cost[:1], 0)
        return (change * difference).sum(0).expand(cost.shape).flatten(0, 1)
