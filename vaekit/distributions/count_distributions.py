"""Distributions of counts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints
from typing_extensions import override


class NegativeBinomial(torch.distributions.NegativeBinomial):
    r"""Negative binomial distribution with the mean and the inverse dispersion as parameters, in log space.

    .. math:: \mathrm{Var}[x] = \mu + \mu^2 / \theta

    The computation is in float64 for any input type. Its terms are as large as the log-factorials of the counts and
    cancel to a few nats, which float32 cannot represent for large counts or a large ``theta``.

    Parameters
    ----------
    log_mean, log_inverse_dispersion : Tensor
        Logarithms of mu and theta, broadcastable to each other. They are keyword-only, because the first two arguments
        of torch's class are the total count and the probability.

    Examples
    --------
    >>> q = NegativeBinomial(log_mean=torch.tensor(1.0).log(), log_inverse_dispersion=torch.tensor(2.0).log())
    >>> round(q.log_prob(torch.tensor(0.0)).exp().item(), 6)  # (theta / (theta + mu)) ** theta
    0.444444
    """

    def __init__(self, *, log_mean: Tensor, log_inverse_dispersion: Tensor) -> None:
        self.log_mean, self.log_inverse_dispersion = log_mean.double(), log_inverse_dispersion.double()
        logits = self.log_mean - self.log_inverse_dispersion
        super().__init__(self.log_inverse_dispersion.exp(), logits=logits, validate_args=False)

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> NegativeBinomial:
        log_mean, log_theta = self.log_mean.expand(batch_shape), self.log_inverse_dispersion.expand(batch_shape)
        return NegativeBinomial(log_mean=log_mean, log_inverse_dispersion=log_theta)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Return the log-probability of counts, in float64.

        .. math:: \log p(x) = -\theta L + x (\log\mu - L) + \log\frac{\Gamma(x + \theta)}{\Gamma(\theta)\, \theta^x}
            - \log x!, \qquad L = \log(1 + \mu / \theta).

        For a large theta, Stirling's series gives the quotient without canceling terms of the size of theta; its limit
        is the Poisson distribution. For a small theta, the power of theta is part of the preceding term.
        """
        x, log_mean, log_theta = torch.broadcast_tensors(value.double(), self.log_mean, self.log_inverse_dispersion)
        ratio, theta = log_mean - log_theta, log_theta.exp()
        log1p = F.softplus(ratio)
        large = theta >= SERIES
        start, small = torch.where(large, theta, SERIES), torch.where(large, 1.0, theta)
        stop = start + x
        series = x * (log_mean - log1p) + (stop - 0.5) * torch.log1p(x / start) - x + _stirling(stop) - _stirling(start)
        direct = x * F.logsigmoid(ratio) + torch.lgamma(x + small) - torch.lgamma(small)
        return torch.where(large, series, direct) - theta * log1p - torch.lgamma(x + 1)


SERIES = 64.0  # Stirling's series is exact in float64 from this value


def _stirling(y: Tensor) -> Tensor:
    """Return ``log Gamma(y) - (y - 1/2) log y + y - log(2 pi) / 2`` for y of ``SERIES`` or more."""
    square = 1 / y.square()
    return (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680))) / y


class ZeroInflated(Distribution):
    r"""A count that is 0 with probability pi, and otherwise follows ``base``.

    .. math:: p(x) = \pi\, [x = 0] + (1 - \pi)\, p_\mathrm{base}(x)

    Parameters
    ----------
    base : Distribution, batch shape (*batch)
        Distribution of counts.
    gate_logits : Tensor, shape (*batch)
        Logit of pi.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Poisson
    >>> q = vaekit.distributions.ZeroInflated(Poisson(torch.tensor(2.0)), gate_logits=torch.tensor(0.0))
    >>> q.mean, q.log_prob(torch.tensor(0.0)).exp()  # 0.5 + 0.5 exp(-2)
    (tensor(1.), tensor(0.5677))
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch's interface)
    support = constraints.nonnegative_integer

    def __init__(self, base: Distribution, gate_logits: Tensor) -> None:
        self.base = base
        self.gate_logits = gate_logits.to(base.mean.dtype)
        super().__init__(torch.broadcast_shapes(base.batch_shape, gate_logits.shape), validate_args=False)

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> ZeroInflated:
        return ZeroInflated(self.base.expand(batch_shape), self.gate_logits.expand(batch_shape))

    @property
    def mean(self) -> Tensor:
        """Mean, ``(1 - pi) * base.mean``."""
        return self.gate_logits.neg().sigmoid() * self.base.mean

    @property
    def variance(self) -> Tensor:
        """Variance of the mixture of 0 and ``base``."""
        keep = self.gate_logits.neg().sigmoid()
        return keep * (self.base.variance + (1 - keep) * self.base.mean.square())

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        log_base = F.logsigmoid(-self.gate_logits) + self.base.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(F.logsigmoid(self.gate_logits), log_base), log_base)

    @override
    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            count = self.base.expand(self.batch_shape).sample(sample_shape)
            return torch.where(torch.rand_like(count) < self.gate_logits.sigmoid(), 0.0, count)
