"""What REBAR and RELAX share: noise drawn twice, the second time given the discrete value."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.derivatives import learning_term
from vaekit.estimators.discrete_support import get_logits, is_bernoulli, is_one_hot, log_prob, unwrap_independent
from vaekit.estimators.estimator import Estimator
from vaekit.estimators.node_sample import NodeSample, average_batch, average_outer
from vaekit.estimators.noise import (
    conditional_gumbel,
    conditional_logistic,
    gumbel,
    logistic,
    zero_with_gradient,
)


class ConditionalNoise(NamedTuple):
    """The noise behind a discrete value, each ``[num_samples, *batch, *event]``.

    Attributes
    ----------
    logits
        A leaf: gradients end here, each sample has its own.
    free
        Perturbed logits z, whose sign or argmax is the value.
    given
        Perturbed logits drawn anew, given the value.
    binary
        Whether variables are Bernoulli rather than one-hot.
    """

    logits: Tensor
    perturbed: Tensor
    conditional: Tensor
    binary: bool


class ConditionalEstimator(Estimator):
    r"""The score function with a control variate c of the noise behind the value, made unbiased by conditioning.

    .. math:: (f(b) - c(\tilde z))\, \nabla_\phi \log q_\phi(b) + \nabla_\phi c(z) - \nabla_\phi c(\tilde z), \quad
              b = H(z), \quad z \sim p_\phi(z), \quad \tilde z \sim p_\phi(z | b)

    A subclass says what c is. Its own parameters follow the gradient of the estimate's mean square, which is that of
    the variance as the estimate is unbiased; they get no other gradient, and the model gets none from this one. Where
    nodes below this one are not pathwise, their corrections are right to first order alone, and the gradient of the
    mean square, which takes the second, is an approximation; the estimate is unbiased all the same.
    """

    supports_joint_samples = False
    common_random_numbers = True
    uses_auxiliary_samples = True
    differentiates_cost = True

    @classmethod
    def supports(cls, q: Distribution) -> bool:
        """Tell whether ``q`` is made of Bernoulli or one-hot categorical variables."""
        return is_bernoulli(q) or is_one_hot(q)

    @abstractmethod
    def relaxed_rows(self, noise: ConditionalNoise) -> Tensor | None:
        """Return values of weight 0 whose cost the control variate needs, ``[rows, *batch, *event]``, or None."""

    @abstractmethod
    def control_variate(self, draw: NodeSample, relaxed_cost: Tensor) -> tuple[Tensor, Tensor]:
        """Return c(z) and c(z~), broadcastable to ``[num_samples, *batch]``; ``relaxed_cost``: of the relaxed rows."""

    def relax(self, noise: ConditionalNoise, temperature: Tensor) -> Tensor:
        """Return relaxed values of both noises; the temperature learns in training alone."""
        perturbed = torch.cat([noise.perturbed, noise.conditional])
        return relax(perturbed, temperature if self.training else temperature.detach(), noise.binary)

    @override
    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        """Draw discrete values and the noise behind them (see the base class)."""
        binary, shape = is_bernoulli(q), shape
        logits = get_logits(q).detach()
        logits = logits.expand(shape + logits.shape).contiguous().requires_grad_()
        if binary:
            free = logits + logistic(logits, common_noise_dims)
            value = (free > 0).to(logits.dtype)
            noise = ConditionalNoise(logits, free, conditional_logistic(logits, value, common_noise_dims), True)
        else:
            free = logits.log_softmax(-1) + gumbel(logits, common_noise_dims)
            value = torch.zeros_like(free).scatter_(-1, free.argmax(-1, keepdim=True), 1.0)
            noise = ConditionalNoise(logits, free, conditional_gumbel(logits, value, common_noise_dims), False)
        relaxed = self.relaxed_rows(noise)
        rows = value if relaxed is None else torch.cat([value, relaxed])
        weight = logits.new_zeros(len(rows), *[1] * (rows.dim() - len(q.event_shape) - 1))
        weight[: len(value)] = 1 / len(value)
        return NodeSample(rows, weight, log_prob(q, value) if relaxed is None else None, q, noise)

    def correction(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return the estimate, and what trains the control variate (see the base class)."""
        logits, noise, event = get_logits(draw.q), draw.noise, tuple(range(-len(draw.q.event_shape), 0))
        if not (torch.is_grad_enabled() and logits.requires_grad):
            return cost.new_zeros(())
        learned = [p for p in self.parameters() if p.requires_grad and self.training]
        samples = len(noise.logits)
        pair = self.control_variate(draw, cost[samples:])
        free, given = (average_batch(draw, average_outer(draw, value)) for value in pair)
        difference = (free - given).sum()
        path: Tensor | float = 0.0
        if difference.requires_grad:
            (path,) = torch.autograd.grad(
                difference, noise.logits, create_graph=bool(learned), retain_graph=True, materialize_grads=True
            )
        residual = average_outer(draw, cost[:samples].detach()) - given
        score = draw.value[:samples].detach() - unwrap_independent(draw.q)[0].mean.detach()
        estimate = residual[(...,) + (None,) * len(event)] * score + path
        correction = estimate.detach() * zero_with_gradient(logits)
        correction = correction.sum(event) if event else correction
        if learned:
            variance = estimate.square().sum() / correction.numel()
            gradients = torch.autograd.grad(variance, learned, retain_graph=True, materialize_grads=True)
            linear = sum(((p * g).sum() for p, g in zip(learned, gradients, strict=True)), start=estimate.new_zeros(()))
            correction = correction + learning_term(linear.expand_as(correction), self.follows_scale)
        zeros = correction.new_zeros(len(draw.value) - samples, *correction.shape[1:])
        return torch.cat([correction, zeros])


def relax(perturbed: Tensor, temperature: Tensor, binary: bool) -> Tensor:
    """Return relaxed values from perturbed logits: a sigmoid, or a softmax over the last axis.

    A value that is impossible, or certain, is so at any temperature: its derivative by that is 0, not NaN.
    """
    settled = perturbed.isinf()
    scaled = perturbed.masked_fill(settled, 0) / temperature.to(perturbed.dtype)
    scaled = torch.where(settled, perturbed, scaled)
    return scaled.sigmoid() if binary else scaled.softmax(-1)
