"""Detection of the transforms of ``torch.func`` and of forward mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_functorch: Any = torch._C._functorch


def forward_mode() -> bool:
    """Return whether derivatives are taken in forward mode (``torch.func.jvp``, ``jacfwd``, ``hessian``)."""
    return not torch.compiler.is_compiling() and getattr(forward_ad, "_current_level", -1) >= 0


def in_transform() -> bool:
    """Return whether a transform of ``torch.func`` or forward mode is active."""
    return not torch.compiler.is_compiling() and (_functorch.maybe_current_level() is not None or forward_mode())


def rejects_randomness() -> bool:
    """Return whether an active ``vmap`` rejects random numbers, as it does by default."""
    if torch.compiler.is_compiling() or _functorch.maybe_current_level() is None:
        return False
    stack = _functorch.get_interpreter_stack() or []
    vmaps = [level for level in stack if level.key() == _functorch.TransformType.Vmap]
    return any(_functorch.CVmapInterpreterPtr(vmap).randomness() == _functorch.RandomnessType.Error for vmap in vmaps)


def without_vmap(value: Tensor) -> Tensor:
    """Return the tensor under the batches of ``vmap``, which hide its autograd graph."""
    if torch.compiler.is_compiling():
        return value
    while _functorch.is_batchedtensor(value):
        value = _functorch.get_unwrapped(value)
    return value


def is_differentiated(value: Tensor) -> bool:
    """Return whether a derivative with respect to a tensor, or by its inputs, may be taken.

    In forward mode, ``vmap`` hides the tangents of a tensor. The answer is then True.
    """
    return without_vmap(value).requires_grad or (forward_mode() and value.is_floating_point())
