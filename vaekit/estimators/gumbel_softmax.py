"""The Gumbel-Softmax (Concrete) relaxation of discrete variables."""

from __future__ import annotations

import torch
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.discrete_support import get_logits, is_bernoulli
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.noise import gumbel, logistic
from vaekit.estimators.temperature import TemperatureSchedule, TemperedEstimator


class GumbelSoftmax(TemperedEstimator):
    r"""Replace a one-hot value by a softmax of perturbed logits, and differentiate through it.

    .. math:: y = \mathrm{softmax}((\log \pi + g) / \tau), \quad g_k \sim \mathrm{Gumbel}(0, 1)

    and for Bernoulli variables ``y = sigmoid((logit + l) / tau)`` with logistic ``l``. With ``hard`` the value
    is the exact one-hot ``argmax`` and the gradient that of the soft one (straight-through Gumbel-Softmax).

    Shapes: values ``[num_samples, *batch, *event]``. Bias: yes, falling with the temperature while the
    variance rises; soft values also bias the forward value. Cost: ``num_samples`` evaluations and their
    backward pass. Nodes: Bernoulli, OneHotCategorical, and ``Independent`` vectors of them.

    Jang, Gu and Poole (2017), Categorical Reparameterization with Gumbel-Softmax; Maddison, Mnih and Teh (2017),
    The Concrete Distribution.

    Parameters
    ----------
    temperature
        Positive, or a schedule (:class:`TemperatureSchedule`). The current one is the buffer ``temperature``.
    hard
        Whether values are one-hot.
    num_samples
        Independent draws.

    Raises
    ------
    EstimatorError
        If the temperature is not positive.
    """

    def __init__(
        self, temperature: float | TemperatureSchedule = 0.5, hard: bool = False, num_samples: int = 1
    ) -> None:
        super().__init__(temperature, num_samples)
        self.hard = hard

    @property
    def unbiased_value(self) -> bool:  # type: ignore[override]
        """Whether values are true discrete ones, so that the forward value is exact."""
        return self.hard

    @property
    def higher_order(self) -> bool:  # type: ignore[override]
        """Whether values are relaxed: the expectation of a relaxation is differentiated exactly."""
        return not self.hard

    @override
    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        """Draw relaxed values (see the base class)."""
        logits = get_logits(q)
        logits = logits.expand(shape + logits.shape)
        binary = is_bernoulli(q)
        noise = logistic(logits, common_noise_dims) if binary else gumbel(logits, common_noise_dims)
        perturbed = logits + noise
        scaled = perturbed / self.temperature.to(logits.dtype)
        value = scaled.sigmoid() if binary else scaled.softmax(-1)
        if self.hard:
            # decided on the perturbed logits: the soft value rounds to ties at high temperatures
            if binary:
                discrete = (perturbed > 0).to(value.dtype)
            else:
                discrete = torch.zeros_like(value).scatter_(-1, perturbed.argmax(-1, keepdim=True), 1.0)
            value = discrete.detach() + (value - value.detach())
        return NodeSample(value, uniform_weight(value, q), None, q, noise, equal_weights=True)
