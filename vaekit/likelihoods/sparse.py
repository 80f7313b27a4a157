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

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.batch import Batch
from vaekit.distributions import NegativeBinomial, ZeroInflated
from vaekit.likelihoods.nonzero import NonZero, Sums, find, sums_at, sums_by_gene

MAX_LOG_THETA = 40.0  # beyond, float32 overflows
MAX_GATE = 60.0  # beyond, p(0) may underflow
LARGE = 100  # counts beyond have their log-probability in float64: float32 would round it by more than 1e-4
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
        nonzero = find(batch, dtype) if _in_range(logits, log_theta, gate) else None
        if nonzero is None:
            return dense_log_prob(logits, log_size, log_theta, gate, batch.x).to(dtype)
        log_size = log_size.expand(*logits.shape[:-1], 1)
        if log_theta.dim() > 1:
            log_theta = log_theta.expand_as(logits)
        wanted = torch.is_grad_enabled()
        return _SparseLogProb.apply(logits, log_size, log_theta, gate, batch.x.to(dtype), nonzero, wanted).to(dtype)


def dense_log_prob(logits: Tensor, log_size: Tensor, log_theta: Tensor, gate: Tensor | None, x: Tensor) -> Tensor:
    """Return the same by torch's distributions, in float64."""
    counts: Any = NegativeBinomial(logits.log_softmax(-1) + log_size, log_theta)
    return (counts if gate is None else ZeroInflated(counts, gate)).log_prob(x).sum(-1)


def _in_range(logits: Tensor, log_theta: Tensor, gate: Tensor | None) -> bool:
    """Return whether the pass over non-zero counts can be taken."""
    if torch.compiler.is_compiling() or logits.device.type != "cpu" or not logits.numel():
        return False
    with torch.no_grad():
        low, high = log_theta.aminmax()
        if not -MAX_LOG_THETA < float(low) <= float(high) < MAX_LOG_THETA:
            return False
        if gate is None:
            return True
        low, high = gate.aminmax()
        return -MAX_GATE < float(low) <= float(high) < MAX_GATE


class _Parameters(NamedTuple):
    """Parameters of each cell, ``[cells, genes]`` (log size ``[cells, 1]``, theta also ``[1, genes]``), or gradients.

    The gradient in the place of theta is that with respect to its log, and lacks the sums over non-zero counts.
    """

    logits: Tensor
    log_size: Tensor
    theta: Tensor
    gate: Tensor | None

    def at(self, cells: slice) -> _Parameters:
        """Return the part of some cells."""
        parts = (part if part is None or len(part) == 1 else part[cells] for part in self)
        return _Parameters(*parts)  # type: ignore[arg-type]


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
        flat = _Parameters(
            logits.flatten(0, -2),
            log_size.flatten(0, -2),
            log_theta.exp().view(-1, logits.shape[-1]),
            None if gate is None else gate.flatten(0, -2),
        )
        sums = _sums(nonzero, log_theta)
        gradients = None
        if wanted:
            gradients = _Parameters(
                torch.empty_like(flat.logits),
                torch.empty_like(flat.log_size),
                torch.empty_like(flat.logits),
                None if gate is None else torch.empty_like(flat.logits),
            )
            ctx.save_for_backward(logits, log_size, log_theta, gate, x)
            ctx.gradients, ctx.nonzero, ctx.slope = gradients, nonzero, sums.slope
        large = (nonzero.whole > LARGE).nonzero().squeeze(1)
        value, level = _evaluate_all(flat, x, nonzero, large, gradients)
        value += value.new_zeros(sums.log.shape[:-1] + x.shape[:1]).index_add_(-1, nonzero.cell, sums.log)
        if len(large):
            _add_large(value, level, flat, x, nonzero, large)
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
        gradients = ctx.gradients
        each = upstream[0].to(gradients.logits.dtype).reshape(-1, 1)
        with torch.autocast(each.device.type, enabled=False):
            rows = each.view(-1, len(inputs[4]))
            log_theta = _log_theta_gradient(gradients.theta, ctx.slope, ctx.nonzero, inputs[2], rows)
        return (
            (gradients.logits * each).view_as(inputs[0]) if needed[0] else None,
            (gradients.log_size * each).view_as(inputs[1]) if needed[1] else None,
            log_theta if needed[2] else None,
            (gradients.gate * each).view_as(inputs[3]) if needed[3] else None,
            None,
            None,
            None,
        )


def _sums(nonzero: NonZero, log_theta: Tensor) -> Sums:
    """Return the sums at the non-zero counts: ``[count]``, or ``[rows, count]`` where cells differ in theta."""
    if log_theta.dim() == 1:
        return sums_by_gene(nonzero, log_theta)
    at = log_theta.reshape(-1, *log_theta.shape[-2:])[:, nonzero.cell, nonzero.gene]
    found = sums_at(nonzero.value.expand_as(at).flatten(), at.flatten())
    return Sums(found.log.view_as(at), found.slope.view_as(at))


