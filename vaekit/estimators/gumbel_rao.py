"""The straight-through Gumbel-Softmax with its noise averaged given the discrete value."""

from __future__ import annotations

import torch
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.discrete_support import get_logits, is_bernoulli, sample_discrete
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.noise import conditional_gumbel, conditional_logistic, zero_with_gradient
from vaekit.estimators.temperature import TemperatureSchedule, TemperedEstimator
from vaekit.exceptions import EstimatorError


class GumbelRao(TemperedEstimator):
    r"""Use the discrete value forward, and backward the mean of softmaxes over noise that leads to that value.

    .. math:: \nabla_\phi \approx E\left[\nabla_\phi\, \mathrm{softmax}((\log \pi + g) / \tau)
              \,\middle|\, \arg\max_k (\log \pi_k + g_k) = z\right] \nabla f(z), \quad z \sim \pi

    The conditional expectation is a mean over ``num_inner`` draws of the noise; with one draw this is the
    straight-through ``GumbelSoftmax``. Its gradient has the same mean, and a variance that falls with their number.

    Shapes: values ``[num_samples, *batch, *event]``, exactly discrete. Bias: of the gradient, that of
    ``GumbelSoftmax(hard=True)`` at the same temperature; none of the forward value. Cost: ``num_samples``
    evaluations and their backward pass, and ``num_inner`` softmaxes each. Nodes: Bernoulli, OneHotCategorical, and
    ``Independent`` vectors of them.

    Paulus, Maddison and Krause (2021), Rao-Blackwellizing the Straight-Through Gumbel-Softmax Gradient Estimator.

    Parameters
    ----------
    temperature
        Positive, or a schedule (:class:`TemperatureSchedule`). The current one is the buffer ``temperature``.
    num_inner
        Draws of the noise for each value.
    num_samples
        Independent values.

    Raises
    ------
    EstimatorError
        If the temperature is not positive, or ``num_inner`` is less than 1.
    """

    def __init__(
        self, temperature: float | TemperatureSchedule = 0.5, num_inner: int = 10, num_samples: int = 1
    ) -> None:
        super().__init__(temperature, num_samples)
        if num_inner < 1:
            raise EstimatorError(f"GumbelRao: num_inner is {num_inner}, it must be at least 1")
        self.num_inner = num_inner

    @override
    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        """Draw discrete values with their averaged gradient (see the base class)."""
        drawn, logits = sample_discrete(q, shape, common_noise_dims), get_logits(q)
        conditional = conditional_logistic if is_bernoulli(q) else conditional_gumbel
        # the noise is held fixed: what is differentiated is the logits that it is added to
        perturbed = conditional(logits.detach(), drawn.expand(self.num_inner, *drawn.shape))
        scaled = (perturbed + zero_with_gradient(logits)) / self.temperature.to(logits.dtype)
        soft = (scaled.sigmoid() if is_bernoulli(q) else scaled.softmax(-1)).mean(0)
        value = drawn + (soft - soft.detach())
        return NodeSample(value, uniform_weight(value, q), None, q)
