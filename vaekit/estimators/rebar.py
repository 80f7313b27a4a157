"""REBAR: the score function with a relaxation of the cost as its control variate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.estimators.conditional_noise import ConditionalEstimator, ConditionalNoise
from vaekit.estimators.node_sample import NodeSample
from vaekit.exceptions import EstimatorError


class REBAR(ConditionalEstimator):
    r"""Score function whose control variate is the cost of a relaxed value, made unbiased by conditioning.

    .. math:: (f(b) - \eta f(\tilde y))\, \nabla \log q(b) + \eta \nabla f(y) - \eta \nabla f(\tilde y), \quad
              y = \sigma(z / \tau), \quad \tilde y = \sigma(\tilde z / \tau), \quad \tilde z \sim p(z | b)

    (a softmax for categorical variables). Scale and temperature are learned: they follow the gradient of the
    estimate's variance, which takes second derivatives of the cost.

    Shapes: values ``[3 num_samples, *batch, *event]``: the discrete ones, then the relaxed ones of weight 0. Bias:
    none. Cost: ``3 num_samples`` evaluations, two of them at relaxed values, and two backward passes through the cost
    (three where scale and temperature are learned). Nodes: Bernoulli, OneHotCategorical, and ``Independent`` vectors
    of them.

    Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein (2017), REBAR: Low-Variance, Unbiased Gradient Estimates for
    Discrete Latent Variable Models.

    Parameters
    ----------
    temperature
        Of the relaxation, at the start; positive.
    scale
        eta, at the start.
    learnable
        Whether both are learned.
    num_samples
        Independent draws.

    Raises
    ------
    EstimatorError
        If the temperature is not positive.
    """

    requires_differentiable_cost = True

    def __init__(
        self, temperature: float = 0.5, scale: float = 1.0, learnable: bool = True, num_samples: int = 1
    ) -> None:
        super().__init__(num_samples)
        if not temperature > 0:
            raise EstimatorError(f"REBAR: temperature is {temperature}, it must be positive")
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)), requires_grad=learnable)
        self.scale = nn.Parameter(torch.tensor(float(scale)), requires_grad=learnable)

    @property
    def temperature(self) -> Tensor:
        """The temperature of the relaxation, positive."""
        return self.log_temperature.exp()

    def num_evaluations(self, q: Distribution) -> int:
        """Return three rows a draw."""
        return 3 * self.num_samples

    def relaxed_rows(self, noise: ConditionalNoise) -> Tensor:
        """Return the relaxed values, of the free noise and of that given the value (see the base class)."""
        return self.relax(noise, self.temperature)

    def control_variate(self, draw: NodeSample, relaxed_cost: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cost of the relaxed values, scaled (see the base class)."""
        free, given = (self.scale.to(relaxed_cost.dtype) * relaxed_cost).chunk(2)
        return free, given
