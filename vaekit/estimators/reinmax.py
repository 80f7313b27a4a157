"""ReinMax: a straight-through estimator of second order."""

from __future__ import annotations

import torch
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.discrete_support import get_logits, is_bernoulli, sample_discrete
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.noise import jacobian_product, zero_with_gradient
from vaekit.estimators.temperature import TemperatureSchedule, TemperedEstimator


class ReinMax(TemperedEstimator):
    r"""Use the discrete value forward, and backward the gradients of two softmaxes: Heun's method.

    .. math:: \nabla_\phi \approx \left(2 J(\tfrac{\pi_\tau + z}{2}) - \tfrac12 J(\pi)\right) \nabla f(z), \quad
              J(p) = \mathrm{diag}(p) - p p^\top, \quad z \sim \pi = \mathrm{softmax}(\phi)

    with :math:`\pi_\tau = \mathrm{softmax}(\phi / \tau)`; a Bernoulli variable has :math:`J(p) = p (1 - p)`.

    Shapes: values ``[num_samples, *batch, *event]``, exactly discrete. Bias: of the gradient, none at temperature 1
    for a cost that is quadratic in each variable (the others held), else yes; none of the forward value. Cost:
    ``num_samples`` evaluations and their backward pass. Nodes: Bernoulli, OneHotCategorical, and ``Independent``
    vectors of them.

    Liu, Dong, Liu, Yu and Gao (2023), Bridging Discrete and Backpropagation: Straight-Through and Beyond.

    Parameters
    ----------
    temperature
        Positive; 1 is the method of second order, warmer ones trade bias for variance; or a schedule
        (:class:`TemperatureSchedule`). The current one is the buffer ``temperature``.
    num_samples
        Independent draws.

    Raises
    ------
    EstimatorError
        If the temperature is not positive.
    """

    def __init__(self, temperature: float | TemperatureSchedule = 1.0, num_samples: int = 1) -> None:
        super().__init__(temperature, num_samples)

    @override
    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        """Draw discrete values with their second-order gradient (see the base class)."""
        drawn, logits = sample_discrete(q, shape, common_noise_dims), get_logits(q)
        zero = zero_with_gradient(logits)
        logits = logits.detach()
        warm = logits / self.temperature.to(logits.dtype)
        if is_bernoulli(q):
            middle, mean = (drawn + warm.sigmoid()) / 2, logits.sigmoid()
        else:
            middle, mean = (drawn + warm.softmax(-1)) / 2, logits.softmax(-1)
        binary = is_bernoulli(q)
        value = drawn + 2 * jacobian_product(middle, zero, binary) - 0.5 * jacobian_product(mean, zero, binary)
        return NodeSample(value, uniform_weight(value, q), None, q)
