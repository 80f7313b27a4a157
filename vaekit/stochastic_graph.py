"""An expectation that can be differentiated: draw the nodes, evaluate the cost, fold.

Nodes are drawn in an order in which parents come first. Each adds an axis of rows on the *left* of the batch, so
that broadcasting combines them: with rows S_1 .. S_n a cost is ``[S_n, ..., S_1, *batch]``, an axis that it does
not depend on having size 1. Two nodes never share an axis, independent ones neither.

The fold then takes the nodes deepest first. At each, what enters the estimator's correction has the *value* of
the cost terms that the node can influence (Rao-Blackwellization by graph structure) and the *gradient* of the
whole fold so far; then the node's axis is averaged away with its weights. Nested, not a flat sum of
corrections: an estimator whose correction differentiates the cost must see the corrections of deeper nodes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.automatic import choose, fitting, log_choice
from vaekit.estimators.base import Draw, Estimator, describe
from vaekit.estimators.baselines import LeaveOneOut
from vaekit.estimators.enumerate import Enumerate
from vaekit.estimators.score_function import ScoreFunction
from vaekit.exceptions import EstimatorError
from vaekit.gradient_path import has_gradient_path
from vaekit.signatures import Named, Node, assign, parse

__all__ = ["Draw", "Named", "Result", "evaluate", "expectation"]


class Result(NamedTuple):
    """What :func:`evaluate` returns.

    Attributes
    ----------
    total
        ``[*batch]``, the expectation; carries the gradient estimate.
    terms
        The mean of each cost term, ``[*batch]``, without a gradient.
    draws
        What was drawn at each node.
    """

    total: Tensor
    terms: dict[str, Tensor]
    draws: dict[str, Draw]


class _SilentNodeError(Exception):
    """A node relies on a gradient path that the cost does not have."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


def expectation(
    cost: Callable[..., Tensor] | Named | Mapping[str, Callable[..., Tensor] | Named],
    q: Distribution | Mapping[str, Distribution | Callable[..., Distribution] | Named],
    estimator: Estimator | str | Mapping[str, Estimator | str] = "auto",
    *,
    num_samples: int | None = None,
    context: Tensor | None = None,
) -> Tensor:
    r"""Return E_q[cost]: a tensor with its Monte Carlo (or exact) value and an estimate of its gradient.

    .. math:: \nabla_\theta E_{z \sim q_\theta}[f_\theta(z)]

    is what ``backward`` gives, each random node by its own estimator.

    Parameters
    ----------
    cost
        Function of the nodes that its parameters name, returning ``[*rows, *batch]`` (axes of rows lead; sum
        over event dimensions). A dictionary of such functions is their sum, each term credited only to the
        nodes that it names and their ancestors. It may return a NumPy array where no node relies on a path.
    q
        A distribution with batch shape ``[*batch]``; or a dictionary of them, in which a function stands for a
        conditional distribution, the nodes that its parameters name being its parents.
    estimator
        An estimator, ``"auto"``, or a dictionary of them by node. ``"auto"`` sums exactly over small supports,
        else goes pathwise where the distribution and the cost allow it, else takes the score function with
        leave-one-out; it logs its choice.
    num_samples
        None: each node has its own axis of ``estimator.num_samples`` rows. K: K joint trajectories on one axis,
        a single draw a node, so that a chain of nodes costs K evaluations.
    context
        ``[*batch, features]``, what learned baselines see.

    Returns
    -------
    Tensor
        ``[*batch]``.

    Raises
    ------
    EstimatorError
        If an estimator does not fit its node, a cost has a wrong shape, or no gradient path to a node that
        relies on one.

    Notes
    -----
    Schulman, Heess, Weber and Abbeel (2015), Gradient Estimation Using Stochastic Computation Graphs.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> theta = torch.tensor(0.0, requires_grad=True)
    >>> loss = vaekit.expectation(lambda b: (b - 0.45) ** 2, Bernoulli(logits=theta), vaekit.estimators.Enumerate())
    >>> loss.backward()
    >>> round(theta.grad.item(), 6)  # p (1 - p) ((1 - 0.45)^2 - 0.45^2)
    0.025
    """
    return evaluate(cost, q, estimator, num_samples=num_samples, context=context).total


