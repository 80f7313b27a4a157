"""What mixed precision leaves in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(parameter: Tensor) -> Tensor:
    """Return what a head gives in float32 at least: in mixed precision only its matrix product is in half precision.

    Densities would lose nats, and draws of discrete variables would have other probabilities: half precision counts
    256 steps from 0 to 1.
    """
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))
