"""The normal distribution on an interval."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints, register_kl
from torch.distributions.utils import broadcast_all
from typing_extensions import override

from vaekit.distributions.implicit import integrate, reparameterize
from vaekit.distributions.normal_interval import FAR, invert, log_mass, log_phi, velocity


class TruncatedNormal(Distribution):
    r"""A normal variable conditional on being between ``low`` and ``high``.

    .. math:: p(z) = \frac{\phi((z - \mu) / \sigma)}{\sigma\, (\Phi(b) - \Phi(a))}, \quad
        a = \frac{\mathrm{low} - \mu}{\sigma}, \quad b = \frac{\mathrm{high} - \mu}{\sigma}

    Sampling is by inversion in log space, so that the interval may be far in a tail. First and second derivatives by
    all four parameters are supported. The computation is in float64 for any input type.

    Parameters
    ----------
    loc, scale : Tensor
        mu and sigma of the normal distribution before truncation.
    low, high : Tensor or float
        Ends of the interval, which may be infinite. All parameters are broadcastable to each other.

    Raises
    ------
    ValueError
        If ``low`` is not below ``high`` and arguments are validated.

    Examples
    --------
    >>> q = TruncatedNormal(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(10.0), torch.tensor(float("inf")))
    >>> q.mean
    tensor(10.0981)
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.real,
        "high": constraints.real,
    }
    has_rsample = True

    def __init__(
        self, loc: Tensor, scale: Tensor, low: Tensor | float, high: Tensor | float, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale, self.low, self.high = broadcast_all(loc, scale, low, high)
        super().__init__(self.loc.shape, validate_args=validate_args)
        if self._validate_args and not (self.low < self.high).all():
            raise ValueError(f"TruncatedNormal: low={self.low} must be below high={self.high}.")

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> TruncatedNormal:
        new = self._get_checked_instance(TruncatedNormal, _instance)
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        super(TruncatedNormal, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """Return the interval from low to high."""
        return constraints.interval(self.low, self.high)

    def _standardize(self, value: Tensor) -> Tensor:
        """Return the distance from ``loc`` in standard deviations, in float64, with ``FAR`` instead of infinity."""
        infinite = value.isinf()
        finite = torch.where(infinite, 0, value).double()
        standard = (finite - self.loc.double()) / self.scale.double()
        return torch.where(infinite, FAR * value.sign().double(), standard).clamp(-FAR, FAR)

    @property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """The ends a and b in standard deviations."""
        return self._standardize(self.low), self._standardize(self.high)

    @override
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        a, b = (end.expand(shape) for end in self._ends)
        with torch.no_grad():
            fixed = invert(torch.rand_like(a).clamp_min(2.0**-54), a, b)
        standard = reparameterize(fixed, velocity, a, b)
        value = (self.loc.double() + self.scale.double() * standard).to(self.loc.dtype)
        low, high = self.low.detach(), self.high.detach()
        outside = torch.minimum(torch.maximum(value.detach(), low), high) - value.detach()  # by rounding
        return value + outside

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density: minus infinity outside the interval, or an error if arguments are validated."""
        if self._validate_args:
            self._validate_sample(value)
        standard = self._standardize(value)
        log_prob = log_phi(standard) - self.scale.double().log() - log_mass(*self._ends)
        inside = (value >= self.low) & (value <= self.high)
        return torch.where(inside, log_prob, -math.inf).to(self.loc.dtype)

    @override
    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a, b = self._ends
        standard = torch.minimum(torch.maximum(self._standardize(value), a), b)
        return (log_mass(a, standard) - log_mass(a, b)).exp().to(self.loc.dtype)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance in units of the standard deviation, by quadrature, because closed forms cancel."""
        a, b = self._ends
        nearest = torch.minimum(torch.maximum(torch.zeros_like(a), a), b).detach()  # the mode
        reach = (nearest.square() + 72).sqrt()  # the density has fallen by exp(-36)
        start, stop = torch.maximum(a, -reach), torch.minimum(b, reach)

        def weight(t: Tensor) -> Tensor:
            return ((nearest[..., None] - t) * (nearest[..., None] + t) / 2).exp()

        mass = integrate(weight, start, stop)
        mean = start + integrate(lambda t: (t - start[..., None]) * weight(t), start, stop) / mass
        return mean, integrate(lambda t: (t - mean[..., None]).square() * weight(t), start, stop) / mass

    @property
    @override
    def mean(self) -> Tensor:
        return (self.loc.double() + self.scale.double() * self._moments()[0]).to(self.loc.dtype)

    @property
    @override
    def variance(self) -> Tensor:
        return (self.scale.double().square() * self._moments()[1]).to(self.loc.dtype)

    @override
    def entropy(self) -> Tensor:
        mean, variance = self._moments()
        entropy = log_mass(*self._ends) + self.scale.double().log() + (mean.square() + variance) / 2
        return (entropy + 0.5 * math.log(2 * math.pi)).to(self.loc.dtype)


def _cross_entropy(p: TruncatedNormal, loc: Tensor, scale: Tensor) -> Tensor:
    """Return ``-E_p[log Normal(loc, scale)]``, in float64."""
    mean, variance = p._moments()
    mean, variance = p.loc.double() + p.scale.double() * mean, p.scale.double().square() * variance
    square = ((mean - loc.double()).square() + variance) / scale.double().square()
    return square / 2 + scale.double().log() + 0.5 * math.log(2 * math.pi)


@register_kl(TruncatedNormal, Normal)
def _kl_truncated_normal_normal(p: TruncatedNormal, q: Normal) -> Tensor:
    """Return the KL divergence from a normal distribution."""
    return (_cross_entropy(p, q.loc, q.scale) - p.entropy().double()).to(p.loc.dtype)


@register_kl(TruncatedNormal, TruncatedNormal)
def _kl_truncated_normal_truncated_normal(p: TruncatedNormal, q: TruncatedNormal) -> Tensor:
    """Return the KL divergence; infinite if the interval of ``p`` is not inside the interval of ``q``."""
    divergence = _cross_entropy(p, q.loc, q.scale) + log_mass(*q._ends) - p.entropy().double()
    within = (q.low <= p.low) & (p.high <= q.high)
    return torch.where(within, divergence, math.inf).to(p.loc.dtype)
