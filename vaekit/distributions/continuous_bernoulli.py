r"""The continuous Bernoulli distribution, computed from its logit.

.. math:: p(x) = \frac{\lambda e^{\lambda x}}{e^\lambda - 1}, \quad 0 \le x \le 1

``torch.distributions.ContinuousBernoulli`` uses the probability instead. Everything depends on its distance from 1/2,
which float32 rounds: near 1/2 the derivatives of the log-normalizer are wrong in the second digit. Beyond a logit of 16
the probability is rounded to 1, and the density, the samples and the moments are wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import ContinuousBernoulli as TorchContinuousBernoulli
from typing_extensions import override


class ContinuousBernoulli(TorchContinuousBernoulli):
    """torch's continuous Bernoulli with densities, samples and moments computed from the logits, exact in float32.

    Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in variational autoencoders.

    Examples
    --------
    >>> p = ContinuousBernoulli(logits=torch.tensor([0.0, 1e-3, 30.0]))
    >>> p.log_prob(torch.tensor(1.0)), p.mean
    (tensor([0.0000e+00, 4.9996e-04, 3.4012e+00]), tensor([0.5000, 0.5001, 0.9667]))
    """

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        logits, value = torch.broadcast_tensors(self.logits, value)
        small, near, far = _split(logits)
        # near 0: lambda (x - 1/2) - log(sinh(u) / u) with u = lambda / 2
        series = near * (value - 0.5) - near.square() * _polynomial(near.square() / 4, LOG_SINHC) / 4
        # elsewhere: omit the large part of both terms, which cancels
        edge = (far > 0).to(far.dtype)
        return torch.where(small, series, far * (value - edge) + far.abs().log() - torch.log1p(-(-far.abs()).exp()))

    @property
    def mean(self) -> Tensor:
        """Mean, 1/2 + (coth(u) - 1/u) / 2 at u = lambda / 2."""
        small, near, far = _split(self.logits)
        series = near / 4 * _polynomial(near.square() / 4, LANGEVIN)
        return 0.5 + torch.where(small, series, (1 / (far / 2).tanh() - 2 / far) / 2)

    @property
    def variance(self) -> Tensor:
        """Variance, the slope of the mean in lambda, (1/u^2 - 1/sinh(u)^2) / 4 at u = lambda / 2."""
        small, near, far = _split(self.logits)
        series = _polynomial(near.square() / 4, LANGEVIN_SLOPE) / 4
        decay = (-far.abs()).exp()
        return torch.where(small, series, 1 / far.square() - decay / torch.expm1(-far.abs()).square())

    def entropy(self) -> Tensor:
        """Return the entropy, in nats: minus the log-density at the mean, because the log-density is linear."""
        small, near, far = _split(self.logits)
        series = (
            near.square() * (_polynomial(near.square() / 4, LOG_SINHC) - _polynomial(near.square() / 4, LANGEVIN)) / 4
        )
        size = far.abs()
        beyond = 1 - size / torch.expm1(size) - size.log() + torch.log1p(-(-size).exp())
        return torch.where(small, series, beyond)

    @override
    def cdf(self, value: Tensor) -> Tensor:
        logits, value = torch.broadcast_tensors(self.logits, value.clamp(0, 1))
        small, near, far = _split(logits)
        near = torch.where(near == 0, torch.finfo(near.dtype).tiny, near)
        series = torch.expm1(near * value) / torch.expm1(near)
        down = -far.abs()  # mirrored, which prevents overflow
        mirrored = torch.expm1(down * torch.where(far > 0, 1 - value, value)) / torch.expm1(down)
        return torch.where(small, series, torch.where(far > 0, 1 - mirrored, mirrored))

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantiles of probabilities, differentiable in the logits; ``rsample`` uses them."""
        logits, value = torch.broadcast_tensors(self.logits, value)
        small, near, far = _split(logits, QUANTILE_SERIES)
        # near 0: log(1 + u (exp(lambda) - 1)) / lambda by the cumulants of a Bernoulli variable
        v, skew = value * (1 - value), 1 - 2 * value
        cumulants = (
            value,
            v / 2,
            v * skew / 6,
            v * (1 - 6 * v) / 24,
            v * skew * (1 - 12 * v) / 120,
            v * (1 - 30 * v + 120 * v.square()) / 720,
            v * skew * (1 - 60 * v + 360 * v.square()) / 5040,
        )
        series = torch.zeros_like(near)
        for cumulant in reversed(cumulants):
            series = series * near + cumulant
        # elsewhere: from the edge with the highest density
        down, rest = -far.abs(), torch.where(far > 0, value, 1 - value)
        distance = torch.logaddexp(rest.log(), torch.log1p(-rest) + down) / down
        return torch.where(small, series, torch.where(far > 0, 1 - distance, distance))


# Taylor coefficients in u^2 of log(sinh(u) / u) / u^2, of (coth(u) - 1/u) / u, and of the slope of the latter; their
# error is 1e-10 within the limits below
LOG_SINHC = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250, 2 / 127702575)
LANGEVIN = tuple(2 * (n + 1) * c for n, c in enumerate(LOG_SINHC))
LANGEVIN_SLOPE = tuple((2 * n + 1) * c for n, c in enumerate(LANGEVIN))
SERIES = 1.0  # the series are used below this logit
QUANTILE_SERIES = 0.2  # the same for quantiles; the formula loses their slope in float32 near 0


def _split(logits: Tensor, series: float = SERIES) -> tuple[Tensor, Tensor, Tensor]:
    """Return a mask of small logits and the logits for each formula; no infinity enters the gradient of the other."""
    small = logits.abs() < series
    return small, torch.where(small, logits, 0.0), torch.where(small, 1.0, logits)


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Evaluate a polynomial by Horner's rule; the constant coefficient is the first."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value
