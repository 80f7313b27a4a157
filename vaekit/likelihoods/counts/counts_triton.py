r"""The count likelihoods on a GPU: one Triton kernel works out a cell's log-probability and its gradients.

The formulas are those of :mod:`vaekit.likelihoods.counts.sparse`, in float32, over all genes: threads of a GPU work side by
side, so that there is nothing to gain from leaving out zeros. Nothing is asked of the device, and nothing depends on
how large a value turns out to be (:mod:`vaekit.likelihoods.counts.elements`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vaekit.batch import Batch
from vaekit.likelihoods.counts.elements import exponential, inflate, logarithm, negative_binomial

BLOCK = 512  # genes that a program works on at a time
LAUNCH: dict[str, Any] = {"block": BLOCK, "num_warps": 4, "enable_fp_fusion": True}


def log_prob(logits: Tensor, batch: Batch, log_size: Tensor, log_theta: Tensor, gate: Tensor | None) -> Tensor:
    """Return the log-probability of the counts of each cell, float32 ``[*rows, batch]``.

    The arguments are those of :func:`vaekit.likelihoods.counts.sparse.log_prob`, float32, with the log size factors in their
    place. Values that are no counts (not whole, negative, not finite) give NaN: to look for them would be to wait for
    the device.
    """
    log_size = log_size.expand(*logits.shape[:-1], 1)
    if log_theta.dim() > 1:
        log_theta = log_theta.expand_as(logits)
    return _KernelLogProb.apply(logits, log_size, log_theta, gate, batch.x, torch.is_grad_enabled())


class _KernelLogProb(torch.autograd.Function):
    """Log-probability ``[*rows, batch]`` of logits ``[*rows, batch, genes]``."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, log_size: Tensor, log_theta: Tensor, gate: Tensor | None, x: Tensor, wanted: bool
    ) -> Tensor:
        """Work out the values and, if wanted, their gradients."""
        genes = logits.shape[-1]
        flat, theta, counts = (part.detach().reshape(-1, genes).contiguous() for part in (logits, log_theta, x.float()))
        gates = flat if gate is None else gate.detach().reshape(-1, genes).contiguous()
        size = log_size.detach().reshape(-1).contiguous()
        rows = len(flat)
        value, log_norm, d_size = (flat.new_empty(rows) for _ in range(3))
        d_log_mean, d_theta = (torch.empty_like(flat) if wanted else flat for _ in range(2))
        d_gate = torch.empty_like(flat) if wanted and gate is not None else flat
        inputs = (flat, size, theta, gates, counts, len(counts), genes, genes if len(theta) > 1 else 0)
        outputs = (value, log_norm, d_size, d_log_mean, d_theta, d_gate)
        if rows:
            with torch.cuda.device_of(flat):
                _forward[(rows,)](*inputs, *outputs, inflated=gate is not None, wanted=wanted, **LAUNCH)
        if wanted:
            ctx.save_for_backward(logits, log_size, log_theta, gate, x)
            ctx.gradients = (log_norm, d_size, d_log_mean, d_theta, d_gate)
        return value.view(logits.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply by the upstream gradient; a derivative of this derivative takes the dense formula."""
        needed = ctx.needs_input_grad[:4]
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            from vaekit.likelihoods.counts.sparse import dense_log_prob  # which needs this module

            sought = [t for t, need in zip(inputs, needed, strict=False) if need]
            value = dense_log_prob(*inputs).to(inputs[0].dtype)
            found = iter(torch.autograd.grad(value, sought, upstream[0], create_graph=True))
            return (*(next(found) if need else None for need in needed), None, None)
        log_norm, d_size, d_log_mean, d_theta, d_gate = ctx.gradients
        logits, (rows, genes) = inputs[0], d_log_mean.shape
        each = upstream[0].float().reshape(-1).contiguous()  # a sum's is one number, expanded
        d_logits = torch.empty_like(d_log_mean) if needed[0] else None
        if d_logits is not None and rows:
            flat = logits.detach().reshape(-1, genes).contiguous()
            grid = (rows, triton.cdiv(genes, BLOCK))
            with torch.cuda.device_of(flat):
                _through_softmax[grid](flat, log_norm, d_size, d_log_mean, each, d_logits, genes, **LAUNCH)
        shared = inputs[2].dim() == 1
        column = each[:, None]
        with torch.autocast(column.device.type, enabled=False):
            return (
                None if d_logits is None else d_logits.view_as(logits),
                (d_size * each).view_as(inputs[1]) if needed[1] else None,
                (each @ d_theta if shared else d_theta * column).view_as(inputs[2]) if needed[2] else None,
                (d_gate * column).view_as(inputs[3]) if needed[3] else None,
                None,
                None,
            )


@triton.jit
def _forward(
    logits,
    log_size,
    log_theta,
    gate,
    x,
    cells,
    genes,
    theta_stride,
    value,
    log_norm,
    d_size,
    d_log_mean,
    d_theta,
    d_gate,
    inflated: tl.constexpr,
    wanted: tl.constexpr,
    block: tl.constexpr,
):
    """Work out a cell: its log-probability, log of the softmax's sum, and gradients; a program each.

    Matrices ``[rows, genes]`` and vectors ``[rows]`` are contiguous; ``log_theta`` is one row where its stride is 0;
    row i has the counts of cell i modulo their number. Gradients are with respect to the log size factor (the sum of
    the next), the log means, the log inverse dispersions and the gates.
    """
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, block)
    top = tl.full([block], float("-inf"), tl.float32)
    norm = tl.zeros([block], tl.float32)
    for first in range(0, genes, block):  # of each lane, and then of all
        logit = tl.load(logits + row * genes + first + lane, mask=first + lane < genes, other=float("-inf"))
        higher = tl.where(logit > top, logit, top)
        some = higher > float("-inf")
        norm = norm * exponential(tl.where(some, top - higher, 0.0)) + tl.where(some, exponential(logit - higher), 0.0)
        norm += tl.where(logit == logit, 0.0, logit)  # NaN stays
        top = higher
    highest = tl.max(top, 0)
    total = tl.sum(tl.where(top > float("-inf"), norm * exponential(top - highest), norm), 0)
    log_total = highest + logarithm(total) + (total - total)
    level = tl.load(log_size + row) - log_total
    sums, slopes = tl.zeros([block], tl.float32), tl.zeros([block], tl.float32)
    for first in range(0, genes, block):
        inside = first + lane < genes
        here = row * genes + first + lane
        log_mean = tl.load(logits + here, mask=inside, other=0.0) + level
        own = tl.load(log_theta + row * theta_stride + first + lane, mask=inside, other=0.0)
        count = tl.load(x + (row % cells) * genes + first + lane, mask=inside, other=0.0)
        p, slope, theta_slope = negative_binomial(count, log_mean, own)
        if inflated:
            g = tl.load(gate + here, mask=inside, other=0.0)
            p, share, gate_slope = inflate(count, p, g)
            slope *= share
            theta_slope *= share
        sums += tl.where(inside, p, 0.0)
        slope = tl.where(inside, slope, 0.0)
        slopes += slope
        if wanted:
            tl.store(d_log_mean + here, slope, mask=inside)
            tl.store(d_theta + here, theta_slope, mask=inside)
            if inflated:
                tl.store(d_gate + here, gate_slope, mask=inside)
    tl.store(value + row, tl.sum(sums, 0))
    tl.store(log_norm + row, log_total)
    tl.store(d_size + row, tl.sum(slopes, 0))


@triton.jit
def _through_softmax(logits, log_norm, d_size, d_log_mean, upstream, d_logits, genes, block: tl.constexpr):
    """Write the gradient with respect to the logits, times the upstream one; a program for each block of a row."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * block + tl.arange(0, block)
    inside, here = lane < genes, row * genes + lane
    share = exponential(tl.load(logits + here, mask=inside, other=0.0) - tl.load(log_norm + row))
    slope = tl.load(d_log_mean + here, mask=inside, other=0.0) - share * tl.load(d_size + row)
    tl.store(d_logits + here, slope * tl.load(upstream + row), mask=inside)
