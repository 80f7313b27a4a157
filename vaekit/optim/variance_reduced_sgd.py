"""Base class of SVRG and SAGA: torch's SGD with a gradient that a control variate corrects."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from vaekit.exceptions import ConfigError, EstimatorError
from vaekit.optim.loss_rng import RNGState

_sgd_step: Callable[[Any], Any] = inspect.unwrap(SGD.step)  # the wrapper of our own step() calls the hooks

Closure = Callable[[], Any]


class VarianceReducedSGD(SGD):
    """Stochastic gradient descent that corrects the gradient before the step of torch.

    The weight decay at the current parameters is added to the corrected gradient. ``independent_noise`` is whether a
    control variate with separate noise is accepted.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        independent_noise: bool = False,
    ) -> None:
        name = type(self).__name__
        if not lr > 0 or not 0 <= momentum < 1 or not weight_decay >= 0:
            raise ConfigError(
                f"{name}: lr={lr} must be positive, momentum={momentum} in [0, 1), weight_decay={weight_decay} not "
                "negative."
            )
        if nesterov and (momentum == 0 or dampening != 0):
            raise ConfigError(f"{name}: nesterov requires momentum={momentum} above 0 and dampening={dampening} of 0.")
        reject_distributed(name)
        self.independent_noise = independent_noise
        self._corrected = False
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov)

    def __getstate__(self) -> dict[str, Any]:
        names = ("independent_noise", "memory", "_corrected", "_sizes")  # torch stores only its own attributes
        return {**super().__getstate__(), **{name: vars(self)[name] for name in names if name in vars(self)}}

    def parameters(self) -> list[Tensor]:
        """Return the parameters of all groups."""
        return [p for group in self.param_groups for p in group["params"]]

    def rng_state(self) -> RNGState:
        """Return the current states of the generators that a closure may use."""
        return RNGState(self.parameters())

    @abstractmethod
    def step(self, closure: Any = None) -> Any:
        """Correct the gradient and take a step along it."""

    @torch.no_grad()
    def _descend(self) -> None:
        """Take torch's step along the corrected gradient."""
        if not self._corrected:
            raise EstimatorError(
                f"{type(self).__name__}.step() requires a closure, because the gradient was not corrected since the "
                "last step. Pass the closure, or call correct(...) first."
            )
        _sgd_step(self)
        self._corrected = False


def reject_distributed(name: str) -> None:
    """Raise a ConfigError if training is distributed."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and (size := distributed.get_world_size()) > 1:
        raise ConfigError(
            f"{name}: training is distributed over {size} processes, whose control variates would differ. Train in one "
            "process, or with torch.optim.SGD."
        )


def distance(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> tuple[float, float]:
    """Return the norm of the difference of two gradients, and the larger of their norms. None counts as zero."""
    squares = [0.0, 0.0, 0.0]
    for a, b in zip(first, second, strict=True):
        for i, gradient in enumerate((a, b, _difference(a, b))):
            squares[i] += 0.0 if gradient is None else gradient.detach().double().square().sum().item()
    return squares[2] ** 0.5, max(squares[:2]) ** 0.5


def _difference(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a.double() - b.double() if a is not None and b is not None else (b if a is None else a)


def num_observations(batch: Any) -> int:
    """Return the number of observations of a batch: the length of its first tensor."""
    if isinstance(batch, Mapping):
        return num_observations(next(iter(batch.values())))
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Sized):
        return num_observations(batch[0])
    return len(batch)
