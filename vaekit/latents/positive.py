"""Map from the outputs of a head to positive parameters, and its inverse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SOFTPLUS_SHIFT = 0.5413  # softplus(0.5413) = 1: a head that returns 0 gives a parameter of 1


def positive(raw: Tensor, minimum: float) -> Tensor:
    """Map outputs of a head to parameters above ``minimum``."""
    return F.softplus(raw + SOFTPLUS_SHIFT) + minimum


def inverse_positive(value: Tensor, minimum: float) -> Tensor:
    """Return the output of a head that :func:`positive` maps to ``value``, or to twice the minimum if that is more."""
    excess = (value - minimum).clamp_min(minimum)
    return excess + torch.log(-torch.expm1(-excess)) - SOFTPLUS_SHIFT
