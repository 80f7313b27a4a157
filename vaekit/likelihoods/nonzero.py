"""The non-zero counts of a batch, and the sums that stand for their gamma functions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.batch import Batch

SMALL = 16  # counts up to here are read off a table; Stirling's series is exact to 1e-12 beyond


class NonZero(NamedTuple):
    """Non-zero counts ``[count]`` and where they are in ``x`` ``[cells, genes]``.

    Attributes
    ----------
    cell, gene, flat
        Row, column and position in ``x.flatten()``, int64.
    value, whole
        The counts, in the type of ``x`` and as int64.
    """

    cell: Tensor
    gene: Tensor
    flat: Tensor
    value: Tensor
    whole: Tensor

    def repeat(self, times: int, cells: int, genes: int) -> NonZero:
        """Return the non-zero counts of ``x`` repeated along a new leading axis, flattened."""
        if times == 1:
            return self
        block = torch.arange(times, device=self.flat.device)[:, None]
        return NonZero(
            (self.cell + block * cells).flatten(),
            self.gene.repeat(times),
            (self.flat + block * (cells * genes)).flatten(),
            self.value.repeat(times),
            self.whole.repeat(times),
        )


def find(batch: Batch) -> NonZero | None:
    """Return the non-zero counts of a batch; None if some are no counts (not whole, negative, not finite)."""
    x = batch.x
    place = batch.nonzero
    if place is None or place.shape[1] != int(x.count_nonzero()):  # x was replaced
        place = x.nonzero().T
    cell, gene = place
    flat = torch.add(gene, cell, alpha=x.shape[1])
    value = x.flatten().index_select(0, flat)
    whole = value.long()
    if len(value) and (int(whole.min()) < 1 or not whole.equal(value)):
        return None
    return NonZero(cell, gene, flat, value, whole)


def sums(nonzero: NonZero, theta: Tensor, large: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the sums over k < x that replace gamma functions, and the first one of large counts in float64.

    .. math:: \sum_{k < x} \log\frac{1 + k / \theta}{1 + k} =
        \log\Gamma(x + \theta) - \log\Gamma(\theta) - x \log\theta - \log\Gamma(x + 1), \qquad
        \sum_{k < x} \frac{k}{\theta + k} = x - \theta (\psi(x + \theta) - \psi(\theta))

    Parameters
    ----------
    nonzero
        The counts.
    theta
        Inverse dispersions, ``[genes]``.
    large
        Numbers of those counts that are above ``SMALL``, int64.
    """
    k = torch.arange(SMALL, device=theta.device, dtype=theta.dtype)[:, None]
    ratio = k / theta
    none = torch.zeros_like(theta)[None]
    log_table = torch.cat([none, (ratio.log1p() - k.log1p()).cumsum(0)])
    slope_table = torch.cat([none, (k / (theta + k)).cumsum(0)])
    entry = torch.add(nonzero.gene, nonzero.whole.clamp(max=SMALL), alpha=len(theta))
    log_sum, slope_sum = (t.flatten().index_select(0, entry) for t in (log_table, slope_table))
    x, y = nonzero.value[large].double(), theta[nonzero.gene[large]].double()
    k, start, more = k.double(), y + SMALL, x - SMALL  # the table's end, and the way from there
    log_large = (k / y).log1p().sum(0) - torch.lgamma(x + 1)
    log_large += (start + more - 0.5) * (more / start).log1p() - more + more * (SMALL / y).log1p()
    log_large += _log_gamma_series(start + more) - _log_gamma_series(start)
    change = (more / start).log1p() + _digamma_series(start + more) - _digamma_series(start)
    slope_large = (k / (y + k)).sum(0) + more - y * change
    return log_sum, slope_sum.index_copy(0, large, slope_large.to(slope_sum.dtype)), log_large


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
