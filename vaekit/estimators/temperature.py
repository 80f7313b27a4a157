"""Temperature schedules, and the base class of the estimators that have a temperature."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from vaekit._core.components import Component
from vaekit.estimators.support import DiscreteEstimator
from vaekit.exceptions import EstimatorError


class TemperatureSchedule(Component):
    r"""A temperature that changes exponentially during training, then stays constant.

    .. math:: \tau(p) = \tau_0 (\tau_1 / \tau_0)^{\min(1, p / s)}

    at progress p in 0..1. The schedule ``max(end, exp(-rate * step))`` of Jang, Gu and Poole (2017) is the same curve.

    Parameters
    ----------
    start, end : float
        First and last temperature, positive.
    fraction : float
        s, the fraction of all training steps with a changing temperature, in (0, 1].

    Raises
    ------
    EstimatorError
        If a temperature is not positive, or the fraction is not in (0, 1].

    Examples
    --------
    >>> schedule = TemperatureSchedule(1.0, 0.25, fraction=0.5)
    >>> [schedule.value_at(progress) for progress in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.5, 0.25, 0.25]
    """

    def __init__(self, start: float = 1.0, end: float = 0.5, fraction: float = 0.5) -> None:
        if not (start > 0 and end > 0):
            raise EstimatorError(f"TemperatureSchedule: start={start} and end={end} must be positive.")
        if not 0 < fraction <= 1:
            raise EstimatorError(f"TemperatureSchedule: fraction={fraction} must be in (0, 1].")
        self.start, self.end, self.fraction = start, end, fraction

    def value_at(self, progress: float) -> float:
        """Return the temperature at a progress in 0..1."""
        return self.start * (self.end / self.start) ** min(1.0, progress / self.fraction)


class TemperedEstimator(DiscreteEstimator):
    """Biased estimator of discrete variables with a gradient path and a temperature.

    Parameters
    ----------
    temperature : float or TemperatureSchedule
        Positive temperature. The buffer ``temperature`` has the current one, so that a checkpoint contains it.
    num_samples : int
        Number of independent samples.

    Raises
    ------
    EstimatorError
        If the temperature is not positive.
    """

    requires_differentiable_cost = True
    unbiased = False
    has_correction = False
    handles_zero_probabilities = True

    def __init__(self, temperature: float | TemperatureSchedule, num_samples: int) -> None:
        super().__init__(num_samples)
        self.schedule = None if isinstance(temperature, float | int) else temperature
        start = temperature if isinstance(temperature, float | int) else temperature.start
        if not start > 0:
            raise EstimatorError(f"{type(self).__name__}: temperature={start} must be positive.")
        self.temperature: Tensor
        self.register_buffer("temperature", torch.tensor(float(start)))

    @override
    def update_schedule(self, progress: float) -> None:
        if self.schedule is not None:
            self.temperature.fill_(self.schedule.value_at(progress))

    @override
    def scheduled_values(self) -> dict[str, Tensor]:
        return {"temperature": self.temperature}
