"""ReinMax: a straight-through estimator of second order."""

from __future__ import annotations

import torch
from torch.distributions import Distribution

from vaekit.estimators.discrete_support import get_logits, is_bernoulli, sample_discrete
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.noise import jacobian_product, to_probs, zero_with_gradient
from vaekit.estimators.temperature import TemperatureSchedule, TemperedEstimator


class ReinMax(TemperedEstimator):
    r"""Discrete value in the forward pass; in the backward pass, gradients of two softmaxes by Heun's method.

    .. math:: \nabla_\phi \approx \left(2 J(\tfrac{\pi_\tau + z}{2}) - \tfrac12 J(\pi)\right) \nabla f(z), \quad
              J(p) = \mathrm{diag}(p) - p p^\top, \quad z \sim \pi = \mathrm{softmax}(\phi)

    with :math:`\pi_\tau = \mathrm{softmax}(\phi / \tau)`; a Bernoulli variable has :math:`J(p) = p (1 - p)`.

    Shapes: values ``[num_samples, *batch, *event]``, exactly discrete. Bias: the gradient is unbiased at temperature 1
    for a cost that is quadratic in each variable (the others held fixed), else biased; the forward value is unbiased.
    Cost: ``num_samples`` evaluations with a backward pass. Nodes: Bernoulli, OneHotCategorical, and ``Independent``
    vectors of them.

    Liu, Dong, Liu, Yu and Gao (2023), Bridging Discrete and Backpropagation: Straight-Through and Beyond.

    Parameters
    ----------
    temperature : float or TemperatureSchedule
        Positive temperature. 1 is the method of second order; higher ones trade bias for variance. The buffer
        ``temperature`` has the current one.
    num_samples : int
        Number of independent samples.

    Raises
    ------
    EstimatorError
        If the temperature is not positive.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.ones((), requires_grad=True)  # E[(b - 0.3)^2] has the gradient 0.4 p (1 - p) = 0.08
    >>> q = Bernoulli(logits=logit.expand(100_000))
    >>> vaekit.expectation(lambda b: (b - 0.3) ** 2, q, vaekit.estimators.ReinMax()).mean().backward()
    >>> round(logit.grad.item(), 2)
    0.08
    """

    def __init__(self, temperature: float | TemperatureSchedule = 1.0, num_samples: int = 1) -> None:
        super().__init__(temperature, num_samples)

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        discrete, logits, binary = sample_discrete(q, shape, common_noise_dims), get_logits(q), is_bernoulli(q)
        zero, logits = zero_with_gradient(logits), logits.detach()
        middle = (discrete + to_probs(logits / self.temperature.to(logits.dtype), binary)) / 2
        mean = to_probs(logits, binary)
        value = discrete + 2 * jacobian_product(middle, zero, binary) - 0.5 * jacobian_product(mean, zero, binary)
        return NodeSample(value, uniform_weight(value, q), None, q)
