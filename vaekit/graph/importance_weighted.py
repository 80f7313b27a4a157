r"""Importance-weighted bound: a log-mean-exp over joint samples, which is not a linear expectation and has no fold.

.. math:: L_K = E\Big[\log \frac{1}{K} \sum_k w_k\Big], \quad w_k = \frac{p(x, z_k)}{q(z_k | x)}

With normalized weights ``v_k = w_k / sum_j w_j``, the gradient with respect to the distribution of a node is the sum
over joint samples k of

- ``(L_K - L_{-k}) grad log q(z_k) - v_k grad log q(z_k)`` for a score function (VIMCO), where ``L_{-k}`` replaces
  ``w_k`` by the geometric mean of the other weights;
- ``v_k^2 grad_z log w_k dz_k`` for a pathwise estimator (DReG), with the parameters inside ``log q`` held fixed. It
  does not have the variance of the plain gradient, which grows with K relative to the mean. With q raised to a power
  beta the factor is ``v_k (1 - beta + beta v_k)``;
- ``v_k grad_z log w_k dz_k`` for a pathwise estimator with ``stick_the_landing``, which is biased for K > 1.

A pathwise node with children keeps the plain gradient, because its value also determines their distributions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.derivatives import FirstOrder
from vaekit.estimators.discrete_support import log_prob
from vaekit.estimators.estimator import Estimator
from vaekit.estimators.func_transforms import forward_mode
from vaekit.estimators.moving_support import support_moves
from vaekit.exceptions import EstimatorError
from vaekit.graph.cost_terms import CostTerm, align, evaluate_term
from vaekit.graph.dependencies import NodeFunction, assign_estimators, parse_graph
from vaekit.graph.expectation import sample_and_evaluate
from vaekit.graph.fold import check_gradient_paths
from vaekit.graph.sampling import GraphSample, check_joint


class _Factor:
    """Factor of a gradient whose value is known only after the cost was evaluated."""

    value: Tensor  # [K, *batch]


class _ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor."""

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
    """Return an estimate of the importance-weighted bound on log p(x), to be maximized.

    Parameters
    ----------
    log_joint : Callable or NodeFunction
        Function of the nodes that its parameters name. It returns log p(x, z), ``[num_samples, *batch]``.
    q, estimator
        As for :func:`vaekit.expectation`, with the estimators ``Pathwise``,
        ``ScoreFunction(baseline=LeaveOneOut())`` (VIMCO) and ``ScoreFunction()`` (no baseline).
    num_samples : int
        Number K of joint samples.

    Returns
    -------
    Tensor, shape (*batch)
        The bound, with the gradients in the docstring of the module.

    Raises
    ------
    EstimatorError
        If an estimator does not support the bound, or ``log_joint`` is a dictionary, has a wrong shape, or no gradient
        path to a node that needs one (``"auto"`` then uses the score function).

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
        from vaekit.graph.compilation import outside_graph  # slow to import

        return outside_graph(importance_weighted_bound, log_joint, q, estimator, num_samples=num_samples)
    if forward_mode():
        raise EstimatorError(
            "importance_weighted_bound: derivatives in forward mode (jvp, jacfwd, hessian) are not supported. Use "
            "torch.func.grad or torch.autograd.grad."
        )
    if isinstance(log_joint, Mapping):
        raise EstimatorError(
            f"importance_weighted_bound: log_joint is a dictionary of {list(log_joint)}, but the logarithm of a mean "
            "has no separate terms. Give one function that returns their sum."
        )
    nodes, functions = parse_graph(log_joint, q)
    (function,) = functions.values()

    def evaluate(graph_sample: GraphSample) -> Tensor:
        graph_sample = prepare(graph_sample)
        terms = check_terms(graph_sample, {"log_joint": evaluate_term(function, graph_sample, "log_joint")})
        return combine(graph_sample, terms["log_joint"].value)

    estimators = assign_estimators(estimator, [node.name for node in nodes])
    return sample_and_evaluate(nodes, estimators, evaluate, num_samples=num_samples)


def check_terms(
    graph_sample: GraphSample, terms: Mapping[str, CostTerm], check_paths: bool = True
) -> dict[str, CostTerm]:
    """Return the terms of log p(x, z) in shape ``[K or 1, *batch]``, with checks of shapes and gradient paths.

    The terms were evaluated at the values of the prepared ``graph_sample``.
    """
    aligned = align(graph_sample, terms)
    if check_paths:
        remedy = "Use ScoreFunction(baseline=LeaveOneOut()) (VIMCO) or ScoreFunction()."
        check_gradient_paths(graph_sample, aligned, remedy)
    return aligned


def check_estimator(name: str, estimator: Estimator) -> None:
    """Raise an error if an estimator does not support the importance-weighted bound."""
    if not estimator.supports_importance_weighting:
        raise EstimatorError(
            f"node {name!r}: {estimator.description} does not support the importance-weighted bound, which is not a "
            "linear expectation. Use Pathwise (DReG), ScoreFunction(baseline=LeaveOneOut()) (VIMCO) or ScoreFunction()."
        )


def prepare(graph_sample: GraphSample) -> GraphSample:
    """Check the estimators, and prepare pathwise values for the doubly reparameterized gradient."""
    samples = dict(graph_sample.samples)
    for name, estimator in graph_sample.estimators.items():
        check_estimator(name, estimator)
        sample = samples[name]
        check_joint(name, estimator, len(sample.value))
        if _is_doubly_reparameterized(graph_sample, name):
            factor = _Factor()
            # full batch shape: a sample that the batch shares has a separate factor for each entry
            value = sample.value.expand(len(sample.value), *graph_sample.batch, *sample.q.event_shape)
            samples[name] = sample._replace(value=_ScaleGradient.apply(value, factor), noise=factor)
    return graph_sample._replace(samples=samples)


def _holds_parameters(graph_sample: GraphSample, name: str) -> bool:
    """Return whether the parameters inside log q of a node are held fixed: a pathwise node without children.

    If the support moves with them, the gradient is the plain one, because DReG has no term for the ends of the support.
    """
    sample, estimator = graph_sample.samples[name], graph_sample.estimators[name]
    is_parent = any(name in node.parents for node in graph_sample.nodes)
    is_pathwise = estimator.requires_differentiable_cost and sample.value.requires_grad
    return is_pathwise and not is_parent and not support_moves(sample.q)


def _is_doubly_reparameterized(graph_sample: GraphSample, name: str) -> bool:
    return _holds_parameters(graph_sample, name) and not graph_sample.estimators[name].stick_the_landing


def _log_posterior(graph_sample: GraphSample) -> Tensor:
    """Return log q(z | x) of the joint samples, ``[K, *batch]``, with the gradients that :func:`combine` needs."""
    total: Any = 0.0
    for name, sample in graph_sample.samples.items():
        log_q = log_prob(sample.q, sample.value)
        if _holds_parameters(graph_sample, name):
            score = log_prob(sample.q, sample.value.detach())
            log_q = log_q - (score - score.detach())
        total = total + log_q
    return total


def combine(graph_sample: GraphSample, log_joint: Tensor, posterior_weight: float = 1.0) -> Tensor:
    """Return the bound, ``[*batch]``, for log p(x, z), ``[K, *batch]``, at the values of the prepared ``graph_sample``.

    ``posterior_weight`` is the weight of log q in the log-weights. A warm-up uses it for log p(z) as well.
    """
    log_weight = log_joint - posterior_weight * _log_posterior(graph_sample)
    bound = log_weight.logsumexp(0) - math.log(len(log_weight))
    constant = log_weight.detach()
    is_first_order = False
    for name, sample in graph_sample.samples.items():
        estimator = graph_sample.estimators[name]
        if _is_doubly_reparameterized(graph_sample, name):
            sample.noise.value = 1 - posterior_weight * (1 - constant.softmax(0))
            is_first_order = True
        if not estimator.requires_differentiable_cost:
            assert sample.log_prob is not None  # every score function stores it
            signal = constant.logsumexp(0, keepdim=True) - math.log(len(constant))
            if estimator.baseline is not None:
                signal = signal - _leave_one_out_bound(constant)
            bound = bound + (signal * (sample.log_prob - sample.log_prob.detach())).sum(0)
            is_first_order = True
    if not is_first_order:
        return bound
    marks = FirstOrder()
    marks.close()
    message = (
        "importance_weighted_bound: DReG and VIMCO estimate first derivatives only, and a second derivative was taken "
        "through the bound. Use expectation() for second derivatives."
    )
    sources = [t for sample in graph_sample.samples.values() for t in (sample.value, sample.log_prob) if t is not None]
    return marks.mark(bound, message, log_weight, *sources)


def _leave_one_out_bound(log_weight: Tensor) -> Tensor:
    """Return ``L_{-k}``, ``[K, *batch]``: the bound with the log-weight of k replaced by the mean of the others.

    Log-weights may be minus infinity. If all others are, the baseline is 0.
    """
    count = len(log_weight)
    table = log_weight[None].expand(count, *log_weight.shape)  # [k, K, *batch]
    is_replaced = torch.eye(count, dtype=torch.bool, device=log_weight.device)
    is_replaced = is_replaced.reshape(count, count, *[1] * (log_weight.dim() - 1))
    mean_of_others = table.masked_fill(is_replaced, 0).sum(1, keepdim=True) / (count - 1)
    bound = torch.where(is_replaced, mean_of_others, table).logsumexp(1) - math.log(count)
    return bound.masked_fill(bound.isneginf(), 0)
