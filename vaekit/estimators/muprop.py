"""MuProp: the score function with a first-order expansion of the cost as its control variate."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.baselines import Baseline, resolve_num_samples
from vaekit.estimators.derivatives import learning_term
from vaekit.estimators.discrete_support import get_logits, is_bernoulli, log_prob, sample_discrete, unwrap_independent
from vaekit.estimators.node_sample import (
    NodeSample,
    average_batch,
    average_outer,
    pad_auxiliary,
    sum_event,
    uniform_weight,
)
from vaekit.estimators.noise import jacobian_product, zero_with_gradient
from vaekit.estimators.support import DiscreteEstimator
from vaekit.exceptions import EstimatorError


class MuProp(DiscreteEstimator):
    r"""Expansion of the cost around the mean: exact gradient of the expansion, score function of the remainder.

    .. math:: (f(b) - f(\mu) - f'(\mu)^T (b - \mu) - c)\, \nabla \log q(b) + f'(\mu)^T \nabla \mu, \quad \mu = E_q[b]

    The cost at the mean is often far from the mean cost; a baseline c subtracts the difference.

    Shapes: values ``[num_samples + 1, *batch, *event]``; the last one is the mean, an auxiliary sample. Bias: none.
    Cost: ``num_samples + 1`` evaluations, one of them at the mean, and one backward pass through that one. Nodes:
    Bernoulli, OneHotCategorical, and ``Independent`` vectors of them.

    Gu, Levine, Sutskever and Mnih (2016), MuProp: Unbiased Backpropagation for Stochastic Neural Networks.

    Parameters
    ----------
    num_samples : int or None
        Number of independent samples. None is 1, or 2 if the baseline compares samples (``LeaveOneOut``).
    baseline : Baseline or None
        Baseline of the remainder: ``MovingAverage``, ``LeaveOneOut`` or ``LearnedBaseline``. None subtracts nothing.

    Raises
    ------
    EstimatorError
        If ``num_samples`` is less than the baseline needs, or the baseline adds auxiliary samples (``SelfCritic``).

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.ones((), requires_grad=True)  # E[(b - 0.3)^2] has the gradient 0.4 p (1 - p) = 0.08
    >>> q = Bernoulli(logits=logit.expand(100_000))
    >>> vaekit.expectation(lambda b: (b - 0.3) ** 2, q, vaekit.estimators.MuProp()).mean().backward()
    >>> round(logit.grad.item(), 2)
    0.08
    """

    requires_differentiable_cost = True
    supports_joint_samples = False
    common_random_numbers = True
    uses_auxiliary_samples = True
    differentiates_cost = True

    def __init__(self, num_samples: int | None = None, baseline: Baseline | None = None) -> None:
        super().__init__(resolve_num_samples("MuProp", num_samples, baseline))
        if baseline is not None and baseline.num_auxiliary_samples:
            raise EstimatorError(
                f"MuProp: baseline={type(baseline).__name__}() must not add auxiliary samples, because the cost at the "
                "mean is known. Use MovingAverage, LeaveOneOut or LearnedBaseline."
            )
        self.baseline = baseline

    @override
    def num_evaluations(self, q: Distribution) -> int:
        return self.num_samples + 1

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        mean = unwrap_independent(q)[0].mean.detach().clone().requires_grad_()
        value = torch.cat([sample_discrete(q, shape, common_noise_dims), mean[None]])
        return NodeSample(value, uniform_weight(value, q, auxiliary=1), None, q, mean)

    @override
    def correction(self, sample: NodeSample, cost: Tensor) -> Tensor:
        q, mean, leaf = sample.q, unwrap_independent(sample.q)[0].mean, sample.noise
        if not (torch.is_grad_enabled() and mean.requires_grad):
            return cost.new_zeros(())
        slope: Tensor | float = 0.0
        if cost.requires_grad:
            at_mean = average_batch(sample, average_outer(sample, cost[-1:])).sum()
            (slope,) = torch.autograd.grad(at_mean, leaf, retain_graph=True, materialize_grads=True)
        value = sample.value[:-1].detach()
        residual = (cost[:-1] - cost[-1:]).detach() - sum_event(slope * (value - leaf.detach()), q)
        centered, loss = residual, None
        if self.baseline is not None:
            baseline = self.baseline(sample, residual)
            centered = residual - baseline.detach()
            loss = self.baseline.loss(residual, baseline) if self.baseline.training else None
        score = log_prob(q, value)
        # like the score, the derivative is by the logits: an impossible state contributes to neither
        linear = slope * jacobian_product(mean.detach(), zero_with_gradient(get_logits(q)), is_bernoulli(q))
        correction = centered * (score - score.detach()) + sum_event(linear, q)
        if loss is not None:
            correction = correction + learning_term(loss, self.follows_scale)
        return pad_auxiliary(correction, 1)

    @override
    def update(self, cost: Tensor, weight: Tensor) -> None:
        # the mean cost of the linear term is 0
        super().update(cost[:-1] - cost[-1:], weight[:-1])
