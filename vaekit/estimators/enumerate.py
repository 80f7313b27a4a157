"""Exact summation over a small discrete space."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.discrete_support import log_prob, num_states, prob, states
from vaekit.estimators.estimator import Estimator, NodeSample, describe_distribution
from vaekit.exceptions import EstimatorError


class Enumerate(Estimator):
    r"""Sum over all values: the exact expectation and its exact gradient.

    .. math:: \nabla_\theta \sum_z q_\theta(z) f(z)
              = \sum_z (f(z) - E_q[f])\, \nabla_\theta q_\theta(z)

    The mean is taken away for its rounding alone: in float32 a large constant in the cost would not cancel.

    Shapes: values ``[states, *batch, *event]``, weights ``q(z)``. Bias and variance: none.
    Cost: as many evaluations as there are states; a vector of D variables with K values has K^D. Nodes:
    Bernoulli, Categorical, OneHotCategorical, Binomial, and ``Independent`` vectors of them.

    Parameters
    ----------
    max_states
        Budget: the largest product of rows over all nodes of the graph.

    Raises
    ------
    EstimatorError
        If the support is infinite, or the budget is exceeded.
    """

    supports_joint_samples = False
    higher_order = True
    uses_auxiliary_samples = True

    def __init__(self, max_states: int = 4096) -> None:
        super().__init__()
        if max_states < 1:
            raise EstimatorError(f"Enumerate: max_states is {max_states}, it must be at least 1")
        self.max_states = max_states

    @classmethod
    def supports(cls, q: Distribution) -> bool:
        """Tell whether the support of ``q`` is finite and can be listed."""
        return num_states(q) is not None

    def num_evaluations(self, q: Distribution) -> int:
        """Return the number of states, checked against the budget before anything is built."""
        count = num_states(q)
        if count is None:
            raise EstimatorError(f"Enumerate cannot list the support of {describe_distribution(q)}: it is not finite")
        self.check_budget(count, describe_distribution(q))
        return count

    def check_budget(self, count: int, what: str) -> None:
        """Raise an error if ``count`` rows, of ``what``, are more than the budget."""
        if count > self.max_states:
            raise EstimatorError(
                f"Enumerate: {what} has {count} states, over the budget of max_states={self.max_states}; raise the "
                "budget, or use ScoreFunction(baseline=LeaveOneOut())"
            )

    def sample(
        self, q: Distribution, sample_shape: torch.Size | None = None, common_noise_dims: tuple[int, ...] = ()
    ) -> NodeSample:
        """List all states with their probabilities (see the base class)."""
        if sample_shape is not None:
            raise EstimatorError("Enumerate lists all states and cannot draw single ones for joint trajectories")
        self.num_evaluations(q)
        value = states(q)
        share = prob(q, value)
        return NodeSample(value, share.detach(), log_prob(q, value), q, share)

    def correction(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return the sum over states of the centred cost times the probability's derivative, in each row.

        The cost of a state of probability 0 counts if it is finite: the probability may have a derivative there.
        """
        possible = draw.weight > 0
        mean = (draw.weight * torch.where(possible, cost, 0)).sum(0).detach()
        centred = torch.where(possible | cost.isfinite(), cost - mean, 0)
        return (centred * (draw.noise - draw.weight)).sum(0).expand(cost.shape)
