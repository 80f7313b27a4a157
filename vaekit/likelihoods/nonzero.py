"""The non-zero counts of a batch, and the sums that stand for their gamma functions."""

from __future__ import annotations

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
    large
        Numbers of the counts above ``SMALL``, int64.
    """

    cell: Tensor
    gene: Tensor
    flat: Tensor
    value: Tensor
    whole: Tensor
    large: Tensor

    def repeat(self, times: int, cells: int, genes: int) -> NonZero:
        """Return the non-zero counts of ``x`` repeated along a new leading axis, with that and the rows flattened."""
        if times == 1:
            return self
        block = torch.arange(times)[:, None]
        return NonZero(
            cell=(self.cell + block * cells).flatten(),
            gene=self.gene.repeat(times),
            flat=(self.flat + block * (cells * genes)).flatten(),
            value=self.value.repeat(times),
            whole=self.whole.repeat(times),
            large=(self.large + block * len(self.flat)).flatten(),
        )


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
    if len(value) and (int(whole.min()) < 1 or not bool((whole == value).all())):
        return None
    return NonZero(cell, gene, flat, value.to(dtype), whole, (whole > SMALL).nonzero().squeeze(1))


def sums(nonzero: NonZero, log_theta: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the sums over k < x that stand for gamma functions, ``[count]``, the first in float64.

    .. math:: \sum_{k < x} \log\frac{1 + k / \theta}{1 + k} =
        \log\Gamma(x + \theta) - \log\Gamma(\theta) - x \log\theta - \log\Gamma(x + 1), \qquad
        \sum_{k < x} \frac{k}{\theta + k} = x - \theta (\psi(x + \theta) - \psi(\theta))

    Small counts read them off a table ``[SMALL + 1, genes]``; for others Stirling's series goes on from its end.
    """
    theta = log_theta.exp()
    k = torch.arange(SMALL, dtype=theta.dtype)[:, None]
    none = torch.zeros_like(theta)[None]
    log_table = torch.cat([none, ((k / theta).log1p() - k.log1p()).cumsum(0)])
    slope_table = torch.cat([none, (k / (theta + k)).cumsum(0)])
    entry = torch.add(nonzero.gene, nonzero.whole.clamp(max=SMALL), alpha=len(theta))
    log_sum = log_table.flatten().index_select(0, entry).double()
    slope_sum = slope_table.flatten().index_select(0, entry)
    if len(nonzero.large):
        log_large, slope_large = _large_sums(nonzero.value[nonzero.large], log_theta[nonzero.gene[nonzero.large]])
        log_sum.index_copy_(0, nonzero.large, log_large)
        slope_sum.index_copy_(0, nonzero.large, slope_large.to(slope_sum.dtype))
    return log_sum, slope_sum


def _large_sums(value: Tensor, log_theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sums for counts above ``SMALL``, in float64."""
    value, theta = value.double(), log_theta.double().exp()
    k = torch.arange(SMALL, dtype=torch.float64)[:, None]
    start, more = theta + SMALL, value - SMALL  # the table's end, and the way from there
    stop, growth = start + more, (more / start).log1p()
    log_sum = (k / theta).log1p().sum(0) + more * (SMALL / theta).log1p() - torch.lgamma(value + 1)
    log_sum += (stop - 0.5) * growth - more + _log_gamma_series(stop) - _log_gamma_series(start)
    change = growth + _digamma_series(stop) - _digamma_series(start)
    return log_sum, (k / (theta + k)).sum(0) + more - theta * change


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
