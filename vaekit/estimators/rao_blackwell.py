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
    r"""Sum over the most probable states ``C``, and sample the others from what remains of the distribution.

    .. math:: \nabla_\theta E_q[f(z)] = \sum_{z \in C} f(z)\, \nabla_\theta q_\theta(z)
        + r\, E_{q(z \mid z \notin C)}[f(z)\, \nabla_\theta \log q_\theta(z)], \quad r = 1 - q(C)

    Of the second part, ``f(z) grad r`` stays with the exact rows, and the rest has a baseline: the other sampled
    states, or with one sample the mean over the exact ones. Where all states take no more rows, all are summed.

    Shapes: values ``[num_exact + num_samples, *batch, *event]``, weights ``q(z)`` and ``r / num_samples``. Bias:
    none; the variance falls with ``r``. Cost: ``num_exact + num_samples`` evaluations without a backward pass for
    the gradient of this node, and the probability of every state. Nodes: Bernoulli, Categorical, OneHotCategorical,
    Binomial, and ``Independent`` vectors of them, of at most 4096 states together.

    Liu, Regier, Tripuraneni, Jordan and McAuliffe (2019), Rao-Blackwellized Stochastic Gradients for Discrete
    Distributions.

    Parameters
    ----------
    num_exact
        States that are summed exactly.
    num_samples
        Independent draws from the remaining states.

    Raises
    ------
    EstimatorError
        If a number is below 1, or the node has too many states.
    """

    def __init__(self, num_exact: int = 1, num_samples: int = 1) -> None:
        super().__init__(num_samples)
        if num_exact < 1:
            raise EstimatorError(
                f"RaoBlackwell: num_exact is {num_exact}, it must be at least 1 (or use ScoreFunction)"
            )
        self.num_exact = num_exact

    def num_evaluations(self, q: Distribution) -> int:
        """Return the number of exact and sampled states, at most that of all states."""
        return min(self.num_exact + self.num_samples, self.count_states(q))

    @override
    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        """Take the most probable states and sample the others (see the base class)."""
        value, log_prob = self.list_states(q)
        if self.num_exact + self.num_samples >= len(value):
            return NodeSample(value, log_prob.detach().softmax(0), log_prob, q)
        exact = log_prob.detach().topk(self.num_exact, 0).indices
        rest = log_prob.scatter(0, exact, -math.inf)
        remainder = rest.logsumexp(0)
        copies = rest.detach().expand(self.num_samples, *rest.shape)
        index = torch.cat([exact, perturb(copies).argmax(1)])
        log_prob = log_prob.gather(0, index)
        share = (remainder - math.log(self.num_samples)).expand(self.num_samples, *remainder.shape)
        weight = torch.cat([log_prob[: self.num_exact], share]).detach().softmax(0)
        return NodeSample(select_states(value, index, q), weight, log_prob, q, remainder)

    def correction(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return the costs, less baselines, times the scores: whole ones, or within the remainder."""
        assert draw.log_prob is not None  # draw() above always fills it
        ratio = likelihood_ratio(draw.log_prob)
        if draw.noise is None:  # all states are there, and the sum of q grad log q is 0
            return (cost - (draw.weight * cost).sum(0).detach()) * ratio
        exact, sampled = cost[: self.num_exact], cost[self.num_exact :]
        if self.num_samples > 1:
            baseline = (sampled.sum(0) - sampled) / (self.num_samples - 1)
        else:
            baseline = (draw.log_prob[: self.num_exact].softmax(0) * exact).sum(0)
        within = ratio[self.num_exact :] - likelihood_ratio(draw.noise)
        # the ratios less 1, weighted by q, sum to -(r - r.detach()): to subtract the sampled mean here is to add f(z) r
        own, rest = (exact - sampled.mean(0)) * ratio[: self.num_exact], (sampled - baseline.detach()) * within
        return torch.cat([own, rest])
