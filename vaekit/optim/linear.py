"""Models whose output is linear in their parameters: their gradients follow from derivatives by the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vaekit.exceptions import ConfigError
from vaekit.optim.variance_reduced_sgd import distance

LossesAndOutputs = Callable[[], tuple[Tensor, Tensor]]
TOLERANCE = 1e-3  # relative: rounding leaves far less, another model far more


def derivatives(losses: Tensor, outputs: Tensor, retain_graph: bool = True) -> Tensor:
    """Return the derivative of each row's loss by its own outputs, in their shape."""
    return torch.autograd.grad(losses.sum(), outputs, retain_graph=retain_graph)[0].detach()


def pull_back(outputs: Tensor, cotangents: Tensor, params: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients of ``(outputs * cotangents).sum()``."""
    return list(torch.autograd.grad(outputs, params, cotangents, retain_graph=True, allow_unused=True))


def check_rows(rows: Any, examples: int) -> Tensor:
    """Return the numbers of some examples, int64 ``[rows]``, or raise a ConfigError."""
    given = torch.as_tensor([] if rows is None else rows)
    found = given.to(torch.int64)
    if found.dim() != 1 or not len(found) or found.min() < 0 or found.max() >= examples:
        raise ConfigError(f"SAGA: rows must be numbers of examples in 0..{examples - 1}, [rows]; they are {rows}")
    if len(found.unique()) < len(found):
        raise ConfigError(f"SAGA: an example is twice among the rows {rows}; its derivative would count twice")
    return found


def check_shapes(losses: Tensor, outputs: Tensor, rows: int, width: int) -> None:
    """Raise a ConfigError if a closure's losses and outputs are not those of ``rows`` examples."""
    fits = outputs.shape == (rows, width) or (width == 1 and outputs.shape == (rows,))
    if losses.shape != (rows,) or not fits:
        raise ConfigError(
            f"SAGA: the closure returned losses {list(losses.shape)} and outputs {list(outputs.shape)} for {rows} "
            f"examples; it must return one loss each, [{rows}], and the model's outputs, [{rows}, {width}]"
        )


def check_linear(closure: LossesAndOutputs, params: Sequence[Tensor]) -> None:
    """Raise a ConfigError unless the losses depend on the parameters through linear outputs alone.

    The gradient by way of the outputs must be the whole gradient, and their Jacobian the same at another point.
    """
    points = [p.data for p in params]
    outputs = closure()[1]
    any_ = torch.cos(torch.arange(outputs.numel(), device=outputs.device)).to(outputs).view_as(outputs)
    here = pull_back(outputs, any_, params)
    try:
        for p, point in zip(params, points, strict=True):
            ramp = torch.cos(torch.arange(1, p.numel() + 1, device=p.device)).to(p)
            p.data = 1.5 * point + 0.1 * ramp.view_as(p)  # the parameters may start at 0, where much is
        losses, outputs = closure()
        there = pull_back(outputs, any_, params)
        by_outputs = pull_back(outputs, derivatives(losses, outputs), params)
        whole = list(torch.autograd.grad(losses.sum(), params, allow_unused=True))
    finally:
        for p, point in zip(params, points, strict=True):
            p.data = point
    for one, other, what in ((by_outputs, whole, "the losses depend on the parameters by another way than the outputs"),
                             (here, there, "the outputs are not linear in the parameters")):  # fmt: skip
        gap, norm = distance(one, other)
        if gap > TOLERANCE * norm:
            raise ConfigError(
                f"SAGA: {what} (a relative difference of {gap / norm:.2g}), so that derivatives by the outputs do not "
                "tell the gradient: give batch_sizes in place of examples and outputs, for a table of mini-batches"
            )
