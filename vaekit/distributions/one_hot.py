"""One-hot categorical variables without checks that wait for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, register_kl
from torch.distributions import OneHotCategorical as TorchOneHotCategorical
from typing_extensions import override

from vaekit.distributions.precise import HALF, exact_logits


class OneHotCategorical(TorchOneHotCategorical):
    r"""One-hot vectors of ``K`` categories, without validation of parameters and values by default.

    .. math:: p(z) = \prod_k \pi_k^{z_k}, \quad \pi = \mathrm{softmax}(\phi)

    torch's class constructs a validated ``Categorical`` inside, even with ``validate_args=False``, and therefore waits
    for the device. This class never waits: not in construction and sampling, nor for log-probability, entropy, mode
    and KL divergence.

    Parameters
    ----------
    probs : Tensor or None, shape (*batch, K)
        :math:`\pi`, normalized or not. Converted to at least float32.
    logits : Tensor or None, shape (*batch, K)
        :math:`\phi` instead of ``probs``, normalized or not; -inf for an impossible category. Converted to at least
        float32.
    validate_args : bool or None
        Whether to validate parameters and values. None validates probs only.

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
        # validate probs by default: logits passed as probs would be normalized silently
        self._categorical = Categorical(
            probs, logits, validate_args=False if probs is None and validate_args is None else validate_args
        )
        event_shape = self._categorical.param_shape[-1:]
        Distribution.__init__(self, self._categorical.batch_shape, event_shape, validate_args=bool(validate_args))

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> OneHotCategorical:
        new = self._get_checked_instance(OneHotCategorical, _instance)
        return super().expand(batch_shape, new)

    @property
    def logits(self) -> Tensor:
        """Log-probabilities, ``[*batch, K]``; minus infinity for a probability of 0."""
        return exact_logits(self)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return (value * self.logits.clamp_min(torch.finfo(self.logits.dtype).min)).sum(-1)  # 0 * -inf would be NaN

    @property
    def mode(self) -> Tensor:
        """Most probable value, ``[*batch, K]``; the first one of several."""
        logits = self.logits
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample values, ``[*sample_shape, *batch, K]``, by inversion of the cumulative probabilities."""
        cumulative = self.probs.detach().cumsum(-1)
        shape = (*sample_shape, *cumulative.shape[:-1], 1)
        uniform = torch.rand(shape, dtype=cumulative.dtype, device=cumulative.device)
        # times the sum, which is not exactly 1, so that an impossible last category is never sampled
        index = (uniform * cumulative[..., -1:] >= cumulative[..., :-1]).sum(-1, keepdim=True)
        return cumulative.new_zeros((*sample_shape, *cumulative.shape)).scatter_(-1, index, 1.0)


@register_kl(OneHotCategorical, OneHotCategorical)
def _kl_one_hot(p: OneHotCategorical, q: OneHotCategorical) -> Tensor:
    """Sum ``p log(p / q)`` over the categories with p > 0; infinite if q = 0 for one of them."""
    difference = torch.where(p.probs > 0, p.logits - q.logits, 0)
    return (p.probs * difference).sum(-1)