def _log_theta_gradient(dense: Tensor, slope: Tensor, nonzero: NonZero, log_theta: Tensor, each: Tensor) -> Tensor:
    """Return the gradient with respect to log theta, weighted by ``each`` cell, ``[rows, cells]``."""
    if log_theta.dim() == 1:
        weight = each.sum(0).index_select(0, nonzero.cell)
        return (each.flatten() @ dense).index_add_(0, nonzero.gene, slope * weight)
    total = dense.clone().view(-1, *log_theta.shape[-2:])
    total[:, nonzero.cell, nonzero.gene] += slope
    return (total * each[..., None]).view_as(log_theta)


def _evaluate_all(
    flat: _Parameters, x: Tensor, nonzero: NonZero, large: Tensor, gradients: _Parameters | None
) -> tuple[Tensor, Tensor]:
    """Work through the cells, some at a time; return what :func:`_evaluate` does, ``[rows, cells]``, in float64."""
    counted = x if not len(large) else x.clone().view(-1).index_fill_(0, nonzero.flat[large], 0).view_as(x)
    step = max(1, BLOCK // x.shape[1])
    starts = range(0, len(x), step)
    bounds = torch.searchsorted(nonzero.cell, torch.tensor([*starts, len(x)])).tolist()
    parts = []
    for row in range(0, len(flat.logits), len(x)):
        for start, low, high in zip(starts, bounds, bounds[1:], strict=False):
            seen = slice(start, min(start + step, len(x)))
            cells = slice(row + seen.start, row + seen.stop)
            place = nonzero.flat[low:high] - start * x.shape[1]
            into = None if gradients is None else gradients.at(cells)
            parts.append(_evaluate(flat.at(cells), x[seen], counted[seen], place, into))
    value, level = (torch.cat(part).double().view(-1, len(x)) for part in zip(*parts, strict=True))
    return value, level


def _add_large(value: Tensor, level: Tensor, flat: _Parameters, x: Tensor, nonzero: NonZero, large: Tensor) -> None:
    """Add x (log mean - log(1 + r)) of the large counts to ``value``, in float64."""
    cell, gene = nonzero.cell[large], nonzero.gene[large]
    log_mean = flat.logits.view(-1, *x.shape)[:, cell, gene].double() + level[:, cell]
    shared = len(flat.theta) == 1
    theta = flat.theta[:, gene] if shared else flat.theta.view(-1, *x.shape)[:, cell, gene]
    log1p = F.softplus(log_mean - theta.double().log(), threshold=40)
    value.index_add_(-1, cell, nonzero.value[large] * (log_mean - log1p))


def _evaluate(
    parameters: _Parameters, x: Tensor, counted: Tensor, place: Tensor, into: _Parameters | None
) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each cell, and log mean - logits, ``[cells]``.

    It lacks the sums, and the counts that are 0 in ``counted``. The gradients are written, if wanted; they lack none of
    the counts. In place wherever it can be: a pass over values in the cache costs less than a new array.
    """
    logits, log_size, theta, gate = parameters
    top = logits.amax(-1, keepdim=True)
    mean = (logits - top).exp_()
    norm = mean.sum(-1, keepdim=True)
    mean.mul_(log_size.exp() / norm)
    ratio = mean / theta
    log1p = ratio.log1p()
    zero = log1p * -theta  # the log-probability of a zero
    level = log_size - top - norm.log()
    value = (logits + level).sub_(log1p).mul_(counted)
    own = None
    if gate is None:
        value = value.add_(zero).sum(-1)
    else:
        own, inflated = _inflate(gate, zero, place, None if into is None else into.gate)
        value = value.add_(inflated).sum(-1)
    if into is None:
        return value, level.squeeze(1)
    slope = torch.sub(x, mean if own is None else mean * own).div_(ratio.add_(1))
    total = slope.sum(-1, keepdim=True)
    into.log_size.copy_(total)
    torch.sub(zero if own is None else zero.mul_(own), slope, out=into.theta)
    # the gradient passes through the softmax, whose value is mean / size
    torch.sub(slope, mean.mul_(total / log_size.exp()), out=into.logits)
    return value, level.squeeze(1)


def _inflate(gate: Tensor, zero: Tensor, place: Tensor, gradient: Tensor | None) -> tuple[Tensor, Tensor]:
    """Add zeros to counts whose own zeros have the log-probability ``zero``; write the gates' gradient, if wanted.

    Returns
    -------
    tuple
        The share of the counts' own zeros among all, 1 at the non-zero counts ``place``; and the log-probability of a
        zero, and at the non-zero counts what takes its place: ``zero`` and no additional zero.
    """
    odds = gate.exp()
    kept = (odds + 1).reciprocal_()
    own = zero.exp()
    both = odds.add_(own)
    own.div_(both).view(-1).index_fill_(0, place, 1)
    if gradient is not None:
        torch.sub(kept, own, out=gradient)
    both.view(-1).index_fill_(0, place, 1)
    inflated = both.mul_(kept).log_()
    inflated.view(-1).index_add_(0, place, zero.view(-1).index_select(0, place))
    return own, inflated