def evaluate(
    cost: Callable[..., Tensor] | Named | Mapping[str, Callable[..., Tensor] | Named],
    q: Distribution | Mapping[str, Distribution | Callable[..., Distribution] | Named],
    estimator: Estimator | str | Mapping[str, Estimator | str] = "auto",
    *,
    num_samples: int | None = None,
    context: Tensor | None = None,
    check_paths: bool = True,
) -> Result:
    """Return the expectation with the mean of each cost term and the draws; arguments as in :func:`expectation`.

    ``check_paths`` may be False where the same cost and estimators were checked before: it walks the graph.
    """
    nodes, terms = parse(cost, q)
    names = [node.name for node in nodes]
    chosen = assign(estimator, names)
    if num_samples is not None and num_samples < 1:
        raise EstimatorError(f"num_samples is {num_samples}, it must be at least 1 (or None)")
    undifferentiable: set[str] = set()
    while True:
        resolved: dict[str, Any] = dict(chosen)
        draws, batch = _draw(nodes, resolved, num_samples, context, undifferentiable)
        values = _evaluate(terms, draws, batch)
        try:
            if check_paths and torch.is_grad_enabled() and not torch.compiler.is_compiling():
                _check_paths(nodes, terms, resolved, draws, values)
            for node in nodes:
                if chosen[node.name] == "auto":
                    log_choice(node.name, describe(draws[node.name].q), type(resolved[node.name]).__name__)
            return _fold(nodes, terms, resolved, draws, values, batch, joint=num_samples is not None)
        except _SilentNodeError as silent:
            if chosen[silent.node] != "auto":
                raise EstimatorError(str(silent)) from None
            undifferentiable.add(silent.node)  # `auto` had tried the pathwise estimator: take another


def _draw(
    nodes: list[Node],
    estimators: dict[str, Any],
    num_samples: int | None,
    context: Tensor | None,
    undifferentiable: set[str],
) -> tuple[dict[str, Draw], torch.Size]:
    """Draw all nodes; fill in the estimators that ``auto`` chooses. Returns the draws and the batch shape."""
    draws: dict[str, Draw] = {}
    batch: torch.Size | None = None
    rows = 1
    for depth, node in enumerate(nodes):
        if isinstance(node.q, Distribution):
            q = node.q
        else:
            q = node.q.function(**{parent: draws[parent].value for parent in node.parents})
            if not isinstance(q, Distribution):
                raise EstimatorError(f"q[{node.name!r}] returned a {type(q).__name__}, not a distribution")
        own = q.batch_shape
        if batch is None:
            batch = own
        axes = 1 if num_samples is not None else depth
        if len(own) > len(batch) + axes or len(own) < len(batch) or (not node.parents and len(own) != len(batch)):
            raise EstimatorError(
                f"node {node.name!r} ({describe(q)}) has batch shape {list(own)}, but the batch shape of the graph is "
                f"{list(batch)}: all nodes share one number of batch dimensions (after the axes of rows)"
            )
        batch = torch.broadcast_shapes(batch, own[len(own) - len(batch) :])
        later = [estimators[n.name] for n in nodes[depth + 1 :]]
        budgeted = rows * math.prod([e.num_samples for e in later if isinstance(e, Estimator)])
        estimator = _resolve(node, q, estimators, undifferentiable, budgeted, num_samples)
        if num_samples is None:
            rows *= estimator.rows(q)
            if depth:
                q = q.expand(torch.Size([1] * (len(batch) + depth - len(own))) + own)
            draw = estimator.draw(q)
        else:
            draw = estimator.draw(q.expand(torch.Size([num_samples]) + own[len(own) - len(batch) :]), torch.Size())
        draws[node.name] = draw if context is None else draw._replace(context=context)
    for name, estimator in estimators.items():
        if isinstance(estimator, Enumerate):
            estimator.check_budget(rows, f"the graph (all nodes together, {name!r} among them)")
    assert batch is not None  # there is at least one node
    return draws, batch


def _resolve(
    node: Node,
    q: Distribution,
    estimators: dict[str, Any],
    undifferentiable: set[str],
    rows: int,
    num_samples: int | None,
) -> Estimator:
    """Return the node's estimator, chosen by rule for ``auto``; refuse one that does not fit."""
    estimator = estimators[node.name]
    joint = num_samples is not None
    if estimator == "auto":
        estimator = choose(q, node.name not in undifferentiable, rows)
        if joint and not estimator.relies_on_path:
            estimator = ScoreFunction(baseline=LeaveOneOut() if num_samples != 1 else None)
        estimators[node.name] = estimator
    if not estimator.fits(q):
        raise EstimatorError(f"node {node.name!r}: {type(estimator).__name__} does not fit {describe(q)}; {fitting(q)}")
    if joint and not estimator.joint:
        raise EstimatorError(
            f"node {node.name!r}: {type(estimator).__name__} cannot draw joint trajectories; leave num_samples of "
            "expectation at None, or use ScoreFunction(baseline=LeaveOneOut())"
        )
    return estimator


