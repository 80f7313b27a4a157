r"""Log-probabilities of sparse counts, with their gradients worked out in the same pass.

With :math:`r = \mu / \theta`, :math:`L = \log(1 + r)` and :math:`\sigma = r / (1 + r)` the negative binomial is

.. math:: \log p(x) = -\theta L + [x > 0] \Big(x (\log\mu - L) + \sum_{k < x} \log\frac{1 + k / \theta}{1 + k}\Big),

.. math:: \partial_{\log\mu} = -\theta\sigma + x (1 - \sigma), \qquad
    \partial_{\log\theta} = -\theta (L - \sigma) + x\sigma - \sum_{k < x} \frac{k}{\theta + k}:

a zero count needs the first term alone, and nothing cancels at large :math:`\theta`. With additional zeros of
probability :math:`\pi`, a zero has :math:`p(0) = \pi + (1 - \pi) e^{-\theta L}`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.batch import Batch
from vaekit.distributions import NegativeBinomial, ZeroInflated
from vaekit.likelihoods.nonzero import NonZero, find, sums

LARGE_THETA = 100.0  # beyond, L - sigma is worked out in float64
MAX_LOG_THETA = 40.0  # beyond, float32 overflows
MIN_GATE = -60.0  # below, p(0) may underflow
BLOCK = 2**17  # values worked on at a time: they stay in a core's cache


def log_prob(logits: Tensor, batch: Batch, log_theta: Tensor, gate: Tensor | None = None) -> Tensor:
    """Return the log-probability of the counts of each cell, ``[*rows, batch]``, in float32 at least.

    The mean is ``size_factor * softmax(logits)``. The pass over non-zero counts is for the CPU; on a GPU, in a
    compiled function, and for values or parameters beyond its range the dense formula in float64 takes its place.

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
        logits, log_theta, gate = logits.to(dtype), log_theta.to(dtype), None if gate is None else gate.to(dtype)
        log_size = batch.size_factor.log().to(dtype)
        nonzero = find(batch, dtype) if _in_range(logits, log_theta, gate) else None
        if nonzero is None:
            return dense_log_prob(logits, log_size, log_theta, gate, batch.x).to(dtype)
        nonzero = nonzero.repeat(logits.shape[:-2].numel(), *batch.x.shape)
        log_size = log_size.expand(*logits.shape[:-1], 1)
        wanted = torch.is_grad_enabled()
        return _SparseLogProb.apply(logits, log_size, log_theta, gate, batch.x, nonzero, wanted).to(dtype)


def dense_log_prob(logits: Tensor, log_size: Tensor, log_theta: Tensor, gate: Tensor | None, x: Tensor) -> Tensor:
    """Return the same by torch's distributions, in float64."""
    counts: Any = NegativeBinomial(logits.log_softmax(-1) + log_size, log_theta)
    return (counts if gate is None else ZeroInflated(counts, gate)).log_prob(x).sum(-1)


def _in_range(logits: Tensor, log_theta: Tensor, gate: Tensor | None) -> bool:
    """Return whether the pass over non-zero counts can be taken."""
    if torch.compiler.is_compiling() or logits.device.type != "cpu" or log_theta.dim() != 1 or not logits.numel():
        return False
    with torch.no_grad():
        return bool(log_theta.abs().max() < MAX_LOG_THETA) and (gate is None or bool(gate.min() > MIN_GATE))


class _Gradients(NamedTuple):
    """Gradients of each cell's log-probability.

    ``log_theta`` ``[cells, genes]`` and ``log_theta_at``, at the non-zero counts, add up.
    """

    logits: Tensor
    log_size: Tensor
    log_theta: Tensor
    log_theta_at: Tensor
    gate: Tensor | None


