r"""The continuous Bernoulli likelihood of grey pixels.

.. math:: p(x) = \frac{\lambda e^{\lambda x}}{e^\lambda - 1}, \quad 0 \le x \le 1

with the logit λ. ``torch.distributions.ContinuousBernoulli`` works with the probability instead, whose distance from a
half is what counts and what float32 rounds away: near it the derivatives of its log-normalizer are wrong in the second
digit, and beyond a logit of 16 its value by tenths of a nat.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import ContinuousBernoulli as TorchContinuousBernoulli
from torch.distributions import Distribution, Independent

from vaekit.batch import Batch, Moments
from vaekit.likelihoods.base import full_precision
from vaekit.likelihoods.heads import head
from vaekit.likelihoods.pixels import Pixels, check_unit_interval

MAX_LOGIT = 1e4


class ContinuousBernoulliDistribution(TorchContinuousBernoulli):
    """torch's continuous Bernoulli with log-density and mean from the logits, right in float32.

    Examples
    --------
    >>> p = ContinuousBernoulliDistribution(logits=torch.tensor([0.0, 1e-3, 30.0]))
    >>> p.log_prob(torch.tensor(1.0)), p.mean
    (tensor([0.0000e+00, 4.9996e-04, 3.4012e+00]), tensor([0.5000, 0.5001, 0.9667]))
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density, in nats."""
        logits, value = torch.broadcast_tensors(self.logits, value)
        small, near, far = _split(logits)
        # near 0: lambda (x - 1/2) - log(sinh(u) / u) with u = lambda / 2
        series = near * (value - 0.5) - near.square() * _polynomial(near.square() / 4, LOG_SINHC) / 4
        # elsewhere without the part of both terms that is large and cancels
        edge = (far > 0).to(far.dtype)
        return torch.where(small, series, far * (value - edge) + far.abs().log() - torch.log1p(-(-far.abs()).exp()))

    @property
    def mean(self) -> Tensor:
        """The mean: 1/2 + (coth(u) - 1/u) / 2 at u = lambda / 2."""
        small, near, far = _split(self.logits)
        series = near / 4 * _polynomial(near.square() / 4, LANGEVIN)
        return 0.5 + torch.where(small, series, (1 / (far / 2).tanh() - 2 / far) / 2)


# Taylor coefficients in u^2 of log(sinh(u) / u) / u^2 and of (coth(u) - 1/u) / u: good to 1e-12 where they are used
LOG_SINHC = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250)
LANGEVIN = tuple(2 * (n + 1) * c for n, c in enumerate(LOG_SINHC))
SERIES = 1.0  # below this logit


def _split(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return which logits are small, and the logits for either formula: no infinity reaches the other's gradient."""
    small = logits.abs() < SERIES
    return small, torch.where(small, logits, 0.0), torch.where(small, 1.0, logits)


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Return the polynomial by Horner's rule, the constant coefficient first."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


class ContinuousBernoulli(Pixels):
    """Grey pixels in 0..1 with an exponential density on that interval.

    Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in variational autoencoders.

    Parameters
    ----------
    local
        Whether the decoder gives features of each pixel value (``ConvDecoder``).
    """

    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        """Make the head of the logits (see the base class)."""
        self.logits = head(in_features, features, self.local)

    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return independent grey pixels (see the base class)."""
        logits = full_precision(self.logits(h)).clamp(-MAX_LOGIT, MAX_LOGIT)
        return Independent(ContinuousBernoulliDistribution(logits=logits, validate_args=False), 1)

    def check(self, batch: Batch) -> None:
        """Raise an error if values lie outside 0..1 (see the base class)."""
        check_unit_interval(batch, "ContinuousBernoulli", "counts use NegativeBinomial, for other values Gaussian")

    @torch.no_grad()
    def start_at(self, moments: Moments) -> None:
        """Start from the mean picture, by Newton's method on the logits."""
        wanted = moments.mean.double().clamp(0.01, 0.99)
        logits = torch.zeros_like(wanted)
        for _ in range(60):
            found = ContinuousBernoulliDistribution(logits=logits, validate_args=False).mean
            # the slope is the variance, at most 1/12; the step is bounded, as it is flat far out
            u = (logits / 2).abs().clamp_min(1e-3)
            variance = torch.where(u < 1e-2, 1 / 12, (1 / u.square() - 1 / u.sinh().square()) / 4)
            logits = logits + ((wanted - found) / variance).clamp(-2, 2)
        self.logits.bias.copy_(logits)
