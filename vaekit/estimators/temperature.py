"""Temperatures: a value or a schedule, and what the estimators that have one share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit._core.components import Component
from vaekit.estimators.discrete_support import is_bernoulli, is_one_hot
from vaekit.estimators.estimator import Estimator
from vaekit.exceptions import EstimatorError


class TemperatureSchedule(Component):
    r"""A temperature that falls (or rises) exponentially with training, then stays.

    .. math:: \tau(p) = \tau_0 (\tau_1 / \tau_0)^{\min(1, p / s)}

    at progress p in 0..1: ``max(end, exp(-rate * step))`` of Jang, Gu and Poole (2017) is the same curve.

    Parameters
    ----------
    start, end
        First and last temperature, positive.
    fraction
        s, the share of all training steps over which it moves, in (0, 1].

    Raises
    ------
    EstimatorError
        If a temperature is not positive, or the share not in (0, 1].

    Examples
    --------
    >>> schedule = TemperatureSchedule(1.0, 0.25, fraction=0.5)
    >>> [schedule.value_at(progress) for progress in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.5, 0.25, 0.25]
    """

    def __init__(self, start: float = 1.0, end: float = 0.5, fraction: float = 0.5) -> None:
        if not (start > 0 and end > 0):
            raise EstimatorError(f"TemperatureSchedule: temperature goes from {start} to {end}, both must be positive")
        if not 0 < fraction <= 1:
            raise EstimatorError(
                f"TemperatureSchedule: fraction is {fraction}, of all training steps: it must lie in (0, 1]"
            )
        self.start, self.end, self.fraction = start, end, fraction

    def value_at(self, progress: float) -> float:
        """Return the temperature at a progress in 0..1."""
        return self.start * (self.end / self.start) ** min(1.0, progress / self.fraction)


class TemperedEstimator(Estimator):
    """An estimator of Bernoulli and one-hot variables with a temperature: biased, through a gradient path.

    Parameters
    ----------
    temperature
        Positive, or a schedule. The current one is the buffer ``temperature``: a checkpoint keeps it.
    num_samples
        Independent draws.

    Raises
    ------
    EstimatorError
        If the temperature is not positive.
    """

    requires_differentiable_cost = True
    unbiased = False
    handles_zero_probabilities = True

    def __init__(self, temperature: float | TemperatureSchedule, num_samples: int) -> None:
        super().__init__(num_samples)
        self.schedule = temperature if isinstance(temperature, TemperatureSchedule) else None
        first = temperature.start if isinstance(temperature, TemperatureSchedule) else temperature
        if not first > 0:
            raise EstimatorError(f"{type(self).__name__}: temperature is {first}, it must be positive")
        self.temperature: Tensor
        self.register_buffer("temperature", torch.tensor(float(first)))

    @classmethod
    def supports(cls, q: Distribution) -> bool:
        """Tell whether ``q`` is made of Bernoulli or one-hot categorical variables."""
        return is_bernoulli(q) or is_one_hot(q)

    def update_schedule(self, progress: float) -> None:
        """Set the temperature that the schedule has at this progress (see the base class)."""
        if self.schedule is not None:
            self.temperature.fill_(self.schedule.value_at(progress))
