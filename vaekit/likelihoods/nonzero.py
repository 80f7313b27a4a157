"""The non-zero counts of a batch, and the sums that stand for their gamma functions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.batch import Batch

SMALL = 8  # counts up to here are read off a table; Stirling's series is exact to 1e-11 beyond


class NonZero(NamedTuple):
    """Non-zero counts ``[count]`` and where they are in ``x`` ``[cells, genes]``.

    Attributes
    ----------
    cell, gene, flat
        Row, column and position in ``x.flatten()``, int64, in ascending order.
    value, whole
        The counts, floating point and as int64.
    """

    cell: Tensor
    gene: Tensor
    flat: Tensor
    value: Tensor
    whole: Tensor


def find(batch: Batch, dtype: torch.dtype) -> NonZero | None:
    """Return the non-zero counts of a batch; None if some are no counts (not whole, negative, not finite)."""
    x = batch.x
    known = batch.nonzero is not None
    cell, gene = batch.nonzero if batch.nonzero is not None else x.nonzero().T
    flat = torch.add(gene, cell, alpha=x.shape[1])
    value = x.flatten().index_select(0, flat)
    if known and bool(value.sum() != x.sum()):  # x was replaced, or its sum is beyond what floats hold exactly
        return find(batch._replace(nonzero=None), dtype)
    whole = value.long()
    if len(value) and (int(whole.min()) < 1 or not whole.to(value.dtype).equal(value)):
        return None
    return NonZero(cell, gene, flat, value.to(dtype), whole)


class Sums(NamedTuple):
    r"""Sums over k < x that stand for gamma functions, at each non-zero count, ``[count]``.

    .. math:: \mathrm{log} = \sum_{k < x} \log\frac{1 + k / \theta}{1 + k} =
        \log\Gamma(x + \theta) - \log\Gamma(\theta) - x \log\theta - \log\Gamma(x + 1)

    .. math:: \mathrm{slope} = \sum_{k < x} \frac{\theta}{\theta + k} = \theta (\psi(x + \theta) - \psi(\theta))

    Attributes
    ----------
    log
        The first, float64.
    slope
        The second: its derivative with respect to log theta is ``slope - x``.
    """

    log: Tensor
    slope: Tensor


def sums_by_gene(nonzero: NonZero, log_theta: Tensor) -> Sums:
    """Return the sums for one inverse dispersion a gene, ``[genes]``.

    Small counts read them off a table ``[SMALL + 1, genes]``; for others Stirling's series goes on from its end.
    """
    theta = log_theta.exp()
    k = torch.arange(SMALL, dtype=theta.dtype)[:, None]
    before = torch.ones(SMALL + 1, SMALL, dtype=theta.dtype).tril(-1)  # a product is faster than cumsum
    log_table = before @ (k / theta).log1p_().sub_(k.log1p())
    slope_table = before @ (theta / (theta + k))
    entry = torch.add(nonzero.gene, nonzero.whole.clamp(max=SMALL), alpha=len(theta))
    log_sum = log_table.view(-1).index_select(0, entry).double()
    slope_sum = slope_table.view(-1).index_select(0, entry)
    large = (nonzero.whole > SMALL).nonzero().squeeze(1)
    if len(large):
        log_large, slope_large = _large_sums(nonzero.value[large], log_theta[nonzero.gene[large]])
        log_sum.index_copy_(0, large, log_large)
        slope_sum.index_copy_(0, large, slope_large.to(slope_sum.dtype))
    return Sums(log_sum, slope_sum)


def sums_at(value: Tensor, log_theta: Tensor) -> Sums:
    """Return the sums for counts and log inverse dispersions ``[count]``; no two need to be the same."""
    small = value.double().clamp(max=SMALL)
    theta = log_theta.double().exp()
    log_sum, slope_sum = torch.zeros_like(theta), torch.zeros_like(theta)
    for k in range(SMALL):
        inside = small > k
        log_sum += torch.where(inside, (k / theta).log1p() - math.log1p(k), 0.0)
        slope_sum += torch.where(inside, theta / (theta + k), 0.0)
    large = (value > SMALL).nonzero().squeeze(1)
    if len(large):
        log_large, slope_large = _large_sums(value[large], log_theta[large])
        log_sum.index_copy_(0, large, log_large)
        slope_sum.index_copy_(0, large, slope_large)
    return Sums(log_sum, slope_sum.to(log_theta.dtype))


def _large_sums(value: Tensor, log_theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sums for counts above ``SMALL``, in float64."""
    value, theta = value.double(), log_theta.double().exp()
    k = torch.arange(SMALL, dtype=torch.float64)[:, None]
    start, more = theta + SMALL, value - SMALL  # the table's end, and the way from there
    stop, growth = start + more, (more / start).log1p()
    log_sum = (k / theta).log1p().sum(0) + more * (SMALL / theta).log1p() - torch.lgamma(value + 1)
    log_sum += (stop - 0.5) * growth - more + _log_gamma_series(stop) - _log_gamma_series(start)
    change = growth + _digamma_series(stop) - _digamma_series(start)
    return log_sum, (theta / (theta + k)).sum(0) + theta * change


def _log_gamma_series(y: Tensor) -> Tensor:
    """Return log Gamma(y) - (y - 1/2) log y + y - log(2 pi) / 2 for y >= SMALL, by Stirling's series."""
    inverse = 1 / y
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))


def _digamma_series(y: Tensor) -> Tensor:
    """Return digamma(y) - log y for y >= SMALL."""
    inverse = 1 / y
    square = inverse * inverse
    return -inverse / 2 - square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))
