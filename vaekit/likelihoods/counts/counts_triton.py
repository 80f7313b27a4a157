r"""Count likelihoods on a GPU: a Triton kernel that computes the log-probability of a cell and its gradients.

The kernel uses the formulas of :mod:`vaekit.likelihoods.counts.sparse`, in float32, over all genes, because skipping
zeros saves nothing on a GPU. The host never waits for the device, and no branch depends on a value
(:mod:`vaekit.likelihoods.counts.elements`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from typing_extensions import override

from vaekit.batch import Batch
from vaekit.likelihoods.counts.dense import differentiate_twice, scale_gradients
from vaekit.likelihoods.counts.elements import exponential, inflate, logarithm, negative_binomial

BLOCK = 512  # genes per program and iteration
LAUNCH: dict[str, Any] = {"block": BLOCK, "num_warps": 4, "enable_fp_fusion": True}


def log_prob(logits: Tensor, batch: Batch, log_size: Tensor, log_theta: Tensor, gate: Tensor | None) -> Tensor:
    """Return the log-probability of the counts of each cell, float32 ``[*sample, batch]``.

    The arguments match :func:`vaekit.likelihoods.counts.sparse.log_prob`, in float32 and with log size factors.
    Values that are not counts (fractional, negative, not finite) give NaN, because a check would wait for the device.
    """
    log_size = log_size.expand(*logits.shape[:-1], 1)
    if log_theta.dim() > 1:
        log_theta = log_theta.expand_as(logits)
    return _KernelLogProb.apply(logits, log_size, log_theta, gate, batch.x, torch.is_grad_enabled())


class _KernelLogProb(torch.autograd.Function):
    """Log-probability ``[*sample, batch]`` for logits ``[*sample, batch, genes]``."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, log_size: Tensor, log_theta: Tensor, gate: Tensor | None, x: Tensor, needs_grad: bool
    ) -> Tensor:
        """Compute the log-probabilities and, if ``needs_grad`` is True, their gradients."""
        genes = logits.shape[-1]
        flat, theta, counts = (part.detach().reshape(-1, genes).contiguous() for part in (logits, log_theta, x.float()))
        gates = flat if gate is None else gate.detach().reshape(-1, genes).contiguous()
        size = log_size.detach().reshape(-1).contiguous()
        cells = len(flat)
        value, log_norm, d_size = (flat.new_empty(cells) for _ in range(3))
        d_log_mean, d_theta = (torch.empty_like(flat) if needs_grad else flat for _ in range(2))
        d_gate = torch.empty_like(flat) if needs_grad and gate is not None else flat
        inputs = (flat, size, theta, gates, counts, len(counts), genes, genes if len(theta) > 1 else 0)
        outputs = (value, log_norm, d_size, d_log_mean, d_theta, d_gate)
        if cells:
            with torch.cuda.device_of(flat):
                _forward[(cells,)](*inputs, *outputs, inflated=gate is not None, needs_grad=needs_grad, **LAUNCH)
        if needs_grad:
            ctx.save_for_backward(logits, log_size, log_theta, gate, x)
            ctx.gradients = (log_norm, d_size, d_log_mean, d_theta, d_gate)
        return value.view(logits.shape[:-1])

    @staticmethod
    @override
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return (*differentiate_twice(ctx, upstream[0]), None, None)
        log_norm, d_size, d_log_mean, d_theta, d_gate = ctx.gradients
        logits, (cells, genes) = ctx.saved_tensors[0], d_log_mean.shape
        upstream_flat = upstream[0].float().reshape(-1).contiguous()  # the upstream of a sum is an expanded scalar
        d_logits = torch.empty_like(d_log_mean) if ctx.needs_input_grad[0] else None
        if d_logits is not None and cells:
            flat = logits.detach().reshape(-1, genes).contiguous()
            grid = (cells, triton.cdiv(genes, BLOCK))
            with torch.cuda.device_of(flat):
                _softmax_backward[grid](flat, log_norm, d_size, d_log_mean, upstream_flat, d_logits, genes, **LAUNCH)
        scaled = scale_gradients(ctx, upstream_flat, d_size, d_theta, d_gate)
        return (None if d_logits is None else d_logits.view_as(logits), *scaled, None, None)


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
    needs_grad: tl.constexpr,
    block: tl.constexpr,
):
    """Compute the log-probability of a cell, the log normalizer of its softmax, and the gradients, by one program.

    Matrices ``[rows, genes]`` and vectors ``[rows]`` are contiguous; ``log_theta`` has one row if its stride is 0. Row
    i has the counts of cell i modulo their number. The gradients are with respect to the log size factor (the sum of
    the next ones), the log means, the log inverse dispersions and the gates.
    """
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, block)
    top = tl.full([block], float("-inf"), tl.float32)
    norm = tl.zeros([block], tl.float32)
    for first in range(0, genes, block):  # per lane, then over all lanes
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
        offset = row * genes + first + lane
        log_mean = tl.load(logits + offset, mask=inside, other=0.0) + level
        dispersion = tl.load(log_theta + row * theta_stride + first + lane, mask=inside, other=0.0)
        count = tl.load(x + (row % cells) * genes + first + lane, mask=inside, other=0.0)
        p, slope, theta_slope = negative_binomial(count, log_mean, dispersion)
        if inflated:
            g = tl.load(gate + offset, mask=inside, other=0.0)
            p, fraction, gate_slope = inflate(count, p, g)
            slope *= fraction
            theta_slope *= fraction
        sums += tl.where(inside, p, 0.0)
        slope = tl.where(inside, slope, 0.0)
        slopes += slope
        if needs_grad:
            tl.store(d_log_mean + offset, slope, mask=inside)
            tl.store(d_theta + offset, theta_slope, mask=inside)
            if inflated:
                tl.store(d_gate + offset, gate_slope, mask=inside)
    tl.store(value + row, tl.sum(sums, 0))
    tl.store(log_norm + row, log_total)
    tl.store(d_size + row, tl.sum(slopes, 0))


@triton.jit
def _softmax_backward(logits, log_norm, d_size, d_log_mean, upstream, d_logits, genes, block: tl.constexpr):
    """Write the gradient of the logits times the upstream gradient; one program per block of a row."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * block + tl.arange(0, block)
    inside, offset = lane < genes, row * genes + lane
    fraction = exponential(tl.load(logits + offset, mask=inside, other=0.0) - tl.load(log_norm + row))
    slope = tl.load(d_log_mean + offset, mask=inside, other=0.0) - fraction * tl.load(d_size + row)
    tl.store(d_logits + offset, slope * tl.load(upstream + row), mask=inside)
