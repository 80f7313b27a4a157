"""Rao-Blackwellized score function: sum the most probable states exactly, sample the rest."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.derivatives import likelihood_ratio
from vaekit.estimators.node_sample import NodeSample
from vaekit.estimators.support import FiniteSupportEstimator, perturb, select_states
from vaekit.exceptions import EstimatorError


class RaoBlackwell(FiniteSupportEstimator):
    r"""Exact sum over the most probable states ``C``, and samples of the remaining ones.

    .. math:: \nabla_\theta E_q[f(z)] = \sum_{z \in C} f(z)\, \nabla_\theta q_\theta(z)
        + r\, E_{q(z \mid z \notin C)}[f(z)\, \nabla_\theta \log q_\theta(z)], \quad r = 1 - q(C)

    In the second term, the part ``f(z) grad r`` is combined with the exact states. The rest has a baseline: the mean
    cost of the other sampled states, or with one sample the mean over the exact states. If ``num_exact + num_samples``
    covers all states, all are summed.

    Shapes: values ``[num_exact + num_samples, *batch, *event]``, weights ``q(z)`` and ``r / num_samples``. Bias:
    none; the variance falls with ``r``. Cost: ``num_exact + num_samples`` evaluations without a backward pass for
    the gradient of this node, and the probability of every state. Nodes: Bernoulli, Categorical, OneHotCategorical,
    Binomial, and ``Independent`` vectors of them, of at most 4096 states together.

    Liu, Regier, Tripuraneni, Jordan and McAuliffe (2019), Rao-Blackwellized Stochastic Gradients for Discrete
    Distributions.

    Parameters
    ----------
    num_exact : int
        Number of states that are summed exactly.
    num_samples : int
        Number of independent samples from the remaining states.

    Raises
    ------
    EstimatorError
        If a number is less than 1, or the node has too many states.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Categorical
    >>> logits = torch.zeros(4, requires_grad=True)
    >>> q = Categorical(logits=logits.expand(100_000, 4))
    >>> cost = lambda state: state.float()  # 0, 1, 2 or 3
    >>> vaekit.expectation(cost, q, vaekit.estimators.RaoBlackwell(num_exact=2)).mean().backward()
    >>> [round(value, 1) for value in (8 * logits.grad).tolist()]  # exact: -3, -1, 1, 3
    [-3.0, -1.0, 1.0, 3.0]
    """

    def __init__(self, num_exact: int = 1, num_samples: int = 1) -> None:
        super().__init__(num_samples)
        if num_exact < 1:
            raise EstimatorError(f"RaoBlackwell: num_exact={num_exact} must be at least 1. Use ScoreFunction() for 0.")
        self.num_exact = num_exact

    @override
    def num_evaluations(self, q: Distribution) -> int:
        return min(self.num_exact + self.num_samples, self.count_states(q))

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        value, log_prob = self.list_states(q)
        if self.num_exact + self.num_samples >= len(value):
            return NodeSample(value, log_prob.detach().softmax(0), log_prob, q)
        exact = log_prob.detach().topk(self.num_exact, 0).indices
        rest = log_prob.scatter(0, exact, -math.inf)
        remainder = rest.logsumexp(0)
        copies = rest.detach().expand(self.num_samples, *rest.shape)
        index = torch.cat([exact, perturb(copies).argmax(1)])
        log_prob = log_prob.gather(0, index)
        log_weight = (remainder - math.log(self.num_samples)).expand(self.num_samples, *remainder.shape)
        weight = torch.cat([log_prob[: self.num_exact], log_weight]).detach().softmax(0)
        return NodeSample(select_states(value, index, q), weight, log_prob, q, remainder)

    @override
    def correction(self, sample: NodeSample, cost: Tensor) -> Tensor:
        assert sample.log_prob is not None  # always present in samples of this class
        ratio = likelihood_ratio(sample.log_prob)
        if sample.noise is None:  # all states are listed, and the sum of q grad log q is 0
            return (cost - (sample.weight * cost).sum(0).detach()) * ratio
        exact, sampled = cost[: self.num_exact], cost[self.num_exact :]
        if self.num_samples > 1:
            baseline = (sampled.sum(0) - sampled) / (self.num_samples - 1)
        else:
            baseline = (sample.log_prob[: self.num_exact].softmax(0) * exact).sum(0)
        within = ratio[self.num_exact :] - likelihood_ratio(sample.noise)
        # the ratios minus 1, weighted by q, sum to -(r - r.detach()): subtracting the sampled mean adds f(z) r
        exact_term = (exact - sampled.mean(0)) * ratio[: self.num_exact]
        return torch.cat([exact_term, (sampled - baseline.detach()) * within])
