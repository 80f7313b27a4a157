"""MuProp: the score function with a first-order expansion of the cost as its control variate."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.baselines import Baseline
from vaekit.estimators.derivatives import learning_term
from vaekit.estimators.discrete_support import (
    get_logits,
    is_bernoulli,
    is_one_hot,
    log_prob,
    sample_discrete,
    unwrap_independent,
)
from vaekit.estimators.estimator import Estimator
from vaekit.estimators.node_sample import NodeSample, average_batch, average_outer, uniform_weight
from vaekit.estimators.noise import jacobian_product, zero_with_gradient
from vaekit.exceptions import EstimatorError


class MuProp(Estimator):
    r"""Score function of what a Taylor expansion around the mean leaves, and the exact gradient of the expansion.

    .. math:: (f(b) - f(\mu) - f'(\mu)^T (b - \mu) - c)\, \nabla \log q(b) + f'(\mu)^T \nabla \mu, \quad \mu = E_q[b]

    The cost at the mean is often far from the mean cost: a baseline c takes the difference away.

    Shapes: values ``[num_samples + 1, *batch, *event]``, the last row the mean, of weight 0. Bias: none. Cost:
    ``num_samples + 1`` evaluations, one of them at the mean, and one backward pass through that one. Nodes: Bernoulli,
    OneHotCategorical, and ``Independent`` vectors of them.

    Gu, Levine, Sutskever and Mnih (2016), MuProp: Unbiased Backpropagation for Stochastic Neural Networks.

    Parameters
    ----------
    num_samples
        Independent draws; None is 1, or 2 where the baseline compares draws (``LeaveOneOut``).
    baseline
        Predicts what the expansion leaves: None, ``MovingAverage``, ``LeaveOneOut``, ``Learned``.

    Raises
    ------
    EstimatorError
        If ``num_samples`` is fewer than the baseline needs, or the baseline needs rows of its own (``SelfCritic``).
    """

    requires_differentiable_cost = True
    supports_joint_samples = False
    common_random_numbers = True
    uses_auxiliary_samples = True
    differentiates_cost = True

    def __init__(self, num_samples: int | None = None, baseline: Baseline | None = None) -> None:
        needed = 1 if baseline is None else baseline.min_samples
        super().__init__(needed if num_samples is None else num_samples)
        name = type(baseline).__name__
        if self.num_samples < needed:
            raise EstimatorError(f"MuProp: num_samples is {num_samples}, but {name} compares draws: at least {needed}")
        if baseline is not None and baseline.num_auxiliary_samples:
            raise EstimatorError(
                f"MuProp: {name} adds a row, and the mean is there already; use MovingAverage, LeaveOneOut or Learned"
            )
        self.baseline = baseline

    @classmethod
    def supports(cls, q: Distribution) -> bool:
        """Tell whether ``q`` is made of Bernoulli or one-hot categorical variables."""
        return is_bernoulli(q) or is_one_hot(q)

    def num_evaluations(self, q: Distribution) -> int:
        """Return the draws, and the mean."""
        return self.num_samples + 1

    @override
    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        """Draw discrete values, and add the mean as a leaf (see the base class)."""
        mean = unwrap_independent(q)[0].mean.detach().clone().requires_grad_()
        real = sample_discrete(q, shape, common_noise_dims)
        value = torch.cat([real, mean[None]])
        weight = uniform_weight(value, q) * (len(value) / len(real))
        weight[len(real) :] = 0
        return NodeSample(value, weight, None, q, mean)

    def correction(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return the estimate (see the base class)."""
        mean = unwrap_independent(draw.q)[0].mean
        if not (torch.is_grad_enabled() and mean.requires_grad):
            return cost.new_zeros(())
        leaf, event = draw.noise, tuple(range(-len(draw.q.event_shape), 0))
        slope: Tensor | float = 0.0
        if cost.requires_grad:
            at_mean = average_batch(draw, average_outer(draw, cost[-1:])).sum()
            (slope,) = torch.autograd.grad(at_mean, leaf, retain_graph=True, materialize_grads=True)
        step = slope * (draw.value[:-1].detach() - leaf.detach())
        step = step.sum(event) if event else step
        residual = (cost[:-1] - cost[-1:]).detach() - step
        centred, learning = residual, None
        if self.baseline is not None:
            baseline = self.baseline(draw, residual)
            centred = residual - baseline.detach()
            learning = self.baseline.loss(residual, baseline) if self.baseline.training else None
        score = log_prob(draw.q, draw.value[:-1].detach())
        # by the logits, as the score: an impossible state then has no share in either
        linear = slope * jacobian_product(mean.detach(), zero_with_gradient(get_logits(draw.q)), is_bernoulli(draw.q))
        linear = linear.sum(event) if event else linear
        correction = centred * (score - score.detach()) + linear
        if learning is not None:
            correction = correction + learning_term(learning, self.follows_scale)
        return torch.cat([correction, correction.new_zeros(1, *correction.shape[1:])])

    def build(self, context_features: int, size: int, ancestor_features: int = 0) -> None:
        """Make the baseline's layers (see the base class)."""
        if self.baseline is not None:
            self.baseline.build(context_features)

    @property
    def is_stateful(self) -> bool:
        """Whether the baseline learns from the costs, in training."""
        return self.baseline is not None and self.baseline.is_stateful and self.baseline.training

    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Let the baseline see the costs less that at the mean; the linear term has the mean 0 (see the base class)."""
        if self.baseline is not None:
            self.baseline.update(cost[:-1] - cost[-1:], weight[:-1])
