"""Binomial thinning of the counts that the encoder sees in training."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.batch import Batch, CSREntries


def thinned_log_counts(batch: Batch, fraction: float) -> Tensor:
    r"""Return ``log(1 + counts)`` after the loss of a random part of the molecules of each cell.

    .. math:: \tilde{x}_{ng} \sim \mathrm{Binomial}(x_{ng}, 1 - f_n), \qquad f_n \sim U(0, \mathrm{fraction})

    The posterior of a cell then does not depend on how deeply the cell was sequenced.

    Parameters
    ----------
    batch : Batch
        Counts ``[batch, genes]``.
    fraction : float
        Largest fraction of lost molecules, in 0..1.

    Returns
    -------
    Tensor, shape (batch, genes)
    """
    x, entries = batch.x, batch.entries
    kept = 1 - fraction * torch.rand(len(x), 1, device=x.device)
    if entries is None or x.device.type != "cpu":
        return torch.binomial(x, kept.to(x.dtype).expand_as(x)).add_(1).log_()
    sizes = entries.indptr.diff()
    row = torch.repeat_interleave(torch.arange(len(x)), sizes)
    counts = _thin(entries, kept.flatten().repeat_interleave(sizes))
    return torch.zeros_like(x).index_put_((row, entries.indices), counts.add_(1).log_())


def _thin(entries: CSREntries, kept: Tensor) -> Tensor:
    """Return the thinned non-zero counts. Most counts are 1, for which a uniform number is enough."""
    counts = (torch.rand_like(entries.data) < kept).to(entries.data.dtype)
    several = (entries.data > 1).nonzero().flatten()
    counts[several] = torch.binomial(entries.data[several], kept[several])
    return counts
