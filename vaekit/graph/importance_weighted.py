r"""The importance-weighted bound: a log-mean-exp over joint trajectories, no linear expectation, so no fold.

.. math:: L_K = E\Big[\log \frac{1}{K} \sum_k w_k\Big], \quad w_k = \frac{p(x, z_k)}{q(z_k | x)}

With normalised weights ``v_k = w_k / sum_j w_j``, the gradient with respect to what shapes the distribution of a
node is, a trajectory ``k``,

- at a score-type node (VIMCO): ``(L_K - L_{-k}) grad log q(z_k) - v_k grad log q(z_k)``, where ``L_{-k}`` replaces
  ``w_k`` by the geometric mean of the other weights;
- at a pathwise node (DReG): ``v_k^2 grad_z log w_k dz_k``, with the parameters inside ``log q`` held: the variance of
  the plain gradient, which grows with K relative to its mean, is gone (with q raised to a power beta,
  ``v_k (1 - beta + beta v_k)`` instead of ``v_k^2``);
- at a pathwise node with ``stick_the_landing``: ``v_k grad_z log w_k dz_k``: biased for K > 1.

A pathwise node that other nodes depend on keeps the plain gradient, as its value also shapes their distributions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.baselines import LeaveOneOut
from vaekit.estimators.derivatives import FirstOrder
from vaekit.estimators.discrete_support import log_prob
from vaekit.estimators.estimator import Estimator
from vaekit.estimators.func_transforms import forward_mode
from vaekit.estimators.moving_support import support_moves
from vaekit.estimators.pathwise import Pathwise
from vaekit.estimators.score_function import ScoreFunction
from vaekit.exceptions import EstimatorError
from vaekit.graph.dependencies import NodeFunction, assign_estimators, parse_graph
from vaekit.graph.expectation import attempt, evaluate_term
from vaekit.graph.fold import CostTerm, align, check_gradient_paths
from vaekit.graph.sampling import GraphSample


class _Factor:
    """Multiplies a gradient; its value is known only after the cost was evaluated."""

    value: Tensor  # [K, *batch]


class _LateScale(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: _Factor) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        factor = ctx.factor.value
        return gradient * factor.reshape(factor.shape + (1,) * (gradient.dim() - factor.dim())), None


def importance_weighted_bound(
    log_joint: Callable[..., Tensor] | NodeFunction,
    q: Distribution | Mapping[str, Distribution | Callable[..., Distribution] | NodeFunction],
    estimator: Estimator | str | Mapping[str, Estimator | str] = "auto",
    *,
    num_samples: int,
) -> Tensor:
    """Return an estimate of the bound on log p(x), to be maximised, with the gradients of the module's docstring.

    Parameters
    ----------
    log_joint
        Function of the nodes that its parameters name, returning log p(x, z), ``[num_samples, *batch]``.
    q, estimator
        As in :func:`vaekit.expectation`. Estimators: ``Pathwise``, ``ScoreFunction(baseline=LeaveOneOut())`` (VIMCO)
        or ``ScoreFunction()`` (no baseline).
    num_samples
        K, trajectories.

    Returns
    -------
    Tensor
        ``[*batch]``.

    Raises
    ------
    EstimatorError
        If an estimator cannot serve the bound, ``log_joint`` is a dictionary, has a wrong shape, or no gradient path to
        a node that relies on one (``"auto"`` then takes the score function).

    Notes
    -----
    Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders; Mnih and Rezende (2016), Variational
    Inference for Monte Carlo Objectives; Tucker, Lawson, Gu and Maddison (2019), Doubly Reparameterized Gradient
    Estimators for Monte Carlo Objectives.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Normal
    >>> posterior = Normal(torch.tensor(0.6), torch.tensor(0.8) ** 0.5)  # of z ~ N(0, 2), x ~ N(z, 4 / 3), at x = 1
    >>> joint = lambda z: Normal(0.0, 2**0.5).log_prob(z) + Normal(z, (4 / 3) ** 0.5).log_prob(torch.tensor(1.0))
    >>> bound = importance_weighted_bound(joint, posterior, num_samples=3)
    >>> torch.allclose(bound, Normal(0.0, (2 + 4 / 3) ** 0.5).log_prob(torch.tensor(1.0)))  # exact: q is the posterior
    True
    """
    if torch.compiler.is_compiling():
        from vaekit.graph.compilation import outside_graph  # which takes seconds to import

        return outside_graph(importance_weighted_bound, log_joint, q, estimator, num_samples=num_samples)
    if forward_mode():
        raise EstimatorError(
            "importance_weighted_bound: derivatives in forward mode (jvp, jacfwd, hessian) are not supported. Use "
            "torch.func.grad or torch.autograd.grad."
        )
    if isinstance(log_joint, Mapping):
        raise EstimatorError(
            f"importance_weighted_bound: log_joint is a dictionary of {list(log_joint)}, but the bound is the "
            "logarithm of a mean and has no terms of its own: give one function that returns their sum"
        )
    nodes, functions = parse_graph(log_joint, q)
    (function,) = functions.values()

    def bound(drawn: GraphSample) -> Tensor:
        drawn = prepare(drawn)
        terms = checked(drawn, {"log_joint": evaluate_term(function, drawn, "log_joint")})
        return combine(drawn, terms["log_joint"].value)

    return attempt(nodes, assign_estimators(estimator, [node.name for node in nodes]), bound, num_samples=num_samples)


def checked(drawn: GraphSample, terms: Mapping[str, CostTerm], check_paths: bool = True) -> dict[str, CostTerm]:
    """Return the terms of log p(x, z) as ``[K or 1, *batch]``.

    Parameters
    ----------
    drawn
        From :func:`prepare`; the terms were worked out at its values.
    terms
        Of log p(x, z).
    check_paths
        Whether to look for the gradient paths that estimators rely on.

    Raises
    ------
    EstimatorError
        If a term has a wrong shape, or no gradient path to a node that relies on one.
    """
    aligned = align(drawn, terms)
    if check_paths:
        check_gradient_paths(
            drawn, aligned, "these work: ScoreFunction(baseline=LeaveOneOut()) (VIMCO), ScoreFunction()"
        )
    return aligned


def check_estimator(name: str, estimator: Estimator) -> None:
    """Raise an error if an estimator cannot serve an importance-weighted bound."""
    if isinstance(estimator, ScoreFunction):
        served = estimator.critic is None and (
            estimator.baseline is None or isinstance(estimator.baseline, LeaveOneOut)
        )
    else:
        served = isinstance(estimator, Pathwise)
    if not served:
        raise EstimatorError(
            f"node {name!r}: {describe_estimator(estimator)} cannot serve an importance-weighted bound, which is no "
            "linear expectation; these can: Pathwise (DReG), ScoreFunction(baseline=LeaveOneOut()) (VIMCO), "
            "ScoreFunction()"
        )


def describe_estimator(estimator: Estimator) -> str:
    """Name an estimator and its baseline for an error message."""
    parts = {name: getattr(estimator, name, None) for name in ("baseline", "critic")}
    inside = ", ".join(f"{name}={type(part).__name__}()" for name, part in parts.items() if part is not None)
    return f"{type(estimator).__name__}({inside})"


def prepare(drawn: GraphSample) -> GraphSample:
    """Check the estimators, and make pathwise values ready for the doubly reparameterized gradient."""
    parents = {parent for node in drawn.nodes for parent in node.parents}
    draws = dict(drawn.samples)
    for name, estimator in drawn.estimators.items():
        check_estimator(name, estimator)
        if isinstance(estimator, ScoreFunction) and estimator.baseline is not None and len(draws[name].value) < 2:
            raise EstimatorError(f"node {name!r}: LeaveOneOut compares trajectories: num_samples must be at least 2")
        if _held(name, drawn, parents) and not estimator.stick_the_landing:
            factor = _Factor()
            value, event = draws[name].value, draws[name].q.event_shape
            # in full: where draws are shared over the batch, each of its entries has a factor of its own
            value = value.expand(len(value), *drawn.batch, *event)
            draws[name] = draws[name]._replace(value=_LateScale.apply(value, factor), noise=factor)
    return drawn._replace(samples=draws)


def _held(name: str, drawn: GraphSample, parents: set[str]) -> bool:
    """Tell whether the parameters inside log q of a node are held: a pathwise node that no other depends on.

    Where the support moves with them, the gradient stays the plain one: DReG has no term for its ends.
    """
    draw, estimator = drawn.samples[name], drawn.estimators[name]
    free = name not in parents and draw.value.requires_grad
    return isinstance(estimator, Pathwise) and free and not support_moves(draw.q)


def log_posterior(drawn: GraphSample) -> Tensor:
    """Return log q(z | x) of the trajectories, ``[K, *batch]``, with the gradients that :func:`combine` needs."""
    parents = {parent for node in drawn.nodes for parent in node.parents}
    total: Any = 0.0
    for name, draw in drawn.samples.items():
        log_q = log_prob(draw.q, draw.value)
        if _held(name, drawn, parents):
            score = log_prob(draw.q, draw.value.detach())
            log_q = log_q - (score - score.detach())
        total = total + log_q
    return total


def combine(drawn: GraphSample, log_joint: Tensor, posterior_weight: float = 1.0) -> Tensor:
    """Return the bound, ``[*batch]``.

    Parameters
    ----------
    drawn
        From :func:`prepare`; ``log_joint`` was worked out at its values.
    log_joint
        log p(x, z), ``[K, *batch]``.
    posterior_weight
        Weight of log q in the log-weights: a warm-up's, which weighs log p(z) alike; 1 is the bound.
    """
    log_weight = log_joint - posterior_weight * log_posterior(drawn)
    bound = log_weight.logsumexp(0) - math.log(log_weight.shape[0])
    fixed = log_weight.detach()
    first_order = False
    for name, draw in drawn.samples.items():
        estimator = drawn.estimators[name]
        if isinstance(draw.noise, _Factor):
            draw.noise.value = 1 - posterior_weight * (1 - fixed.softmax(0))
            first_order = True
        if isinstance(estimator, ScoreFunction):
            assert draw.log_prob is not None  # a score function's draw has it
            signal = fixed.logsumexp(0, keepdim=True) - math.log(len(fixed))
            if estimator.baseline is not None:
                signal = signal - _without(fixed)
            bound = bound + (signal * (draw.log_prob - draw.log_prob.detach())).sum(0)
            first_order = True
    if not first_order:
        return bound
    marks = FirstOrder()
    marks.close()
    message = (
        "importance_weighted_bound: DReG and VIMCO estimate first derivatives only, and a second derivative was taken "
        "through the bound. Use expectation() for second derivatives."
    )
    sources = [t for draw in drawn.samples.values() for t in (draw.value, draw.log_prob) if t is not None]
    return marks.mark(bound, message, log_weight, *sources)


def _without(log_weight: Tensor) -> Tensor:
    """Return ``L_{-k}``: the bound with each log-weight in turn replaced by the mean of the others, ``[K, *batch]``.

    Log-weights may be minus infinity. Where all others are, nothing is known, and the baseline is 0.
    """
    count = log_weight.shape[0]
    table = log_weight[None].expand(count, *log_weight.shape)  # [which is replaced, K, *batch]
    own = torch.eye(count, dtype=torch.bool, device=log_weight.device)
    own = own.reshape(count, count, *[1] * (log_weight.dim() - 1))
    others = table.masked_fill(own, 0).sum(1, keepdim=True) / (count - 1)
    bound = torch.where(own, others, table).logsumexp(1) - math.log(count)
    return bound.masked_fill(bound.isneginf(), 0)
