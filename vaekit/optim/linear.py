"""SAGA's table for models with linear outputs, the form of the paper: one derivative instead of one gradient each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vaekit.exceptions import ConfigError
from vaekit.optim.variance_reduced_sgd import distance

LossesAndOutputs = Callable[[], tuple[Tensor, Tensor]]
TOLERANCE = 1e-3  # relative; rounding errors are far smaller, those of a nonlinear model far larger


def output_derivatives(losses: Tensor, outputs: Tensor) -> Tensor:
    """Return the derivative of each observation's loss with respect to its outputs."""
    return torch.autograd.grad(losses.sum(), outputs, retain_graph=True)[0].detach()


def pull_back(outputs: Tensor, cotangents: Tensor, params: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients of ``(outputs * cotangents).sum()``."""
    return list(torch.autograd.grad(outputs, params, cotangents, retain_graph=True, allow_unused=True))


def check_indices(indices: Any, num_observations: int) -> Tensor:
    """Return the indices of observations, int64 ``[batch]``, or raise a ConfigError."""
    tensor = torch.as_tensor([] if indices is None else indices).to(torch.int64)
    if tensor.dim() != 1 or not len(tensor) or tensor.min() < 0 or tensor.max() >= num_observations:
        raise ConfigError(f"SAGA: entry={indices} must be a list of indices in 0..{num_observations - 1}.")
    if len(tensor.unique()) < len(tensor):
        raise ConfigError(f"SAGA: entry={indices} contains an index twice. Its derivative would count twice.")
    return tensor


def check_shapes(losses: Tensor, outputs: Tensor, batch: int, num_outputs: int) -> None:
    """Raise a ConfigError if a closure's losses and outputs do not belong to ``batch`` observations."""
    is_valid = outputs.shape == (batch, num_outputs) or (num_outputs == 1 and outputs.shape == (batch,))
    if losses.shape != (batch,) or not is_valid:
        raise ConfigError(
            f"SAGA: the closure returned losses {list(losses.shape)} and outputs {list(outputs.shape)} for {batch} "
            f"observations. Return one loss each, [{batch}], and the model's outputs, [{batch}, {num_outputs}]."
        )


def check_linear(closure: LossesAndOutputs, params: Sequence[Tensor]) -> None:
    """Raise a ConfigError unless the losses depend on the parameters only through linear outputs.

    The gradient through the outputs must be the whole gradient, and their Jacobian the same at another point.
    """
    points = [p.data for p in params]
    outputs = closure()[1]
    cotangents = torch.cos(torch.arange(outputs.numel(), device=outputs.device)).to(outputs).view_as(outputs)
    jacobian_here = pull_back(outputs, cotangents, params)
    try:
        for p, point in zip(params, points, strict=True):
            shift = torch.cos(torch.arange(1, p.numel() + 1, device=p.device)).to(p)
            p.data = 1.5 * point + 0.1 * shift.view_as(p)  # parameters of 0 must move, too
        losses, outputs = closure()
        jacobian_there = pull_back(outputs, cotangents, params)
        through_outputs = pull_back(outputs, output_derivatives(losses, outputs), params)
        gradient = list(torch.autograd.grad(losses.sum(), params, allow_unused=True))
    finally:
        for p, point in zip(params, points, strict=True):
            p.data = point
    for first, second, problem in (
        (through_outputs, gradient, "the losses depend on the parameters by another way than the outputs"),
        (jacobian_here, jacobian_there, "the outputs are not linear in the parameters"),
    ):
        gap, norm = distance(first, second)
        if gap > TOLERANCE * norm:
            raise ConfigError(
                f"SAGA: {problem} (relative difference {gap / norm:.2g}), so derivatives of the outputs do not "
                "determine the gradient. Give batch_sizes instead of num_observations and num_outputs."
            )
