"""Log-probabilities of counts by torch's distributions, over all genes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vaekit.distributions import NegativeBinomial, ZeroInflated


def dense_log_prob(logits: Tensor, log_size: Tensor, log_theta: Tensor, gate: Tensor | None, x: Tensor) -> Tensor:
    """Return the log-probability of the counts of each cell, in float64, ``[*sample, batch]``."""
    counts: Any = NegativeBinomial(log_mean=logits.log_softmax(-1) + log_size, log_inverse_dispersion=log_theta)
    return (counts if gate is None else ZeroInflated(counts, gate)).log_prob(x).sum(-1)


def differentiate_twice(ctx: Any, upstream: Tensor) -> list[Tensor | None]:
    """Return differentiable gradients of the saved inputs: logits, log size, log theta and gate.

    The compiled passes compute first derivatives only; derivatives of these use the dense formula.
    """
    inputs, needs_grad = ctx.saved_tensors, ctx.needs_input_grad[:4]
    value = dense_log_prob(*inputs).to(upstream.dtype)
    required = [tensor for tensor, need in zip(inputs, needs_grad, strict=False) if need]
    gradients = iter(torch.autograd.grad(value, required, upstream, create_graph=True))
    return [next(gradients) if need else None for need in needs_grad]


def scale_gradients(ctx: Any, upstream: Tensor, d_size: Tensor, d_theta: Tensor, d_gate: Tensor) -> list[Tensor | None]:
    """Return the gradients of log size, log theta and gate for the upstream gradients ``[cells]``."""
    _, log_size, log_theta, gate = ctx.saved_tensors[:4]
    needs_grad, column = ctx.needs_input_grad, upstream[:, None]
    with torch.autocast(upstream.device.type, enabled=False):
        theta = column.T @ d_theta if log_theta.dim() == 1 else d_theta * column
        return [
            (d_size * upstream).view_as(log_size) if needs_grad[1] else None,
            theta.view_as(log_theta) if needs_grad[2] else None,
            (d_gate * column).view_as(gate) if needs_grad[3] else None,
        ]
