"""Precision of the outputs of a network."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(parameter: Tensor) -> Tensor:
    """Return a head's output in at least float32: in mixed precision only its matrix product has half precision.

    Half precision has 256 steps from 0 to 1. Densities would lose nats, and discrete samples would have other
    probabilities.
    """
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))
