"""One-hot categorical variables, without checks that wait for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, register_kl
from torch.distributions import OneHotCategorical as Validated


class OneHotCategorical(Validated):
    r"""One-hot vectors of ``K`` categories, parameters and values taken as they come.

    .. math:: p(z) = \prod_k \pi_k^{z_k}, \quad \pi = \mathrm{softmax}(\phi)

    torch's own, with ``validate_args=False`` too, makes a validated ``Categorical`` inside, for which the host waits
    for the device. Here it waits for nothing, neither when one is made or drawn from, nor for log-probability,
    entropy, mode and KL divergence.

    Parameters
    ----------
    logits
        :math:`\phi`, ``[*batch, K]``; need not be normalised; -inf for an impossible category.

    Examples
    --------
    >>> q = OneHotCategorical(torch.tensor([0.0, 1.0, -torch.inf]))
    >>> q.mode, round(q.entropy().item(), 4)
    (tensor([0., 1., 0.]), 0.5822)
    """

    def __init__(self, logits: Tensor) -> None:
        self._categorical = Categorical(logits=logits, validate_args=False)
        Distribution.__init__(self, self._categorical.batch_shape, logits.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> OneHotCategorical:
        """Return the distribution with a larger batch shape, without copies."""
        new = self._get_checked_instance(OneHotCategorical, _instance)
        return super().expand(batch_shape, new)

    @property
    def mode(self) -> Tensor:
        """The most probable value, ``[*batch, K]``; the first of several."""
        logits = self.logits
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw values, ``[*sample_shape, *batch, K]``, by inversion of the cumulative probabilities."""
        below = self.probs.detach().cumsum(-1)
        shape = (*sample_shape, *below.shape[:-1], 1)
        uniform = torch.rand(shape, dtype=below.dtype, device=below.device)
        # times the sum, which rounding leaves off 1: an impossible last category is never drawn
        index = (uniform * below[..., -1:] >= below[..., :-1]).sum(-1, keepdim=True)
        return below.new_zeros((*sample_shape, *below.shape)).scatter_(-1, index, 1.0)


@register_kl(OneHotCategorical, OneHotCategorical)
def _kl_one_hot(p: OneHotCategorical, q: OneHotCategorical) -> Tensor:
    """Sum ``p log(p / q)`` over the categories that p has; infinite where q lacks one of them."""
    difference = torch.where(p.probs > 0, p.logits - q.logits, 0)
    return (p.probs * difference).sum(-1)
