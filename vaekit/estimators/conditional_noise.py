"""Base class of REBAR and RELAX: noise that is sampled again, conditional on the discrete value."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.derivatives import learning_term
from vaekit.estimators.discrete_support import get_logits, is_bernoulli, log_prob, unwrap_independent
from vaekit.estimators.node_sample import (
    NodeSample,
    average_batch,
    average_outer,
    pad_auxiliary,
    sum_event,
    uniform_weight,
)
from vaekit.estimators.noise import conditional_noise, gumbel, logistic, to_discrete, to_probs, zero_with_gradient
from vaekit.estimators.support import DiscreteEstimator
from vaekit.exceptions import EstimatorError


class ConditionalNoise(NamedTuple):
    """Noise of a discrete value; each tensor has the shape (num_samples, *batch, *event).

    Attributes
    ----------
    logits : Tensor
        Logits of each sample, as a leaf at which gradients end.
    perturbed : Tensor
        Perturbed logits z, whose sign or argmax is the value.
    conditional : Tensor
        Perturbed logits that are sampled again, conditional on the value.
    binary : bool
        Whether the variables are Bernoulli rather than one-hot.
    """

    logits: Tensor
    perturbed: Tensor
    conditional: Tensor
    binary: bool


class ConditionalEstimator(DiscreteEstimator):
    r"""The score function with a control variate c of the noise, made unbiased by conditioning on the value.

    .. math:: (f(b) - c(\tilde z))\, \nabla_\phi \log q_\phi(b) + \nabla_\phi c(z) - \nabla_\phi c(\tilde z), \quad
              b = H(z), \quad z \sim p_\phi(z), \quad \tilde z \sim p_\phi(z | b)

    A subclass defines c. The parameters of c receive only the gradient of the estimate's mean square, which equals
    the gradient of the variance because the estimate is unbiased. The model receives nothing from it. If deeper nodes
    are not pathwise, their corrections are correct to first order only. The gradient of the mean square, which takes
    second derivatives, is then an approximation; the estimate remains unbiased.

    Parameters
    ----------
    temperature : float or None
        Initial temperature of the relaxation, positive. None uses no relaxed values.
    scale : float
        Initial value of the factor eta of the relaxed cost.
    learnable : bool
        Whether both are learned.
    num_samples : int
        Number of independent samples.
    """

    supports_joint_samples = False
    common_random_numbers = True
    uses_auxiliary_samples = True
    differentiates_cost = True

    def __init__(self, temperature: float | None, scale: float, learnable: bool, num_samples: int) -> None:
        super().__init__(num_samples)
        if temperature is not None and not temperature > 0:
            raise EstimatorError(f"{type(self).__name__}: temperature={temperature} must be positive.")
        self._relaxes = temperature is not None
        self.evaluations_per_sample = 3 if self._relaxes else 1
        if temperature is not None:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)), requires_grad=learnable)
            self.scale = nn.Parameter(torch.tensor(float(scale)), requires_grad=learnable)

    @property
    def temperature(self) -> Tensor:
        """The temperature of the relaxation, positive."""
        return self.log_temperature.exp()

    @abstractmethod
    def control_variate(self, sample: NodeSample, relaxed_cost: Tensor) -> Tensor:
        """Return c(z), then c(z~), shape (2 num_samples, *batch), from the cost of the relaxed values."""

    def relax(self, noise: ConditionalNoise) -> Tensor:
        """Return relaxed values of z, then of z~. The temperature learns during training only."""
        perturbed = torch.cat([noise.perturbed, noise.conditional])
        # values that are impossible or certain at any temperature have the derivative 0 by it, not NaN
        fixed = perturbed.isinf()
        temperature = self.temperature if self.training else self.temperature.detach()
        scaled = perturbed.masked_fill(fixed, 0) / temperature.to(perturbed.dtype)
        return to_probs(torch.where(fixed, perturbed, scaled), noise.binary)

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        binary, logits = is_bernoulli(q), get_logits(q).detach()
        logits = logits.expand(shape + logits.shape).contiguous().requires_grad_()
        if binary:
            perturbed = logits + logistic(logits, common_noise_dims)
        else:
            perturbed = logits.log_softmax(-1) + gumbel(logits, common_noise_dims)
        value = to_discrete(perturbed, binary)
        conditional = conditional_noise(logits, value, binary, common_noise_dims)
        noise = ConditionalNoise(logits, perturbed, conditional, binary)
        values = torch.cat([value, self.relax(noise)]) if self._relaxes else value
        weight = uniform_weight(values, q, logits.dtype, auxiliary=len(values) - len(value))
        return NodeSample(values, weight, None if self._relaxes else log_prob(q, value), q, noise)

    @override
    def correction(self, sample: NodeSample, cost: Tensor) -> Tensor:
        q, logits, noise = sample.q, get_logits(sample.q), sample.noise
        if not (torch.is_grad_enabled() and logits.requires_grad):
            return cost.new_zeros(())
        learned = [p for p in self.parameters() if p.requires_grad and self.training]
        samples = len(noise.logits)
        pair = self.control_variate(sample, cost[samples:]).chunk(2)
        at_perturbed, at_conditional = (average_batch(sample, average_outer(sample, value)) for value in pair)
        difference = (at_perturbed - at_conditional).sum()
        path: Tensor | float = 0.0
        if difference.requires_grad:
            (path,) = torch.autograd.grad(
                difference, noise.logits, create_graph=bool(learned), retain_graph=True, materialize_grads=True
            )
        residual = average_outer(sample, cost[:samples].detach()) - at_conditional
        score = sample.value[:samples].detach() - unwrap_independent(q)[0].mean.detach()
        estimate = residual[(...,) + (None,) * len(q.event_shape)] * score + path
        correction = sum_event(estimate.detach() * zero_with_gradient(logits), q)
        if learned:
            variance = estimate.square().sum() / correction.numel()
            gradients = torch.autograd.grad(variance, learned, retain_graph=True, materialize_grads=True)
            linear = sum(((p * g).sum() for p, g in zip(learned, gradients, strict=True)), start=estimate.new_zeros(()))
            correction = correction + learning_term(linear.expand_as(correction), self.follows_scale)
        return pad_auxiliary(correction, len(sample.value) - samples)
