"""Mixture of diagonal normal distributions, for priors with many components."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints
from typing_extensions import override


class NormalMixture(Distribution):
    r"""A mixture of K diagonal normal distributions of D dimensions, the same for the whole batch.

    .. math:: \log p(z) = \log \sum_k \pi_k\, \mathcal{N}(z; m_k, \mathrm{diag}\, s_k^2)

    The squared distances to all components are matrix products in float64, in which their cancellation is harmless. The
    memory for N values is therefore N times K numbers, not N times K times D. Values have no pathwise gradient, which a
    prior does not need.

    Parameters
    ----------
    logits : Tensor, shape (K)
        Log-weights of the components, up to a constant.
    loc, scale : Tensor, shape (K, D)
        Means and standard deviations.

    Examples
    --------
    >>> p = NormalMixture(torch.zeros(2), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1))
    >>> round(p.log_prob(torch.zeros(1)).item(), 4)  # both components have the log-density of N(1; 0, 1)
    -1.4189
    >>> p.mean.tolist(), p.variance.tolist()
    ([0.0], [2.0])
    """

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        super().__init__(torch.Size(), loc.shape[-1:], validate_args=False)

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> NormalMixture:
        new = self._get_checked_instance(NormalMixture, _instance)
        new.logits, new.loc, new.scale = self.logits, self.loc, self.scale
        super(NormalMixture, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new

    @property
    def mean(self) -> Tensor:
        """Mean of each dimension."""
        return self._center.expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension: within the components, and between their means."""
        second = self.scale.square() + (self.loc - self._center).square()
        return (self._weights[:, None] * second).sum(0).expand(self._extended_shape())

    @property
    def _center(self) -> Tensor:
        return (self._weights[:, None] * self.loc).sum(0)  # autocast would round a matrix product

    @property
    def _weights(self) -> Tensor:
        return self.logits.softmax(-1)

    @override
    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            index = torch.multinomial(self._weights, max(1, shape[:-1].numel()), replacement=True)
            index = index[: shape[:-1].numel()].reshape(shape[:-1])
            return self.loc[index] + self.scale[index] * torch.randn(
                shape, dtype=self.loc.dtype, device=self.loc.device
            )

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density ``[*sample, *batch]`` of values ``[*sample, *batch, D]``."""
        z, loc, scale = value.double(), self.loc.double(), self.scale.double()
        precision = scale.square().reciprocal()
        constant = (loc.square() * precision + 2 * scale.log() + math.log(2 * math.pi)).sum(-1)
        quadratic = F.linear(z.square(), precision) - 2 * F.linear(z, loc * precision) + constant
        log_prob = (self.logits.double().log_softmax(-1) - quadratic / 2).logsumexp(-1)
        shape = torch.broadcast_shapes(log_prob.shape, self.batch_shape)
        return log_prob.to(torch.promote_types(value.dtype, self.loc.dtype)).expand(shape)
