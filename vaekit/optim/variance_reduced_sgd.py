"""What SVRG and SAGA share: torch's SGD on a gradient that a control variate has been taken from."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from vaekit.exceptions import ConfigError, EstimatorError
from vaekit.optim.loss_rng import RNGState

_sgd_step: Callable[[Any], Any] = inspect.unwrap(SGD.step)  # without the wrapper that calls a step's hooks: ours does

Closure = Callable[[], Any]


class VarianceReducedSGD(SGD):
    """Stochastic gradient descent whose gradient is corrected before the step.

    The update is torch's own, weight decay and momentum included: the decay is added to the corrected gradient at
    the current parameters, an exact part of it.

    Parameters
    ----------
    params
        Parameters, or groups of them with options of their own, as for ``torch.optim.SGD``.
    lr, momentum, dampening, weight_decay, nesterov
        As for ``torch.optim.SGD``.
    independent_noise
        Whether a control variate with noise of its own is accepted.

    Raises
    ------
    ConfigError
        If a number is out of its range, or training is distributed over several processes.
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
                f"{name}: lr is {lr} (positive), momentum {momentum} (in [0, 1)), weight_decay {weight_decay} (not "
                "negative)"
            )
        if nesterov and (momentum == 0 or dampening != 0):
            raise ConfigError(f"{name}: nesterov needs a momentum (it is {momentum}) and no dampening ({dampening})")
        refuse_distributed(name)
        self.independent_noise = independent_noise
        self._corrected = False
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov)

    def __getstate__(self) -> dict[str, Any]:
        own = ("independent_noise", "memory", "_corrected", "_sizes")  # torch keeps none but its own
        return {**super().__getstate__(), **{name: vars(self)[name] for name in own if name in vars(self)}}

    def parameters(self) -> list[Tensor]:
        """Return the parameters of all groups."""
        return [p for group in self.param_groups for p in group["params"]]

    def random_state(self) -> RNGState:
        """Return the present state of the generators that a closure may draw from."""
        return RNGState(self.parameters())

    @abstractmethod
    def step(self, closure: Any = None) -> Any:
        """Correct the gradient and descend along it."""

    @torch.no_grad()
    def _descend(self) -> None:
        """Take torch's step along the corrected gradient."""
        if not self._corrected:
            raise EstimatorError(
                f"{type(self).__name__}.step() got no closure, and the gradient was not corrected since the last step; "
                "a plain step would be one of SGD: pass the closure, or call correct(...) first"
            )
        _sgd_step(self)
        self._corrected = False


def refuse_distributed(name: str) -> None:
    """Raise a ConfigError if several processes train together."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and (count := distributed.get_world_size()) > 1:
        raise ConfigError(
            f"{name}: training is distributed over {count} processes. Each would hold a control variate of its own "
            "share of the data, and their steps would differ: train in one process, or with torch.optim.SGD"
        )


def distance(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> tuple[float, float]:
    """Return the norm of the difference of two gradients, and the larger of their norms; None is zero."""
    difference, norms = 0.0, [0.0, 0.0]
    for pair in zip(first, second, strict=True):
        found = [g.detach().double() for g in pair if g is not None]
        if found:
            gap = found[0] - found[1] if len(found) == 2 else found[0]
            difference += gap.square().sum().item()
            for i, g in enumerate(pair):
                norms[i] += 0.0 if g is None else g.detach().double().square().sum().item()
    return difference**0.5, max(norms) ** 0.5


def rows_of(batch: Any) -> int:
    """Return the number of rows of a batch: the length of its first tensor."""
    if isinstance(batch, Mapping):
        return rows_of(next(iter(batch.values())))
    if isinstance(batch, tuple | list) and batch and hasattr(batch[0], "__len__"):
        return rows_of(batch[0])
    return len(batch)


def extent(about: Any) -> str:
    """Return in words what a table of SAGA's state is of."""
    if about is None:
        return "another optimizer"
    return f"{len(about['table'])} examples" if "table" in about else f"mini-batches of {about['sizes']} rows"
