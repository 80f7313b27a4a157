"""The logarithm of a Dirichlet vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Dirichlet, Distribution, constraints, kl_divergence, register_kl

from vaekit.distributions.log_gamma import LogGamma


class _LogSimplex(constraints.Constraint):
    """Vectors of log-probabilities: their exponentials sum to 1."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Tell which vectors are normalized, up to rounding."""
        return value.double().logsumexp(-1).abs() < 1e-5 + 8 * torch.finfo(value.dtype).eps


class LogDirichlet(Distribution):
    r"""The distribution of ``y = log x`` for ``x ~ Dirichlet(concentration)``, drawn as normalized ``LogGamma``.

    .. math:: p(y) = \frac{\Gamma(\sum_k \alpha_k)}{\prod_k \Gamma(\alpha_k)} \prod_k e^{\alpha_k y_k}

    is the density by the Lebesgue measure of the log-ratios ``y_k - y_K`` (k < K), the same whichever coordinate
    is the last: the Dirichlet density times the Jacobian ``prod_k x_k``. The entropy is by this measure too;
    a KL divergence is by none, and equals that of the Dirichlet distributions. First and second derivatives
    are supported.

    Parameters
    ----------
    concentration
        alpha, positive, ``[*batch, K]``.

    Raises
    ------
    ValueError
        If ``concentration`` is a scalar, or, where arguments are validated, not positive.

    Examples
    --------
    >>> q = LogDirichlet(torch.tensor([1.0, 1.0]))
    >>> q.log_prob(torch.tensor([0.5, 0.5]).log()).exp()  # a logistic variable, at 0
    tensor(0.2500)
    """

    arg_constraints = {"concentration": constraints.independent(constraints.positive, 1)}  # noqa: RUF012
    support = _LogSimplex()
    has_rsample = True

    def __init__(self, concentration: Tensor, validate_args: bool | None = None) -> None:
        if concentration.dim() < 1:
            raise ValueError("LogDirichlet: concentration is a scalar, it must be [*batch, K]")
        self.concentration = concentration
        super().__init__(concentration.shape[:-1], concentration.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogDirichlet:
        """Return the distribution expanded to ``batch_shape``."""
        new = self._get_checked_instance(LogDirichlet, _instance)
        batch_shape = torch.Size(batch_shape)
        new.concentration = self.concentration.expand(batch_shape + self.event_shape)
        super(LogDirichlet, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw with a gradient."""
        unnormalized = LogGamma(self.concentration.double(), validate_args=False).rsample(sample_shape)
        return unnormalized.log_softmax(-1).to(self.concentration.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density by the measure of the log-ratios (see the class)."""
        if self._validate_args:
            self._validate_sample(value)
        alpha = self.concentration.double()
        log_prob = (alpha * value.double()).sum(-1) - _log_normalizer(alpha)
        return log_prob.to(self.concentration.dtype)

    @property
    def mean(self) -> Tensor:
        """Return ``E[log x]``."""
        return self._mean().to(self.concentration.dtype)

    def _mean(self) -> Tensor:
        """Return the mean in float64."""
        alpha = self.concentration.double()
        return alpha.digamma() - alpha.sum(-1, keepdim=True).digamma()

    @property
    def variance(self) -> Tensor:
        """Return the variances of ``log x_k``."""
        alpha = self.concentration.double()
        variance = torch.polygamma(1, alpha) - torch.polygamma(1, alpha.sum(-1, keepdim=True))
        return variance.to(self.concentration.dtype)

    def entropy(self) -> Tensor:
        """Return the differential entropy by the measure of the log-ratios (see the class)."""
        alpha = self.concentration.double()
        return (_log_normalizer(alpha) - (alpha * self._mean()).sum(-1)).to(self.concentration.dtype)


def _log_normalizer(alpha: Tensor) -> Tensor:
    """Return the logarithm of the multivariate beta function."""
    return alpha.lgamma().sum(-1) - alpha.sum(-1).lgamma()


@register_kl(LogDirichlet, LogDirichlet)
def _kl_log_dirichlet_log_dirichlet(p: LogDirichlet, q: LogDirichlet) -> Tensor:
    """Return the divergence, which is that of the Dirichlet vectors."""
    first, second = (Dirichlet(d.concentration.double(), validate_args=False) for d in (p, q))
    return kl_divergence(first, second).to(p.concentration.dtype)
