"""Implicit reparameterization: a drawn value is given the derivatives that its cumulative distribution implies.

A value with density p_theta, drawn by any means, moves with the parameters at the velocity

    dz / dtheta = -(dF(z) / dtheta) / p(z) = integral from z to T of (d log p(t) / dtheta) p(t) / p(z) dt

with F the cumulative distribution function and T either end of the support. The velocity is a differentiable
function of both z and theta, so that derivatives of every order come out right.

Figurnov, Mohamed and Mnih (2018), Implicit Reparameterization Gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

LOG_NEGLIGIBLE = 36.0  # integrals stop where the density has fallen by a factor of exp(-36), about 2e-16
_NODES, _WEIGHTS = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(32))

Velocity = Callable[..., tuple[Tensor, ...]]


def reparameterize(value: Tensor, velocity: Velocity, *parameters: Tensor) -> Tensor:
    """Return ``value`` with ``velocity(value, *parameters)`` as its derivatives by the parameters.

    Parameters
    ----------
    value
        Drawn without a gradient.
    velocity
        Differentiable function of the value and the parameters; worked out in the backward pass only.
    *parameters
        Of the value's shape.
    """
    return _Reparameterize.apply(value, velocity, *parameters)


def integrate(integrand: Callable[[Tensor], Tensor], start: Tensor, stop: Tensor) -> Tensor:
    """Return the integral of a smooth function between two float64 tensors, differentiable in all it depends on.

    ``integrand`` takes points with one more axis, on the right.
    """
    length = (stop - start)[..., None]
    points = start[..., None] + length * (_NODES.to(start.device) + 1) / 2
    return (integrand(points) * (length / 2) * _WEIGHTS.to(start.device)).sum(-1)


class _Reparameterize(torch.autograd.Function):
    """The identity in ``value``, with the derivatives of :func:`reparameterize`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, velocity: Velocity, *parameters: Tensor) -> Tensor:
        """Return the value."""
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the output, not the input: a second derivative has to pass through the value again."""
        ctx.save_for_backward(output, *inputs[2:])
        ctx.velocity = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply by the velocities."""
        (gradient,) = gradients
        velocities = ctx.velocity(*ctx.saved_tensors)
        return (None, None, *(gradient * velocity for velocity in velocities))
