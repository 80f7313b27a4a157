"""Gradient paths from a cost to a value, found in autograd's graph without a backward pass."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from vaekit.estimators.func_transforms import without_vmap

# The derivative of a step function is zero wherever it exists: no gradient flows through it, yet the cost still jumps.
_STEP_FUNCTIONS = {"SignBackward0", "SgnBackward0", "FloorBackward0", "CeilBackward0", "RoundBackward0",
                   "RoundBackward1", "TruncBackward0"}  # fmt: skip


def has_gradient_path(output: Tensor, value: Tensor) -> bool:
    """Return whether a gradient can flow from ``output`` back to ``value``.

    A path through ``sign``, ``floor``, ``ceil``, ``round``, ``trunc`` or a rounded division does not count. A path
    whose gradient happens to be zero counts, such as that of a decoder with zero weights. A jump in addition to a real
    path, as in ``z + sign(z)``, is not detected.

    Examples
    --------
    >>> import torch
    >>> z = torch.zeros(2, requires_grad=True) + 0
    >>> has_gradient_path(z.square().sum(), z), has_gradient_path((z.sign() + 1).sum(), z)
    (True, False)
    """
    output, value = without_vmap(output), without_vmap(value)
    if not (output.requires_grad and value.requires_grad):
        return False
    target = value.grad_fn or get_gradient_edge(value).node
    visited = set()
    stack = [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is target:
            return True
        if node is None or node in visited:
            continue
        visited.add(node)
        is_step = node.name() in _STEP_FUNCTIONS or getattr(node, "_saved_rounding_mode", None) is not None
        if not is_step and not node.name().endswith("NotImplemented"):
            stack.extend(parent for parent, _ in node.next_functions)
    return False
