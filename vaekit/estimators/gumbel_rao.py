"""The straight-through Gumbel-Softmax with its noise averaged conditional on the discrete value."""

from __future__ import annotations

import torch
from torch.distributions import Distribution

from vaekit.estimators.discrete_support import get_logits, is_bernoulli, sample_discrete
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.noise import conditional_noise, to_probs, zero_with_gradient
from vaekit.estimators.temperature import TemperatureSchedule, TemperedEstimator
from vaekit.exceptions import EstimatorError


class GumbelRao(TemperedEstimator):
    r"""Discrete value in the forward pass; in the backward pass, the mean of softmaxes over the noise that leads to it.

    .. math:: \nabla_\phi \approx E\left[\nabla_\phi\, \mathrm{softmax}((\log \pi + g) / \tau)
              \,\middle|\, \arg\max_k (\log \pi_k + g_k) = z\right] \nabla f(z), \quad z \sim \pi

    The conditional expectation is a mean over ``num_inner`` samples of the noise. One sample gives the
    straight-through ``GumbelSoftmax``. More of them keep the mean of the gradient and lower its variance.

    Shapes: values ``[num_samples, *batch, *event]``, exactly discrete. Bias: the gradient has the bias of
    ``GumbelSoftmax(hard=True)`` at the same temperature, the forward value is unbiased. Cost: ``num_samples``
    evaluations with a backward pass, and ``num_inner`` softmaxes each. Nodes: Bernoulli, OneHotCategorical, and
    ``Independent`` vectors of them.

    Paulus, Maddison and Krause (2021), Rao-Blackwellizing the Straight-Through Gumbel-Softmax Gradient Estimator.

    Parameters
    ----------
    temperature : float or TemperatureSchedule
        Positive temperature. The buffer ``temperature`` has the current one.
    num_inner : int
        Number of noise samples per value.
    num_samples : int
        Number of independent values.

    Raises
    ------
    EstimatorError
        If the temperature is not positive, or ``num_inner`` is less than 1.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.ones((), requires_grad=True)  # E[(b - 0.3)^2] has the gradient 0.4 p (1 - p) = 0.08
    >>> q = Bernoulli(logits=logit.expand(100_000))
    >>> vaekit.expectation(lambda b: (b - 0.3) ** 2, q, vaekit.estimators.GumbelRao(0.5)).mean().backward()
    >>> round(logit.grad.item(), 2)
    0.12
    """

    def __init__(
        self, temperature: float | TemperatureSchedule = 0.5, num_inner: int = 10, num_samples: int = 1
    ) -> None:
        super().__init__(temperature, num_samples)
        if num_inner < 1:
            raise EstimatorError(f"GumbelRao: num_inner={num_inner} must be at least 1.")
        self.num_inner = num_inner

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        discrete, logits, binary = sample_discrete(q, shape, common_noise_dims), get_logits(q), is_bernoulli(q)
        # differentiate the logits to which the noise is added, with the noise held fixed
        perturbed = conditional_noise(logits.detach(), discrete.expand(self.num_inner, *discrete.shape), binary)
        scaled = (perturbed + zero_with_gradient(logits)) / self.temperature.to(logits.dtype)
        relaxed = to_probs(scaled, binary).mean(0)
        value = discrete + (relaxed - relaxed.detach())
        return NodeSample(value, uniform_weight(value, q), None, q)
