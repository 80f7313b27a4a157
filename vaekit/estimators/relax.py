"""RELAX: the score function with a learned control variate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.estimators.conditional_noise import ConditionalEstimator, ConditionalNoise
from vaekit.estimators.node_sample import NodeSample
from vaekit.exceptions import EstimatorError

BOUND = 20.0  # of perturbed logits as the network sees them: an impossible category has -inf


class RELAX(ConditionalEstimator):
    r"""Score function whose control variate is a network, trained on the variance of the gradient.

    .. math:: (f(b) - c(\tilde z))\, \nabla \log q(b) + \nabla c(z) - \nabla c(\tilde z), \quad
              c(z) = \eta f(\sigma(z / \tau)) + r(z), \quad z \sim p(z), \quad \tilde z \sim p(z | b)

    with a network r of the noise behind the value (and of the context, where one is given). Without a temperature
    c = r alone: the cost may then be a step function, NumPy or a simulator.

    Shapes: values ``[3 num_samples, *batch, *event]``, the discrete ones, then the relaxed ones of weight 0 (without a
    temperature ``[num_samples, ...]``). Bias: none. Cost: ``3 num_samples`` evaluations, two of them at relaxed values,
    and three backward passes through the cost; without a temperature ``num_samples`` and none. Nodes: Bernoulli,
    OneHotCategorical, and ``Independent`` vectors of them.

    Grathwohl, Choi, Wu, Roeder and Duvenaud (2018), Backpropagation through the Void: Optimizing Control Variates for
    Black-Box Gradient Estimation.

    Parameters
    ----------
    control_variate
        Module from the flattened noise, and the context after it, ``[..., size (+ features)]``, to ``[..., 1]`` or
        ``[...]``; a ``vaekit.networks.MLP`` gets its sizes from the model that it becomes part of.
    temperature
        Of the relaxation, at the start, positive; None: the network alone.
    scale
        eta, at the start.
    num_samples
        Independent draws.

    Raises
    ------
    EstimatorError
        If the temperature is not positive.
    """

    def __init__(
        self,
        control_variate: nn.Module,
        temperature: float | None = 0.5,
        scale: float = 1.0,
        num_samples: int = 1,
    ) -> None:
        super().__init__(num_samples)
        if temperature is not None and not temperature > 0:
            raise EstimatorError(f"RELAX: temperature is {temperature}, it must be positive (or None)")
        self.control_variate_network = control_variate
        self.head: nn.Module = nn.Identity()
        if temperature is not None:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
            self.scale = nn.Parameter(torch.tensor(float(scale)))
        self._relaxes = temperature is not None

    @property
    def requires_differentiable_cost(self) -> bool:  # type: ignore[override]
        """Whether the control variate holds the relaxed cost, which must then be differentiable."""
        return self._relaxes

    def build(self, context_features: int, size: int, ancestor_features: int = 0) -> None:
        """Make the layers of a vaekit network, and its last one, at 0: it starts as REBAR (see the base class)."""
        build: Any = getattr(self.control_variate_network, "build", None)
        if build is not None:
            self.head = nn.Linear(build(size + context_features), 1)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def num_evaluations(self, q: Distribution) -> int:
        """Return three rows a draw, or one without a temperature."""
        return (3 if self._relaxes else 1) * self.num_samples

    def relaxed_rows(self, noise: ConditionalNoise) -> Tensor | None:
        """Return the relaxed values, of the free noise and of that given the value (see the base class)."""
        if not self._relaxes:
            return None
        return self.relax(noise, self.log_temperature.exp())

    def control_variate(self, draw: NodeSample, relaxed_cost: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's value, and the scaled cost of the relaxed values (see the base class)."""
        event = len(draw.q.event_shape)
        perturbed = torch.cat([draw.noise.perturbed, draw.noise.conditional]).clamp(-BOUND, BOUND)
        inputs = perturbed.flatten(-event) if event else perturbed[..., None]
        if draw.context is not None:
            context = draw.context.detach()
            leading = torch.broadcast_shapes(inputs.shape[:-1], context.shape[:-1])
            inputs = torch.cat([part.expand(*leading, part.shape[-1]) for part in (inputs, context)], -1)
        value = self.head(self.control_variate_network(inputs))
        value = value.squeeze(-1) if value.dim() == inputs.dim() else value
        if self._relaxes:
            value = value + self.scale.to(value.dtype) * relaxed_cost
        free, given = value.chunk(2)
        return free, given
