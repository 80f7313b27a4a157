r"""Log-probabilities of sparse counts, with their gradients worked out in the same pass.

With :math:`r = \mu / \theta` and :math:`L = \log(1 + r)` the negative binomial is

.. math:: \log p(x) = -\theta L + x (\log\mu - L) + \sum_{k < x} \log\frac{1 + k / \theta}{1 + k},

.. math:: \partial_{\log\mu} = \frac{x - \mu}{1 + r}, \qquad
    \partial_{\log\theta} = -\theta L - \partial_{\log\mu} + \sum_{k < x} \frac{\theta}{\theta + k}:

the sums that stand for gamma functions are empty at a zero count, and nothing of the size of :math:`\theta` cancels.
With additional zeros of probability :math:`\pi`, a zero has :math:`p(0) = \pi + (1 - \pi) e^{-\theta L}`; both parts of
the gradient are then weighted by the second term's share in it.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor

from vaekit.batch import Batch, CSREntries
from vaekit.distributions import NegativeBinomial, ZeroInflated

MAX_LOG_THETA = 40.0  # beyond, float32 overflows
MAX_GATE = 60.0  # beyond, p(0) may underflow


def log_prob(logits: Tensor, batch: Batch, log_theta: Tensor, gate: Tensor | None = None) -> Tensor:
    """Return the log-probability of the counts of each cell, ``[*rows, batch]``, in float32 at least.

    The mean is ``size_factor * softmax(logits)``. The pass over non-zero counts is compiled for the CPU, in float32; in
    a compiled function, in float64, and for values or parameters beyond its range the dense formula in float64 takes
    its place. On a GPU a kernel goes over all counts (:mod:`vaekit.likelihoods.counts.counts_triton`), in float32: there,
    values that are no counts give NaN, and the dense formula remains for float64, and where Triton is not installed.

    Parameters
    ----------
    logits
        Of the composition, ``[*rows, batch, genes]``.
    batch
        The counts and their size factors, ``[batch, 1]`` or ``[*rows, batch, 1]``.
    log_theta
        Log inverse dispersions, ``[genes]`` or broadcastable to the logits; the first is faster.
    gate
        Logits of additional zeros, ``[*rows, batch, genes]``, or None.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    assert batch.size_factor is not None
    with torch.autocast(logits.device.type, enabled=False):
        logits, log_theta, gate = logits.to(dtype), log_theta.to(dtype), None if gate is None else gate.to(dtype)
        log_size = batch.size_factor.to(dtype).log()
        if _takes_kernel(logits):
            from vaekit.likelihoods.counts import counts_triton  # needs Triton

            return counts_triton.log_prob(logits, batch, log_size, log_theta, gate)
        counts = _find(batch) if _in_range(logits, log_theta, gate) else None
        if counts is None:
            return dense_log_prob(logits, log_size, log_theta, gate, batch.x).to(dtype)
        log_size = log_size.expand(*logits.shape[:-1], 1)
        if log_theta.dim() > 1:
            log_theta = log_theta.expand_as(logits)
        wanted = torch.is_grad_enabled()
        return _SparseLogProb.apply(logits, log_size, log_theta, gate, batch.x, counts, wanted).to(dtype)


def dense_log_prob(logits: Tensor, log_size: Tensor, log_theta: Tensor, gate: Tensor | None, x: Tensor) -> Tensor:
    """Return the same by torch's distributions, in float64."""
    counts: Any = NegativeBinomial(log_mean=logits.log_softmax(-1) + log_size, log_inverse_dispersion=log_theta)
    return (counts if gate is None else ZeroInflated(counts, gate)).log_prob(x).sum(-1)


def _takes_kernel(logits: Tensor) -> bool:
    """Return whether the kernel for GPUs can be taken; nothing is asked of the device."""
    if logits.device.type != "cuda" or logits.dtype != torch.float32 or torch.compiler.is_compiling():
        return False
    return _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _in_range(logits: Tensor, log_theta: Tensor, gate: Tensor | None) -> bool:
    """Return whether the pass over non-zero counts can be taken."""
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


def _find(batch: Batch) -> CSREntries | None:
    """Return the non-zero counts; None if some values are no counts (not whole, negative, not finite)."""
    from vaekit.likelihoods.counts.counts_numba import all_counts  # slow to import

    found = batch.entries or _search(batch.x.detach().float())
    return found if all_counts(found.data.numpy()) else None


def _search(x: Tensor) -> CSREntries:
    """Return the non-zero entries of a matrix."""
    row, column = x.nonzero().T
    starts = torch.zeros(len(x) + 1, dtype=torch.int64)
    torch.cumsum(row.bincount(minlength=len(x)), 0, out=starts[1:])
    return CSREntries(x, starts, column.contiguous(), x[row, column])


class _SparseLogProb(torch.autograd.Function):
    """Log-probability ``[*rows, batch]``, in float64, of logits ``[*rows, batch, genes]``."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        log_size: Tensor,
        log_theta: Tensor,
        gate: Tensor | None,
        x: Tensor,
        counts: CSREntries,
        wanted: bool,
    ) -> Tensor:
        """Work out the values and, if wanted, their gradients."""
        from vaekit.likelihoods.counts.counts_numba import evaluate

        genes = logits.shape[-1]
        flat = logits.detach().reshape(-1, genes)
        theta = log_theta.detach().exp().reshape(-1, genes)
        size = log_size.detach().exp().reshape(-1)
        gates = flat.new_empty(0, genes) if gate is None else gate.detach().reshape(-1, genes)
        value = flat.new_empty(len(flat), dtype=torch.float64)
        rows = len(flat) if wanted else 0
        gradients = (
            flat.new_empty(rows, genes),
            flat.new_empty(rows),
            flat.new_empty(rows, genes),
            flat.new_empty(rows if len(gates) else 0, genes),
        )
        tensors = (flat, flat.amax(-1), size, theta, gates, *counts[1:], value, *gradients)
        # on one thread: those of another pool would wait for the cores that torch's own hold at full speed for a while
        evaluate(*(part.contiguous().numpy() for part in tensors))
        if wanted:
            ctx.save_for_backward(logits, log_size, log_theta, gate, x)
            ctx.gradients = gradients
        return value.view(logits.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply by the upstream gradient; a derivative of this derivative takes the dense formula."""
        needed = ctx.needs_input_grad[:4]
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            sought = [t for t, need in zip(inputs, needed, strict=False) if need]
            found = iter(torch.autograd.grad(dense_log_prob(*inputs), sought, upstream[0], create_graph=True))
            return (*(next(found) if need else None for need in needed), None, None, None)
        logits, size, theta, gate = ctx.gradients
        each = upstream[0].to(logits.dtype).reshape(-1, 1)
        with torch.autocast(each.device.type, enabled=False):
            shared = inputs[2].dim() == 1
            return (
                (logits * each).view_as(inputs[0]) if needed[0] else None,
                (size[:, None] * each).view_as(inputs[1]) if needed[1] else None,
                (each.T @ theta if shared else theta * each).view_as(inputs[2]) if needed[2] else None,
                (gate * each).view_as(inputs[3]) if needed[3] else None,
                None,
                None,
                None,
            )
