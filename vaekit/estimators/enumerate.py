"""Exact summation over a small discrete space."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.base import Draw, Estimator, describe
from vaekit.estimators.derivatives import likelihood_ratio
from vaekit.estimators.discrete import num_states, states
from vaekit.exceptions import EstimatorError


class Enumerate(Estimator):
    r"""Sum over all values: the exact expectation and its exact gradient.

    .. math:: \nabla_\theta \sum_z q_\theta(z) f(z)
              = \sum_z q_\theta(z) (f(z) - E_q[f])\, \nabla_\theta \log q_\theta(z)

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

    joint = False
    higher_order = True

    def __init__(self, max_states: int = 4096) -> None:
        super().__init__()
        if max_states < 1:
            raise EstimatorError(f"Enumerate: max_states is {max_states}, it must be at least 1")
        self.max_states = max_states

    @classmethod
    def fits(cls, q: Distribution) -> bool:
        """Tell whether the support of ``q`` is finite and can be listed."""
        return num_states(q) is not None

    def rows(self, q: Distribution) -> int:
        """Return the number of states, checked against the budget before anything is built."""
        count = num_states(q)
        if count is None:
            raise EstimatorError(f"Enumerate cannot list the support of {describe(q)}: it is not finite")
        self.check_budget(count, describe(q))
        return count

    def check_budget(self, count: int, what: str) -> None:
        """Raise an error if ``count`` rows, of ``what``, are more than the budget."""
        if count > self.max_states:
            raise EstimatorError(
                f"Enumerate: {what} has {count} states, over the budget of max_states={self.max_states}; raise the "
                "budget, or use ScoreFunction(baseline=LeaveOneOut())"
            )

    def draw(self, q: Distribution, sample_shape: torch.Size | None = None, shared: tuple[int, ...] = ()) -> Draw:
        """List all states with their probabilities (see the base class)."""
        if sample_shape is not None:
            raise EstimatorError("Enumerate lists all states and cannot draw single ones for joint trajectories")
        self.rows(q)
        value = states(q)
        log_prob = q.log_prob(value)
        return Draw(value, log_prob.detach().exp(), log_prob, q)

    def correction(self, draw: Draw, cost: Tensor) -> Tensor:
        """Return the centred cost times the score; a state of probability 0 has none (see the base class)."""
        assert draw.log_prob is not None  # draw() above fills it
        possible = draw.weight > 0
        cost = torch.where(possible, cost, 0)
        centred = cost - (draw.weight * cost).sum(0).detach()
        return centred * likelihood_ratio(torch.where(possible, draw.log_prob, 0))
