"""One-hot categorical variables, without checks that wait for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, register_kl
from torch.distributions import OneHotCategorical as Validated

from vaekit.distributions.precise import HALF, exact_logits


class OneHotCategorical(Validated):
    r"""One-hot vectors of ``K`` categories, parameters and values taken as they come.

    .. math:: p(z) = \prod_k \pi_k^{z_k}, \quad \pi = \mathrm{softmax}(\phi)

    torch's own, with ``validate_args=False`` too, makes a validated ``Categorical`` inside, for which the host waits
    for the device. Here it waits for nothing, neither when one is made or drawn from, nor for log-probability,
    entropy, mode and KL divergence.

    Parameters
    ----------
    probs
        :math:`\pi`, ``[*batch, K]``; need not be normalized.
    logits
        :math:`\phi` instead, ``[*batch, K]``; need not be normalized; -inf for an impossible category. Either is
        converted to at least float32.
    validate_args
        Whether to validate them, and values; None: probs only.

    Examples
    --------
    >>> q = OneHotCategorical(logits=torch.tensor([0.0, 1.0, -torch.inf]))
    >>> q.mode, round(q.entropy().item(), 4)
    (tensor([0., 1., 0.]), 0.5822)
    """

    def __init__(
        self, probs: Tensor | None = None, logits: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        probs, logits = (x.float() if x is not None and x.dtype in HALF else x for x in (probs, logits))
        # probs are validated by default: logits in their place would be normalized to something
        self._categorical = Categorical(
            probs, logits, validate_args=False if probs is None and validate_args is None else validate_args
        )
        event_shape = self._categorical.param_shape[-1:]
        Distribution.__init__(self, self._categorical.batch_shape, event_shape, validate_args=bool(validate_args))

    def expand(self, batch_shape: Any, _instance: Any = None) -> OneHotCategorical:
        """Return the distribution with a larger batch shape, without copies."""
        new = self._get_checked_instance(OneHotCategorical, _instance)
        return super().expand(batch_shape, new)

    @property
    def logits(self) -> Tensor:
        """The log-probabilities, ``[*batch, K]``; minus infinity where a probability is 0."""
        return exact_logits(self)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of one-hot values."""
        if self._validate_args:
            self._validate_sample(value)
        return (value * self.logits.clamp_min(torch.finfo(self.logits.dtype).min)).sum(-1)  # 0 * -inf would be NaN

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
