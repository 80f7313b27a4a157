"""Functions of the standard normal distribution on an interval, in float64 and accurate far in the tails."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FAR = 1e6  # replaces infinity, in standard deviations: density and derivatives are 0 there


def log_phi(x: Tensor) -> Tensor:
    """Return the log-density of the standard normal distribution."""
    return -x.square() / 2 - 0.5 * math.log(2 * math.pi)


def log_mass(a: Tensor, b: Tensor) -> Tensor:
    """Return ``log(Phi(b) - Phi(a))`` for a <= b, from the nearer tail, or by the midpoint rule for a close to b."""
    width, middle = b - a, (a + b) / 2
    close = width * (1 + middle.abs()) < 1e-2
    a, b = torch.where(a > 0, -b, a), torch.where(a > 0, -a, b)
    log_b = torch.special.log_ndtr(b)
    ratio = torch.where(close, -1, torch.special.log_ndtr(a) - log_b)
    width = torch.where(close, width, 1e-3).clamp_min(1e-100)
    middle = torch.where(close, middle, 0)
    rule = width.log() + log_phi(middle) + (width.square() * (middle.square() - 1) / 24).log1p()
    return torch.where(close, rule, log_b + ratio.expm1().neg().log())


def velocity(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives of a standardized value with respect to both ends of its interval."""
    whole = log_mass(a, b)
    by_a = (log_mass(x, b) - whole + (x - a) * (x + a) / 2).exp()
    by_b = (log_mass(a, x) - whole + (x - b) * (x + b) / 2).exp()
    return by_a, by_b


def invert(uniform: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the value between a and b with the cumulative probability ``uniform``."""
    flip = a > 0
    low, high = torch.where(flip, -b, a), torch.where(flip, -a, b)
    below, above = torch.where(flip, uniform, 1 - uniform).log(), torch.where(flip, 1 - uniform, uniform).log()
    log_p = torch.logaddexp(torch.special.log_ndtr(low) + below, torch.special.log_ndtr(high) + above)
    x = torch.where(
        log_p > -0.5, -torch.special.ndtri(-log_p.expm1()), torch.special.ndtri(log_p.clamp_min(-700).exp())
    )
    double = -2 * log_p.clamp_max(-700)
    far = -(double - double.log() - math.log(2 * math.pi)).sqrt()
    for _ in range(3):  # Newton's method on log Phi, which is concave
        log_slope = log_phi(far) - torch.special.log_ndtr(far)
        far = far - (torch.special.log_ndtr(far) - log_p) / log_slope.exp()
    x = torch.minimum(torch.maximum(torch.where(log_p < -700, far, x), low), high)
    return torch.where(flip, -x, x)
