"""Exact summation over a small discrete space."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.discrete_support import log_prob, prob, states
from vaekit.estimators.node_sample import NodeSample
from vaekit.estimators.support import MAX_STATES, FiniteSupportEstimator
from vaekit.exceptions import EstimatorError


class Enumerate(FiniteSupportEstimator):
    r"""Sum over all states: the exact expectation and its exact gradient.

    .. math:: \nabla_\theta \sum_z q_\theta(z) f(z)
              = \sum_z (f(z) - E_q[f])\, \nabla_\theta q_\theta(z)

    Subtracting the mean only improves the rounding: a large constant in the cost would not cancel in float32.

    Shapes: values ``[states, *batch, *event]``, weights ``q(z)``. Bias and variance: none. Cost: one evaluation per
    state, K^D for a vector of D variables with K categories. Nodes: Bernoulli, Categorical, OneHotCategorical,
    Binomial, and ``Independent`` vectors of them.

    Parameters
    ----------
    max_states : int
        Budget: the largest product of the numbers of samples over all nodes of the graph.

    Raises
    ------
    EstimatorError
        If ``max_states`` is less than 1, the support is infinite, or the budget is exceeded.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.ones((), requires_grad=True)  # E[(b - 0.3)^2] has the gradient 0.4 p (1 - p) = 0.08
    >>> q = Bernoulli(logits=logit.expand(100_000))
    >>> vaekit.expectation(lambda b: (b - 0.3) ** 2, q, vaekit.estimators.Enumerate()).mean().backward()
    >>> round(logit.grad.item(), 2)
    0.08
    """

    remedy = "Increase max_states, or use ScoreFunction(baseline=LeaveOneOut())."
    is_deterministic = True
    suits_evaluation = True
    uses_auxiliary_samples = True
    handles_zero_probabilities = True

    def __init__(self, max_states: int = MAX_STATES) -> None:
        super().__init__()
        if max_states < 1:
            raise EstimatorError(f"Enumerate: max_states={max_states} must be at least 1.")
        self.max_states = max_states

    @override
    def num_evaluations(self, q: Distribution) -> int:
        return self.count_states(q)

    @override
    def check_budget(self, num_evaluations: int, subject: str) -> None:
        self._check_count(num_evaluations, subject)

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        self.count_states(q)
        value = states(q)
        probability = prob(q, value)
        return NodeSample(value, probability.detach(), log_prob(q, value), q, probability)

    @override
    def correction(self, sample: NodeSample, cost: Tensor) -> Tensor:
        # the cost of a state of probability 0 counts if it is finite: the probability may have a derivative there
        possible = sample.weight > 0
        mean = (sample.weight * torch.where(possible, cost, 0)).sum(0).detach()
        centered = torch.where(possible | cost.isfinite(), cost - mean, 0)
        return (centered * (sample.noise - sample.weight)).sum(0).expand(cost.shape)
