r"""Log-probabilities of sparse counts, with their gradients worked out in the same pass.

With :math:`r = \mu / \theta`, :math:`L = \log(1 + r)` and :math:`\sigma = r / (1 + r)` the negative binomial is

.. math:: \log p(x) = -\theta L + [x > 0] \Big(x (\log r - L) + \sum_{k < x} \log\frac{1 + k / \theta}{1 + k}\Big),

.. math:: \partial_{\log\mu} = -\theta\sigma + x (1 - \sigma), \qquad
    \partial_{\log\theta} = -\theta (L - \sigma) + x\sigma - \sum_{k < x} \frac{k}{\theta + k}:

a zero count needs the first term alone, and nothing cancels at large :math:`\theta`. With additional zeros of
probability :math:`\pi`, a zero has :math:`p(0) = \pi + (1 - \pi) e^{-\theta L}`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.batch import Batch
from vaekit.distributions import NegativeBinomial, ZeroInflated
from vaekit.likelihoods.nonzero import SMALL, NonZero, find, sums

LARGE_THETA = 100.0  # beyond, L - sigma needs float64
MAX_LOG_THETA = 40.0  # beyond, float32 overflows
MIN_GATE = -60.0  # below, p(0) may underflow


def log_prob(logits: Tensor, batch: Batch, log_theta: Tensor, gate: Tensor | None = None) -> Tensor:
    """Return the log-probability of the counts of each cell, ``[*rows, batch]``, in float32 at least.

    The mean is ``size_factor * softmax(logits)``. The pass over non-zero counts is for the CPU; elsewhere, when
    compiled, and for values or parameters beyond its range, the dense formula in float64 takes its place.

    Parameters
    ----------
    logits
        Of the composition, ``[*rows, batch, genes]``.
    batch
        The counts and their size factors.
    log_theta
        Log inverse dispersions, ``[genes]``.
    gate
        Logits of additional zeros, ``[*rows, batch, genes]``, or None.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    assert batch.size_factor is not None
    with torch.autocast(logits.device.type, enabled=False):
        logits, log_theta, gate = (None if t is None else t.to(dtype) for t in (logits, log_theta, gate))
        log_size = batch.size_factor.log().to(dtype)
        nonzero = find(batch) if _in_range(logits, log_theta, gate) else None
        if nonzero is None:
            return _dense(logits, log_size, log_theta, gate, batch.x).to(dtype)
        shape = logits.shape[:-1]
        logits, gate = (None if t is None else t.reshape(-1, *t.shape[-2:]) for t in (logits, gate))
        nonzero = nonzero.repeat(len(logits), *batch.x.shape)
        nonzero = nonzero._replace(value=nonzero.value.to(dtype))
        wanted = torch.is_grad_enabled()
        return _SparseCounts.apply(logits, log_size, log_theta, gate, batch.x, nonzero, wanted).view(shape).to(dtype)


def _in_range(logits: Tensor, log_theta: Tensor, gate: Tensor | None) -> bool:
    """Return whether the pass over non-zero counts can be taken."""
    if logits.device.type != "cpu" or torch.compiler.is_compiling() or log_theta.dim() != 1 or not logits.numel():
        return False
    with torch.no_grad():
        return bool(log_theta.abs().max() < MAX_LOG_THETA) and (gate is None or bool(gate.min() > MIN_GATE))


def _dense(logits: Tensor, log_size: Tensor, log_theta: Tensor, gate: Tensor | None, x: Tensor) -> Tensor:
    """Return the same by torch's distributions, in float64."""
    counts: Any = NegativeBinomial(logits.log_softmax(-1) + log_size, log_theta)
    return (counts if gate is None else ZeroInflated(counts, gate)).log_prob(x).sum(-1)


class _SparseCounts(torch.autograd.Function):
    """Log-probability ``[rows, batch]``, in float64, of logits ``[rows, batch, genes]``."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        log_size: Tensor,
        log_theta: Tensor,
        gate: Tensor | None,
        x: Tensor,
        nonzero: NonZero,
        wanted: bool,
    ) -> Tensor:
        """Work out the value and, if wanted, the gradients for a unit upstream gradient."""
        cells, theta = logits.shape[:-1], log_theta.exp()
        at, count = nonzero.flat, nonzero.value
        large = (nonzero.whole > SMALL).nonzero().squeeze(1)
        log_sum, slope_sum, log_large = sums(nonzero, theta, large)

        log_ratio = logits.log_softmax(-1).add_(log_size).sub_(log_theta)
        ratio = log_ratio.exp()
        softplus = ratio.log1p()
        log_ratio_at, softplus_at = log_ratio.view(-1)[at], softplus.view(-1)[at]
        theta_at = theta[nonzero.gene]
        extra = torch.addcmul(log_sum, count, log_ratio_at - softplus_at)  # beyond the dense sum
        if gate is None:
            dense, exact = softplus @ theta.neg(), None
        sigma = ratio / (1 + ratio)
        return dense
