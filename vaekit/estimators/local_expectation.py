"""Local expectation gradients: each variable of a vector enumerated, the others held at their draws."""

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
    is_one_hot,
    log_prob,
    sample_discrete,
    unwrap_independent,
)
from vaekit.estimators.estimator import Estimator
from vaekit.estimators.node_sample import NodeSample


class LocalExpectation(Estimator):
    r"""Sum exactly over the values of one variable at a time, with the other variables held at a draw.

    .. math:: \nabla_\theta E_q[f(z)] = E_z\Big[\sum_d \sum_k \nabla_\theta q_d(k)\, f(z_{-d}, k)\Big]

    The forward value is such a sum as well, averaged over the variables: :math:`\frac{1}{D} \sum_d \sum_k q_d(k)
    f(z_{-d}, k)`, so that its variance, and that of the gradient of the cost's own parameters, is lower than with
    the draws alone. A single variable is summed exactly, as by ``Enumerate``.

    Shapes: values ``[num_samples (1 + D (K - 1)), *batch, *event]`` for D variables with K values: the draws, then
    each variable's other values in turn. Bias: none. Cost: as many evaluations as rows, and no backward pass
    through the cost for the gradient of this node. Nodes: Bernoulli, OneHotCategorical, and ``Independent`` vectors
    of them.

    Titsias and Lázaro-Gredilla (2015), Local Expectation Gradients for Black Box Variational Inference.

    Parameters
    ----------
    num_samples
        Independent draws of the whole vector.
    """

    supports_joint_samples = False
    higher_order = True
    common_random_numbers = True
    uses_auxiliary_samples = True
    lists_states = True
    handles_zero_probabilities = True

    @classmethod
    def supports(cls, q: Distribution) -> bool:
        """Tell whether ``q`` is made of Bernoulli or one-hot categorical variables."""
        return is_bernoulli(q) or is_one_hot(q)

    def num_evaluations(self, q: Distribution) -> int:
        """Return the number of draws times one and each variable's other values."""
        base, declared = unwrap_independent(q)
        variables = base.batch_shape[len(base.batch_shape) - declared :].numel()
        others = 1 if is_bernoulli(q) else base.event_shape[0] - 1
        return self.num_samples * (1 + variables * others)

    @override
    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        """Draw vectors and list their neighbours; the noise is the probabilities of these and of variables before."""
        logits, given, rank = get_logits(q), given_probs(unwrap_independent(q)[0]), len(q.batch_shape)
        if given is None:  # in place of 1 - p, which rounds
            given, rest = (logits.sigmoid(), (-logits).sigmoid()) if is_bernoulli(q) else (logits.softmax(-1), logits)
        else:
            rest = 1 - given
        width = () if is_bernoulli(q) else logits.shape[-1:]
        flat = (*q.batch_shape, -1, *width)  # [*batch, D], or [*batch, D, K]
        drawn = sample_discrete(q, torch.Size([self.num_samples])).reshape(self.num_samples, *flat)
        given, rest = given.reshape(flat), rest.reshape(flat)
        if is_bernoulli(q):
            changed = 1 - drawn[None]  # [1, samples, *batch, D]
            own, other = (torch.where(v > 0, given, rest) for v in (drawn, changed))
        else:
            shifts = range(1, logits.shape[-1])
            changed = torch.stack([drawn.roll(shift, -1) for shift in shifts])  # [K - 1, samples, *batch, D, K]
            own, other = ((v * given).sum(-1) for v in (drawn, changed))
        variables = own.shape[-1]
        one = torch.eye(variables, dtype=torch.bool, device=drawn.device)
        one = one.reshape(variables, *[1] * (2 + rank), variables, *[1] * len(width))
        neighbours = torch.where(one, changed, drawn).flatten(0, 1)  # [D (K - 1), samples, *batch, D]
        value = torch.cat([drawn[None], neighbours]).flatten(0, 1).reshape(-1, *q.batch_shape, *q.event_shape)
        other = other.movedim(-1, 0).flatten(0, 1)  # [D (K - 1), samples, *batch]
        weight = torch.cat([own.sum(-1)[None], other]).detach().flatten(0, 1) / (variables * self.num_samples)
        score = own.log()
        before = (score.cumsum(-1) - score).movedim(-1, 0)[:, None].expand(variables, len(changed), *own.shape[:-1])
        return NodeSample(value, weight, log_prob(q, value), q, (other, before.flatten(0, 1)))

    def correction(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return the sum over variables and values in each row of a draw (see the base class)."""
        cost, (other, before) = cost.unflatten(0, (-1, self.num_samples)), draw.noise
        # probabilities sum to 1: their gradients weigh the difference from the draw's own cost. The product over all
        # variables telescopes: (q_d - q_d.detach()) has q in front of it, and q.detach() after it
        change = (other - other.detach()) * (1 + likelihood_ratio(before))
        # a neighbour of probability 0 may have any cost
        difference = torch.where((other > 0) | cost[1:].isfinite(), cost[1:] - cost[:1], 0)
        total = (change * difference).sum(0)
        return total.expand(cost.shape).flatten(0, 1)
