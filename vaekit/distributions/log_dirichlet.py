"""The logarithm of a Dirichlet vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Dirichlet, Distribution, constraints, kl_divergence, register_kl
from typing_extensions import override

from vaekit.distributions.log_gamma import LogGamma


class _LogSimplex(constraints.Constraint):
    """Vectors of log-probabilities: their exponentials sum to 1."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Return which vectors are normalized, up to rounding."""
        return value.double().logsumexp(-1).abs() < 1e-5 + 8 * torch.finfo(value.dtype).eps


class LogDirichlet(Distribution):
    r"""The distribution of ``y = log x`` for ``x ~ Dirichlet(concentration)``, sampled as normalized ``LogGamma``.

    .. math:: p(y) = \frac{\Gamma(\sum_k \alpha_k)}{\prod_k \Gamma(\alpha_k)} \prod_k e^{\alpha_k y_k}

    is the density with respect to the Lebesgue measure of the log-ratios ``y_k - y_K`` (k < K): the Dirichlet density
    times the Jacobian ``prod_k x_k``. It does not depend on the order of the components. The entropy has the same
    measure. A KL divergence does not depend on the measure, and equals the divergence of the Dirichlet distributions.
    First and second derivatives are supported.

    Parameters
    ----------
    concentration : Tensor, shape (*batch, K)
        alpha, positive.

    Raises
    ------
    ValueError
        If ``concentration`` is a scalar, or is not positive and arguments are validated.

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
            raise ValueError("LogDirichlet: concentration must have the shape [*batch, K], not be a scalar.")
        self.concentration = concentration
        super().__init__(concentration.shape[:-1], concentration.shape[-1:], validate_args=validate_args)

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> LogDirichlet:
        new = self._get_checked_instance(LogDirichlet, _instance)
        batch_shape = torch.Size(batch_shape)
        new.concentration = self.concentration.expand(batch_shape + self.event_shape)
        super(LogDirichlet, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @override
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        unnormalized = LogGamma(self.concentration.double(), validate_args=False).rsample(sample_shape)
        return unnormalized.log_softmax(-1).to(self.concentration.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density with respect to the measure of the log-ratios."""
        if self._validate_args:
            self._validate_sample(value)
        alpha = self.concentration.double()
        log_prob = (alpha * value.double()).sum(-1) - _log_normalizer(alpha)
        return log_prob.to(self.concentration.dtype)

    @property
    def mean(self) -> Tensor:
        """Mean ``E[log x]``."""
        return self._mean().to(self.concentration.dtype)

    def _mean(self) -> Tensor:
        """Return the mean in float64."""
        alpha = self.concentration.double()
        return alpha.digamma() - alpha.sum(-1, keepdim=True).digamma()

    @property
    def variance(self) -> Tensor:
        """Variances of ``log x_k``."""
        alpha = self.concentration.double()
        variance = torch.polygamma(1, alpha) - torch.polygamma(1, alpha.sum(-1, keepdim=True))
        return variance.to(self.concentration.dtype)

    def entropy(self) -> Tensor:
        """Return the differential entropy with respect to the measure of the log-ratios."""
        alpha = self.concentration.double()
        return (_log_normalizer(alpha) - (alpha * self._mean()).sum(-1)).to(self.concentration.dtype)


def _log_normalizer(alpha: Tensor) -> Tensor:
    """Return the logarithm of the multivariate beta function."""
    return alpha.lgamma().sum(-1) - alpha.sum(-1).lgamma()


@register_kl(LogDirichlet, LogDirichlet)
def _kl_log_dirichlet_log_dirichlet(p: LogDirichlet, q: LogDirichlet) -> Tensor:
    """Return the divergence, which equals the divergence of the Dirichlet vectors."""
    first, second = (Dirichlet(d.concentration.double(), validate_args=False) for d in (p, q))
    return kl_divergence(first, second).to(p.concentration.dtype)
