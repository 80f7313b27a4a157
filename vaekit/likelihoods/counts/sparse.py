r"""Log-probabilities of sparse counts and their gradients, computed in one pass.

With :math:`r = \mu / \theta` and :math:`L = \log(1 + r)` the negative binomial distribution is

.. math:: \log p(x) = -\theta L + x (\log\mu - L) + \sum_{k < x} \log\frac{1 + k / \theta}{1 + k},

.. math:: \partial_{\log\mu} = \frac{x - \mu}{1 + r}, \qquad
    \partial_{\log\theta} = -\theta L - \partial_{\log\mu} + \sum_{k < x} \frac{\theta}{\theta + k}

The sums, which replace gamma functions, are empty at a zero count, and no terms as large as :math:`\theta` cancel. With
a probability :math:`\pi` of additional zeros, :math:`p(0) = \pi + (1 - \pi) e^{-\theta L}`, and both gradients are
multiplied by the fraction of the second term.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from vaekit.batch import Batch, CSREntries
from vaekit.likelihoods.counts.dense import dense_log_prob, differentiate_twice, scale_gradients

MAX_LOG_THETA = 40.0  # beyond, float32 overflows
MAX_GATE = 60.0  # beyond, p(0) may underflow


def log_prob(logits: Tensor, batch: Batch, log_theta: Tensor, gate: Tensor | None = None) -> Tensor:
    """Return the log-probability of the counts of each cell, ``[*sample, batch]``, in at least float32.

    The mean is ``size_factor * softmax(logits)``. On the CPU, a compiled pass over the non-zero counts computes in
    float32. The dense formula in float64 replaces it in ``torch.compile``, for float64, and for values or parameters
    outside its range. On a GPU, a Triton kernel computes over all counts in float32
    (:mod:`vaekit.likelihoods.counts.counts_triton`) and returns NaN for values that are not counts; the dense formula
    replaces it for float64, and if Triton is not installed.

    Parameters
    ----------
    logits : Tensor, shape (*sample, batch, genes)
        Logits of the composition.
    batch : Batch
        Counts and their size factors of shape (batch, 1) or (*sample, batch, 1).
    log_theta : Tensor
        Log inverse dispersions, of shape (genes,), which is faster, or broadcastable to the logits.
    gate : Tensor or None, shape (*sample, batch, genes)
        Logits of additional zeros. None: there are no additional zeros.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    assert batch.size_factor is not None
    with torch.autocast(logits.device.type, enabled=False):
        logits, log_theta, gate = logits.to(dtype), log_theta.to(dtype), None if gate is None else gate.to(dtype)
        log_size = batch.size_factor.to(dtype).log()
        if _supports_kernel(logits):
            from vaekit.likelihoods.counts import counts_triton  # needs Triton

            return counts_triton.log_prob(logits, batch, log_size, log_theta, gate)
        counts = _find_counts(batch) if _in_range(logits, log_theta, gate) else None
        if counts is None:
            return dense_log_prob(logits, log_size, log_theta, gate, batch.x).to(dtype)
        log_size = log_size.expand(*logits.shape[:-1], 1)
        if log_theta.dim() > 1:
            log_theta = log_theta.expand_as(logits)
        needs_grad = torch.is_grad_enabled()
        return _SparseLogProb.apply(logits, log_size, log_theta, gate, batch.x, counts, needs_grad).to(dtype)


def _supports_kernel(logits: Tensor) -> bool:
    """Return whether the Triton kernel applies, without waiting for the device."""
    if logits.device.type != "cuda" or logits.dtype != torch.float32 or torch.compiler.is_compiling():
        return False
    return _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _in_range(logits: Tensor, log_theta: Tensor, gate: Tensor | None) -> bool:
    """Return whether the pass over non-zero counts applies."""
    if torch.compiler.is_compiling() or logits.device.type != "cpu" or not logits.numel():
        return False
    if logits.dtype != torch.float32:
        return False
    with torch.no_grad():
        low, high = log_theta.aminmax()
        if not -MAX_LOG_THETA < float(low) <= float(high) < MAX_LOG_THETA:
            return False
        if gate is None:
            return True
        low, high = gate.aminmax()
        return -MAX_GATE < float(low) <= float(high) < MAX_GATE


def _find_counts(batch: Batch) -> CSREntries | None:
    """Return the non-zero counts, or None if a value is not a count (fractional, negative, not finite)."""
    from vaekit.likelihoods.counts.counts_numba import all_counts  # slow to import

    entries = batch.entries or _find_entries(batch.x.detach().float())
    return entries if all_counts(entries.data.numpy()) else None


def _find_entries(x: Tensor) -> CSREntries:
    """Return the non-zero entries of a matrix."""
    row, column = x.nonzero().T
    indptr = torch.zeros(len(x) + 1, dtype=torch.int64)
    torch.cumsum(row.bincount(minlength=len(x)), 0, out=indptr[1:])
    return CSREntries(x, indptr, column.contiguous(), x[row, column])


class _SparseLogProb(torch.autograd.Function):
    """Log-probability ``[*sample, batch]``, in float64, for logits ``[*sample, batch, genes]``."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        log_size: Tensor,
        log_theta: Tensor,
        gate: Tensor | None,
        x: Tensor,
        counts: CSREntries,
        needs_grad: bool,
    ) -> Tensor:
        """Compute the log-probabilities and, if ``needs_grad`` is True, their gradients."""
        from vaekit.likelihoods.counts.counts_numba import evaluate

        genes = logits.shape[-1]
        flat = logits.detach().reshape(-1, genes)
        theta = log_theta.detach().exp().reshape(-1, genes)
        size = log_size.detach().exp().reshape(-1)
        gates = flat.new_empty(0, genes) if gate is None else gate.detach().reshape(-1, genes)
        value = flat.new_empty(len(flat), dtype=torch.float64)
        cells = len(flat) if needs_grad else 0
        gradients = (
            flat.new_empty(cells, genes),
            flat.new_empty(cells),
            flat.new_empty(cells, genes),
            flat.new_empty(cells if len(gates) else 0, genes),
        )
        tensors = (flat, flat.amax(-1), size, theta, gates, *counts[1:], value, *gradients)
        # single-threaded: another thread pool would compete with torch's threads, which busy-wait
        evaluate(*(part.contiguous().numpy() for part in tensors))
        if needs_grad:
            ctx.save_for_backward(logits, log_size, log_theta, gate, x)
            ctx.gradients = gradients
        return value.view(logits.shape[:-1])

    @staticmethod
    @override
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return (*differentiate_twice(ctx, upstream[0]), None, None, None)
        d_logits, d_size, d_theta, d_gate = ctx.gradients
        upstream_flat = upstream[0].to(d_logits.dtype).reshape(-1)
        logits = (d_logits * upstream_flat[:, None]).view(*upstream[0].shape, -1) if ctx.needs_input_grad[0] else None
        return (logits, *scale_gradients(ctx, upstream_flat, d_size, d_theta, d_gate), None, None, None)
