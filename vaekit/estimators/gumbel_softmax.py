"""The Gumbel-Softmax (Concrete) relaxation of discrete variables."""

from __future__ import annotations

import torch
from torch.distributions import Distribution

from vaekit.estimators.discrete_support import get_logits, is_bernoulli
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.noise import gumbel, logistic, to_discrete, to_probs
from vaekit.estimators.temperature import TemperatureSchedule, TemperedEstimator


class GumbelSoftmax(TemperedEstimator):
    r"""Relaxation of a one-hot value to a softmax of perturbed logits, through which the cost is differentiated.

    .. math:: y = \mathrm{softmax}((\log \pi + g) / \tau), \quad g_k \sim \mathrm{Gumbel}(0, 1)

    Bernoulli variables have ``y = sigmoid((logit + l) / tau)`` with logistic ``l``. If ``hard`` is True, the value is
    the exact one-hot ``argmax``, with the gradient of the relaxed value (straight-through Gumbel-Softmax).

    Shapes: values ``[num_samples, *batch, *event]``. Bias: yes; a lower temperature reduces it and increases the
    variance. Relaxed values also bias the forward value. Cost: ``num_samples`` evaluations with a backward pass.
    Nodes: Bernoulli, OneHotCategorical, and ``Independent`` vectors of them.

    Jang, Gu and Poole (2017), Categorical Reparameterization with Gumbel-Softmax; Maddison, Mnih and Teh (2017),
    The Concrete Distribution.

    Parameters
    ----------
    temperature : float or TemperatureSchedule
        Positive temperature. The buffer ``temperature`` has the current one.
    hard : bool
        Whether values are one-hot.
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
    >>> vaekit.expectation(lambda b: (b - 0.3) ** 2, q, vaekit.estimators.GumbelSoftmax(0.5)).mean().backward()
    >>> round(logit.grad.item(), 2)
    0.1
    """

    def __init__(
        self, temperature: float | TemperatureSchedule = 0.5, hard: bool = False, num_samples: int = 1
    ) -> None:
        super().__init__(temperature, num_samples)
        self.hard = hard

    @property
    def unbiased_value(self) -> bool:  # type: ignore[override]
        """Whether values are exactly discrete."""
        return self.hard

    @property
    def higher_order(self) -> bool:  # type: ignore[override]
        """Whether values are relaxed. The expectation of a relaxation is differentiated exactly."""
        return not self.hard

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        logits, binary = get_logits(q), is_bernoulli(q)
        logits = logits.expand(shape + logits.shape)
        noise = (logistic if binary else gumbel)(logits, common_noise_dims)
        perturbed = logits + noise
        value = to_probs(perturbed / self.temperature.to(logits.dtype), binary)
        if self.hard:  # from the perturbed logits: relaxed values are tied by rounding at high temperatures
            value = to_discrete(perturbed, binary).detach() + (value - value.detach())
        return NodeSample(value, uniform_weight(value, q), None, q, noise, equal_weights=True)
