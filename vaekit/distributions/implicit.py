"""Implicit reparameterization: samples with the derivatives that their cumulative distribution function implies.

A value with density p_theta, sampled by any method, moves with the parameters at the velocity

    dz / dtheta = -(dF(z) / dtheta) / p(z) = integral from z to T of (d log p(t) / dtheta) p(t) / p(z) dt

with F the cumulative distribution function and T either end of the support. The velocity is a differentiable
function of both z and theta, so derivatives of every order are correct.

Figurnov, Mohamed and Mnih (2018), Implicit Reparameterization Gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

LOG_NEGLIGIBLE = 36.0  # integrals stop at a density of exp(-36), about 2e-16, of its maximum
_NODES, _WEIGHTS = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(32))

Velocity = Callable[..., tuple[Tensor, ...]]


def reparameterize(value: Tensor, velocity: Velocity, *parameters: Tensor) -> Tensor:
    """Return ``value`` with ``velocity(value, *parameters)`` as its derivatives with respect to the parameters.

    Parameters
    ----------
    value : Tensor
        Sample without a gradient.
    velocity : callable
        Differentiable function of the value and the parameters, called in the backward pass only.
    *parameters : Tensor
        Parameters in the shape of the value.
    """
    return _Reparameterize.apply(value, velocity, *parameters)


def integrate(integrand: Callable[[Tensor], Tensor], start: Tensor, stop: Tensor) -> Tensor:
    """Return the integral of a smooth function between two float64 tensors, differentiable in all its inputs.

    ``integrand`` receives points with one more dimension on the right.
    """
    length = (stop - start)[..., None]
    points = start[..., None] + length * (_NODES.to(start.device) + 1) / 2
    return (integrand(points) * (length / 2) * _WEIGHTS.to(start.device)).sum(-1)


class _Reparameterize(torch.autograd.Function):
    """The identity in ``value``, with the derivatives of :func:`reparameterize`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, velocity: Velocity, *parameters: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        # the output, not the input: a second derivative passes through the value again
        ctx.save_for_backward(output, *inputs[2:])
        ctx.velocity = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        velocities = ctx.velocity(*ctx.saved_tensors)
        return (None, None, *(gradient * velocity for velocity in velocities))