class _Genes(NamedTuple):
    """What the genes' inverse dispersions give.

    ``wide`` are the numbers of the genes with a large one; ``theta_at`` and ``slope_sum`` are at the non-zero counts.
    """

    log_theta: Tensor
    theta: Tensor
    wide: Tensor
    theta_at: Tensor
    slope_sum: Tensor


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
        nonzero: NonZero,
        wanted: bool,
    ) -> Tensor:
        """Work out the values and, if wanted, their gradients, some cells at a time."""
        flat, size = logits.flatten(0, -2), log_size.flatten(0, -2)
        gates = None if gate is None else gate.flatten(0, -2)
        gradients = None
        if wanted:
            new = torch.empty_like
            gradients = _Gradients(
                new(flat), new(size), new(flat), new(nonzero.value), None if gates is None else new(gates)
            )
            ctx.save_for_backward(logits, log_size, log_theta, gate, x)
            ctx.gradients, ctx.nonzero = gradients, nonzero
        theta = log_theta.exp()
        log_sum, slope_sum = sums(nonzero, log_theta)
        wide = (theta > LARGE_THETA).nonzero().squeeze(1)
        genes = _Genes(log_theta, theta, wide, theta.index_select(0, nonzero.gene), slope_sum)

        rows = max(1, BLOCK // logits.shape[-1])
        starts = torch.arange(0, len(flat) + rows, rows)
        bounds = torch.searchsorted(nonzero.cell, starts).tolist()
        parts = []
        for block, first, last in zip(starts.tolist(), bounds, bounds[1:], strict=False):
            cells, at = slice(block, block + rows), slice(first, last)
            parts.append(_evaluate(flat, size, gates, genes, nonzero, cells, at, gradients))
        zeros, log_ratio_at, log1p_at, log_kept_at = (torch.cat(part) for part in zip(*parts, strict=True))

        count, large, log_theta_at = nonzero.value, nonzero.large, log_theta.index_select(0, nonzero.gene)
        value_at = torch.addcmul(log_kept_at, count, log_ratio_at + log_theta_at)
        value_at = (value_at - (count + genes.theta_at) * log1p_at).double()
        if len(large):
            count, log_ratio, log_theta_at = (t[large].double() for t in (count, log_ratio_at, log_theta_at))
            exact = count * (log_ratio + log_theta_at)
            exact -= (count + log_theta_at.exp()) * F.softplus(log_ratio, threshold=40)
            value_at.index_copy_(0, large, log_kept_at[large] + exact)
        value = zeros.double().index_add_(0, nonzero.cell, value_at + log_sum)
        return value.view(logits.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply by the upstream gradient; a derivative of this derivative takes the dense formula."""
        needed = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():
            inputs = ctx.saved_tensors
            sought = [t for t, need in zip(inputs, needed, strict=False) if need]
            found = iter(torch.autograd.grad(dense_log_prob(*inputs), sought, upstream[0], create_graph=True))
            return (*(next(found) if need else None for need in needed), None, None, None)
        gradients, nonzero, shape = ctx.gradients, ctx.nonzero, ctx.saved_tensors[0].shape
        each = upstream[0].to(gradients.logits.dtype).reshape(-1, 1)
        log_theta = each.new_zeros(shape[-1])
        log_theta.index_add_(0, nonzero.gene, gradients.log_theta_at * each.view(-1).index_select(0, nonzero.cell))
        with torch.autocast(each.device.type, enabled=False):
            log_theta += each.view(-1) @ gradients.log_theta
        return (
            (gradients.logits * each).view(shape) if needed[0] else None,
            (gradients.log_size * each).view(*shape[:-1], 1) if needed[1] else None,
            log_theta if needed[2] else None,
            (gradients.gate * each).view(shape) if needed[3] else None,
            None,
            None,
            None,
        )


def _evaluate(
    logits: Tensor,
    log_size: Tensor,
    gate: Tensor | None,
    genes: _Genes,
    nonzero: NonZero,
    cells: slice,
    at: slice,
    gradients: _Gradients | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Work on the rows ``cells``, whose non-zero counts are ``at``; write their gradients, if wanted.

    Returns
    -------
    tuple
        Sum over the zero counts ``[cells]``; and at the others log r, log(1 + r) and the log-probability of no
        additional zero, ``[count]``.
    """
    width = logits.shape[1]
    place, count = nonzero.flat[at] - cells.start * width, nonzero.value[at]
    log_ratio = logits[cells].log_softmax(-1).add_(log_size[cells]).sub_(genes.log_theta)
    ratio = log_ratio.exp()
    log1p = ratio.log1p()
    log_ratio_at, log1p_at = log_ratio.view(-1).index_select(0, place), log1p.view(-1).index_select(0, place)
    if gate is None:
        share, log_kept_at = None, torch.zeros_like(count)
    else:
        into = None if gradients is None or gradients.gate is None else gradients.gate[cells]
        log_zero, share, log_kept_at = _inflate(gate[cells], log1p * genes.theta, place, into)
    if gradients is not None:
        sigma = torch.div(ratio, ratio + 1)
        sigma_at = sigma.view(-1).index_select(0, place)
        excess = log1p - sigma
        if len(genes.wide):
            exact = log_ratio[:, genes.wide].double().exp()
            excess[:, genes.wide] = (exact.log1p() - exact / (1 + exact)).to(excess.dtype)
        if share is not None:
            sigma.mul_(share)
            excess.mul_(share)
        slope_at = count * (1 - sigma_at)
        total = -(sigma @ genes.theta)
        total.index_add_(0, nonzero.cell[at] - cells.start, slope_at)
        gradients.log_size[cells] = total[:, None]
        # the gradient passes through the softmax, whose value is r theta / size
        sigma.addcmul_(ratio, (total / log_size[cells, 0].exp())[:, None])
        torch.mul(sigma, -genes.theta, out=gradients.logits[cells])
        gradients.logits[cells].view(-1).index_add_(0, place, slope_at)
        torch.mul(excess, -genes.theta, out=gradients.log_theta[cells])
        gradients.log_theta_at[at] = count * sigma_at - genes.slope_sum[at]
    if gate is not None:
        return log_zero.sum(-1), log_ratio_at, log1p_at, log_kept_at
    log1p.view(-1).index_fill_(0, place, 0)
    return log1p @ -genes.theta, log_ratio_at, log1p_at, log_kept_at


def _inflate(gate: Tensor, rate: Tensor, place: Tensor, gradient: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Add zeros to counts whose own zeros have probability ``exp(-rate)``; write the gates' gradient, if wanted.

    Returns
    -------
    tuple
        log p(0), and the share of the counts' own zeros in it: 0 and 1 at the non-zero counts ``place``; and the
        log-probability of no additional zero there.
    """
    odds = gate.neg().exp_()  # of no additional zero
    added = (odds + 1).reciprocal_()
    kept = odds.mul_(added)
    half = (rate / 2).tanh_()
    positive = torch.div(half * 2, half.add_(1))  # 1 - exp(-rate), also where that is tiny
    own = rate.neg_().exp_()
    probability = torch.addcmul(own, added, positive)
    probability.view(-1).index_fill_(0, place, 1)
    share = (kept / probability).mul_(own)
    if gradient is not None:
        torch.mul(kept, added, out=gradient).mul_(positive).div_(probability)
        gradient.view(-1).index_copy_(0, place, -added.view(-1).index_select(0, place))
    share.view(-1).index_fill_(0, place, 1)
    return probability.log_(), share, -F.softplus(gate.view(-1).index_select(0, place))
