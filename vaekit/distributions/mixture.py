"""Mixtures, with pathwise gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, Independent
from typing_extensions import override

from vaekit.distributions.precise import exact_logits, given_probs, implements


class MixtureSameFamily(torch.distributions.MixtureSameFamily):
    r"""torch's mixture with ``rsample`` by implicit reparameterization through the CDF of the mixture.

    .. math:: \frac{dz}{d\theta} = -\frac{\partial_\theta \sum_k \pi_k F_k(z)}{\sum_k \pi_k p_k(z)}

    Unlike sampling a component, it has gradients for the mixture's logits. For ``Independent`` components with
    variables 1 .. D, the chain of conditional CDFs replaces the CDF,

    .. math:: F(z_d | z_{<d}) = \sum_k \frac{\pi_k p_k(z_{<d})}{\sum_l \pi_l p_l(z_{<d})} F_k(z_d)

    at a cost of ``D^2 K`` per sample. Second derivatives are supported if the components' ``cdf`` and ``log_prob`` have
    them. Gradients are computed in the type of the components. In float32, gradients far in the right tail have an
    absolute error of about 1e-7 divided by the density.

    Figurnov, Mohamed and Mnih (2018), Implicit Reparameterization Gradients; Graves (2016), Stochastic
    Backpropagation through Mixture Density Distributions.

    Parameters
    ----------
    mixture_distribution : Categorical, batch shape (*batch) or scalar
        Distribution of the K components.
    component_distribution : Distribution, batch shape (*batch, K)
        Distributions of the components. ``rsample`` needs continuous ones with ``cdf``, which may be inside one
        ``Independent``: Normal, Laplace, TruncatedNormal, VonMises, LogNormal, ...

    Raises
    ------
    NotImplementedError
        By ``rsample``, if the components do not have a ``cdf`` (``has_rsample`` is then False), or have intervals of
        different ends as supports.

    Examples
    --------
    >>> from torch.distributions import Categorical, Normal
    >>> logits = torch.zeros(2, requires_grad=True)
    >>> q = MixtureSameFamily(Categorical(logits=logits), Normal(torch.tensor([-1.0, 1.0]), torch.ones(2)))
    >>> q.has_rsample, q.rsample(torch.Size([5])).requires_grad
    (True, True)
    """

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the components are continuous and have a ``cdf``."""
        base = self._base[0]
        return implements(base, "cdf") and base.support is not None and not base.support.is_discrete

    @property
    def _base(self) -> tuple[Distribution, bool]:
        """The distribution of single variables, and whether they form a vector."""
        component = self.component_distribution
        if isinstance(component, Independent) and component.reinterpreted_batch_ndims == 1:
            if not component.base_dist.event_shape:
                return component.base_dist, True
        elif not component.event_shape:
            return component, False
        return Distribution(validate_args=False), False  # it does not have a cdf

    @override
    def sample(self, sample_shape: Any = ()) -> Tensor:
        # torch's sample does not broadcast the weights
        same = self.mixture_distribution.batch_shape == self.batch_shape
        mixture = self if same else self.expand(self.batch_shape)
        return torch.distributions.MixtureSameFamily.sample(mixture, sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density, with a gradient also by weights that were passed as 0."""
        return mixture_log_prob(self, value)

    @override
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        base, vector = self._base
        if not self.has_rsample:
            raise NotImplementedError(
                f"MixtureSameFamily.rsample: the components {self.component_distribution} must have a cdf. Use "
                "ScoreFunction(baseline=LeaveOneOut()), or sum over the components with Enumerate()."
            )
        _check_support(base, -2 if vector else -1)
        value = self.sample(torch.Size(sample_shape))
        if not torch.is_grad_enabled():
            return value
        # Newton's method on F(z) = u, which does not change the value. Each step doubles the order to which the
        # derivatives are correct: up to the third after two steps.
        residual = _vector_residual if vector else _scalar_residual
        log_weight, unused = _weights(self)
        target = None
        for _ in range(2):
            cdf, inverse_jacobian = residual(base, log_weight, unused, value)
            target = cdf.detach() if target is None else target
            value = value - inverse_jacobian(cdf - target)
        return value


def mixture_log_prob(q: torch.distributions.MixtureSameFamily, value: Tensor) -> Tensor:
    """Return the log-density of a mixture; torch clamps weights and has no gradient with respect to weights of 0."""
    if q._validate_args:
        q._validate_sample(value)
    log_prob = q.component_distribution.log_prob(q._pad(value))
    log_weight, unused = _weights(q)
    possible = log_weight > -math.inf
    total = (log_weight + torch.where(possible, log_prob, 0)).logsumexp(-1)
    return total if unused is None else total + (unused * (_ratio(log_prob - total[..., None]) - 1)).sum(-1)


def _weights(q: torch.distributions.MixtureSameFamily) -> tuple[Tensor, Tensor | None]:
    """Return the log-weights, and zeros with the gradient of the weights that were passed as 0 (None for logits)."""
    probs = given_probs(q.mixture_distribution)
    log_weight = exact_logits(q.mixture_distribution)
    return log_weight, None if probs is None else torch.where(probs > 0, 0, probs - probs.detach())


def _ratio(log_ratio: Tensor) -> Tensor:
    """Return the density ratio of components and mixture, clamped: it may overflow for an unused component."""
    return log_ratio.detach().clamp_max(80).exp().nan_to_num(0)


def _check_support(base: Distribution, components: int) -> None:
    """Raise an error if components have different supports: the derivatives would miss jumps of the density."""
    for name in ("lower_bound", "upper_bound"):
        bound = getattr(base.support, name, None)
        if isinstance(bound, Tensor) and not (bound == bound.narrow(components, 0, 1)).all():
            raise NotImplementedError(
                f"MixtureSameFamily.rsample: the components must have one support, but their {name}s are {bound}. "
                "Make the component a separate node, with a node of Pathwise() that depends on it."
            )


_Residual = tuple[Tensor, Callable[[Tensor], Tensor]]


def _scalar_residual(base: Distribution, log_weight: Tensor, unused: Tensor | None, value: Tensor) -> _Residual:
    """Return the CDF at values ``[*]``, and a function that divides by the density."""
    value = value.unsqueeze(-1)
    log_density = (log_weight + base.log_prob(value)).logsumexp(-1)
    by_component = base.cdf(value)
    cdf = (log_weight.exp() * by_component).sum(-1)
    if unused is not None:
        cdf = cdf + (unused * (by_component - cdf[..., None]).detach()).sum(-1)
    return cdf, lambda error: error / log_density.exp()


def _vector_residual(base: Distribution, log_weight: Tensor, unused: Tensor | None, value: Tensor) -> _Residual:
    """Return the conditional CDFs at values ``[*, D]``, and a function that solves for their Jacobian.

    The Jacobian ``dF_d / dz_j`` is lower triangular, with the conditional densities on its diagonal.
    """
    value = value.unsqueeze(-2).expand(*value.shape[:-1], *base.batch_shape[-2:])
    log_prob, pullback = torch.func.vjp(base.log_prob, value)  # type: ignore[misc]  # [*, K, D]
    (score,) = pullback(torch.ones_like(log_prob))
    before = F.pad(log_prob.cumsum(-1)[..., :-1], (1, 0))
    log_posterior = (log_weight.unsqueeze(-1) + before).log_softmax(-2)  # of components, given the earlier variables
    density = (log_posterior + log_prob).logsumexp(-2).exp()
    posterior, by_component = log_posterior.exp(), base.cdf(value)
    cdf = (posterior * by_component).sum(-2)
    if unused is not None:
        evidence = (log_weight.unsqueeze(-1) + before).logsumexp(-2, keepdim=True)
        change = _ratio(before - evidence) * (by_component - cdf.unsqueeze(-2)).detach()
        cdf = cdf + (unused.unsqueeze(-1) * change).sum(-2)
    surprise = posterior * (by_component - cdf.unsqueeze(-2)) / density.unsqueeze(-2)
    jacobian = (surprise.unsqueeze(-1) * score.unsqueeze(-2)).sum(-3)  # autocast would round a matrix product

    def solve(error: Tensor) -> Tensor:
        right = (error / density).unsqueeze(-1)
        return torch.linalg.solve_triangular(jacobian, right, upper=False, unitriangular=True).squeeze(-1)

    return cdf, solve
