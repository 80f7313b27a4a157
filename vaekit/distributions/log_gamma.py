"""The logarithm of a gamma variable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, constraints, kl_divergence, register_kl
from torch.distributions.utils import broadcast_all
from typing_extensions import override

from vaekit.distributions.implicit import LOG_NEGLIGIBLE, integrate, reparameterize


class LogGamma(Distribution):
    r"""The distribution of ``y = log x`` for ``x ~ Gamma(concentration, rate)``; scipy's ``loggamma``.

    .. math:: p(y) = \frac{\beta^\alpha}{\Gamma(\alpha)} e^{\alpha y - \beta e^y}

    This is a density of y, not of x. A gamma variable of small concentration is usually below the smallest float, but
    its logarithm is not. Concentrations below 1 are sampled by the boost ``log x_a = log x_{a + 1} + log(u) / a``.
    First and second derivatives are supported. The computation is in float64 for any input type.

    Marsaglia and Tsang (2000), A Simple Method for Generating Gamma Variables; Figurnov, Mohamed and Mnih (2018),
    Implicit Reparameterization Gradients.

    Parameters
    ----------
    concentration, rate : Tensor
        alpha and beta of the gamma distribution, positive, broadcastable to each other.

    Examples
    --------
    >>> q = LogGamma(torch.tensor(1.0), torch.tensor(2.0))
    >>> round(q.log_prob(torch.tensor(0.0)).item(), 6)  # log 2 - 2
    -1.306853
    """

    arg_constraints = {"concentration": constraints.positive, "rate": constraints.positive}  # noqa: RUF012
    support = constraints.real
    has_rsample = True

    def __init__(self, concentration: Tensor, rate: Tensor | float = 1.0, validate_args: bool | None = None) -> None:
        if not isinstance(rate, Tensor):
            rate = concentration.new_full((), rate)  # broadcast_all would copy it from the host
        self.concentration, self.rate = broadcast_all(concentration, rate)
        super().__init__(self.concentration.shape, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> LogGamma:
        new = self._get_checked_instance(LogGamma, _instance)
        new.concentration, new.rate = self.concentration.expand(batch_shape), self.rate.expand(batch_shape)
        super(LogGamma, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @override
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        concentration = self.concentration.double().expand(self._extended_shape(torch.Size(sample_shape)))
        small = concentration < 1
        boosted = torch.where(small, concentration + 1, concentration)
        with torch.no_grad():
            boosted_value = Gamma(boosted, torch.ones_like(boosted), validate_args=False).sample().log()
            log_uniform = torch.rand_like(concentration).neg().log1p()  # log(1 - u), because u may be 0
        value = reparameterize(boosted_value, _velocity, boosted)
        value = value + torch.where(small, log_uniform / concentration, 0)
        return (value - self.rate.double().log()).to(self.concentration.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of y, not of x."""
        if self._validate_args:
            self._validate_sample(value)
        alpha = self.concentration.double()
        centered = value.double() + self.rate.double().log()
        return (alpha * centered - centered.exp() - alpha.lgamma()).to(self.concentration.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """Return the cumulative distribution function, without a gradient with respect to the concentration."""
        if self._validate_args:
            self._validate_sample(value)
        alpha = self.concentration.double()
        centered = value.double() + self.rate.double().log()
        tiny = centered < -30  # x underflows, and only the first term of the series matters
        series = (alpha * centered.clamp_max(-30) - (alpha + 1).lgamma()).exp()
        cdf = torch.where(tiny, series, torch.special.gammainc(alpha, centered.clamp_min(-30).exp()))
        return cdf.to(self.concentration.dtype)

    @property
    def mean(self) -> Tensor:
        """Mean, ``digamma(concentration) - log(rate)``."""
        return self.concentration.digamma() - self.rate.log()

    @property
    def mode(self) -> Tensor:
        """Mode, ``log(concentration / rate)``."""
        return self.concentration.log() - self.rate.log()

    @property
    def variance(self) -> Tensor:
        """Variance, ``trigamma(concentration)``."""
        return torch.polygamma(1, self.concentration)

    def entropy(self) -> Tensor:
        """Return the differential entropy of y."""
        alpha = self.concentration.double()
        return (alpha + alpha.lgamma() - alpha * alpha.digamma()).to(self.concentration.dtype)


def _velocity(value: Tensor, alpha: Tensor) -> tuple[Tensor]:
    """Return the derivative with respect to a concentration of at least 1, at rate 1; see ``implicit``."""
    shape, excess = alpha[..., None], (value - alpha.log()).exp()[..., None]  # excess: x divided by its mode
    offset = (value - alpha.digamma())[..., None]

    def integrand(step: Tensor) -> Tensor:
        return (offset + step) * (shape * (step - excess * step.expm1())).exp()

    with torch.no_grad():
        step = _reach(excess[..., 0], LOG_NEGLIGIBLE / alpha)
    return (integrate(integrand, torch.zeros_like(value), step),)


def _reach(excess: Tensor, fall: Tensor) -> Tensor:
    """Solve ``excess * expm1(step) - step = fall`` approximately for the step away from the mode.

    The left side is convex. Newton's method starts beyond the root, so it converges without overshooting.
    """
    up = excess >= 1
    slope = (excess - 1).abs()
    parabola = (-slope + (slope.square() + 2 * excess * fall).sqrt()) / excess
    above = torch.minimum(parabola, ((fall + parabola) / excess).log1p())
    step = torch.where(up, above, -(fall + excess))
    for _ in range(4):
        step = step - (excess * step.expm1() - step - fall) / (excess * step.exp() - 1)
    return step


@register_kl(LogGamma, LogGamma)
def _kl_log_gamma_log_gamma(p: LogGamma, q: LogGamma) -> Tensor:
    """Return the divergence, which equals the divergence of the gamma variables."""
    first, second = (Gamma(d.concentration.double(), d.rate.double(), validate_args=False) for d in (p, q))
    return kl_divergence(first, second).to(p.concentration.dtype)