def _evaluate(terms: dict[str, Named], draws: dict[str, Draw], batch: torch.Size) -> dict[str, Tensor]:
    """Evaluate the cost terms, each brought to ``[S_n, ..., S_1, *batch]`` with size 1 where an axis is absent."""
    some = next(iter(draws.values())).weight
    rank = max(draw.weight.dim() for draw in draws.values())
    full = torch.broadcast_shapes(*(draw.weight.shape for draw in draws.values()), batch)
    values = {}
    for name, term in terms.items():
        value = term.function(**{node: draws[node].value for node in term.names})
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value, dtype=some.dtype, device=some.device)
        if not value.is_floating_point():
            value = value.to(some.dtype)
        padded = [1] * (rank - value.dim()) + list(value.shape)
        fits = len(batch) <= value.dim() <= rank and all(s in (1, f) for s, f in zip(padded, full, strict=True))
        if not fits:
            label = "the cost" if name == "cost" else f"cost term {name!r}"
            raise EstimatorError(
                f"{label} has shape {list(value.shape)}, expected {list(full)} (axes of rows, 1 if unused, "
                f"then the batch {list(batch)}): sum over event dimensions, keep the batch"
            )
        values[name] = value.reshape(padded)
    return values


def _fold(
    nodes: list[Node],
    terms: dict[str, Named],
    estimators: dict[str, Estimator],
    draws: dict[str, Draw],
    values: dict[str, Tensor],
    batch: torch.Size,
    joint: bool,
) -> Result:
    """Take the nodes deepest first: correct, then average the node's axis away (see the module's docstring)."""
    ancestors = {node.name: node.ancestors for node in nodes}
    influenced = {t: frozenset().union(*(ancestors[n] for n in term.names)) for t, term in terms.items()}
    total = functools.reduce(torch.add, values.values())
    mean = {name: value.detach() for name, value in values.items()}
    weights = _row_weights(nodes, draws, joint)
    learning = []
    for node in reversed(nodes):
        draw, estimator = draws[node.name], estimators[node.name]
        credited = [name for name in terms if node.name in influenced[name]]
        if credited:
            credit = sum((mean[name] for name in credited), start=total - total.detach())
            weight = weights[node.name]
            credit = credit.expand(torch.broadcast_shapes(credit.shape, weight.shape))
            credit = torch.where((weight != 0) | credit.isfinite(), credit, 0)
            total = total + estimator.correction(draw, credit)
            if estimator.keeps_state:
                learning.append((estimator, credit.detach(), weight))
        if not joint:
            total = _average(draw.weight, total)
            mean = {name: _average(draw.weight.detach(), value) for name, value in mean.items()}
    if joint:  # all nodes share the axis of trajectories, whose weights are equal
        total, mean = total.mean(0), {name: value.mean(0) for name, value in mean.items()}
    for estimator, cost, weight in learning:  # now: an estimator may serve several nodes
        estimator.update(cost, weight)
    return Result(total.expand(batch), {name: value.expand(batch) for name, value in mean.items()}, draws)


def _row_weights(nodes: list[Node], draws: dict[str, Draw], joint: bool) -> dict[str, Tensor]:
    """Return at each node the weight of a row: the product over it and the nodes before it."""
    product: Tensor | None = None
    weights = {}
    for node in nodes:
        own = draws[node.name].weight.detach()
        product = own if product is None or joint else own * product
        weights[node.name] = product
    return weights


def _average(weight: Tensor, value: Tensor) -> Tensor:
    """Return the weighted sum over rows; a row of weight 0 may hold an infinity or a NaN."""
    if weight.shape[0] == 1 and not weight.requires_grad:
        return value.squeeze(0)
    value = torch.where((weight != 0) | value.isfinite(), value, 0)
    return (weight * value).sum(0)


def _check_paths(
    nodes: list[Node],
    terms: dict[str, Named],
    estimators: dict[str, Estimator],
    draws: dict[str, Draw],
    values: dict[str, Tensor],
) -> None:
    """Raise if a node relies on a gradient path that is not there: silence would be a wrong gradient.

    Each cost term that names the node must have one; where none does, some child must.
    """
    for node in nodes:
        name, draw, estimator = node.name, draws[node.name], estimators[node.name]
        if not (estimator.relies_on_path and draw.value.requires_grad):
            continue
        direct = [values[term] for term in terms if name in terms[term].names]
        children = [draws[child.name] for child in nodes if name in child.parents]
        inherited = [t for child in children for t in (child.value, child.log_prob, child.weight) if t is not None]
        if direct:
            connected = all(has_gradient_path(value, draw.value) for value in direct)
        else:  # a node that nothing depends on has no gradient, rightly
            connected = not inherited or any(has_gradient_path(value, draw.value) for value in inherited)
        if not connected:
            raise _SilentNodeError(
                name,
                f"node {name!r}: {type(estimator).__name__} differentiates the cost through the node's value, but the "
                "cost has no gradient path to it (or only an identically zero one, such as sign, floor or argmax); "
                + fitting(draw.q, without_path=True),
            )
        rows = draw.weight.shape[0]
        if any(value.shape[value.dim() - draw.weight.dim()] == 1 < rows for value in direct):
            raise EstimatorError(
                f"node {name!r} has {rows} draws, but a cost that depends on it has one value for all: keep the "
                "axes of rows, they are averaged here"
            )
