"""Fold the cost of a drawn graph into one differentiable expectation.

The nodes are taken deepest first. At each, what enters the estimator's correction has the *value* of the cost that
the node is credited with (see ``credit``) and the *gradient* of the whole fold so far; then the node's axis is averaged
away with its weights. Nested, not a flat sum of corrections: an estimator whose correction differentiates the cost must
see the corrections of deeper nodes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.estimators.automatic import describe_supported
from vaekit.estimators.critic import Critic
from vaekit.estimators.derivatives import FirstOrder, learning_term
from vaekit.estimators.discrete_support import unwrap_independent
from vaekit.estimators.estimator import Estimator, NodeSample
from vaekit.estimators.func_transforms import without_vmap
from vaekit.estimators.score_function import ScoreFunction
from vaekit.exceptions import EstimatorError
from vaekit.graph.credit import CreditAssignment, mask_zero_weight, weighted_sum
from vaekit.graph.gradient_path import has_gradient_path
from vaekit.graph.sampling import GraphSample


class CostTerm(NamedTuple):
    """A term of the cost, worked out.

    Attributes
    ----------
    value
        ``[*rows, *batch]``; an axis of rows that it does not depend on has size 1 or, on the left, is absent.
    names
        Nodes that it depends on directly.
    optional
        Those of them that it may as well not depend on.
    """

    value: Tensor
    names: tuple[str, ...]
    optional: tuple[str, ...] = ()


class Estimate(NamedTuple):
    """What :func:`fold` returns.

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
    samples: dict[str, NodeSample]


class MissingGradientPathError(EstimatorError):
    """A node relies on a gradient path that the cost does not have."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


def fold(sample: GraphSample, terms: Mapping[str, CostTerm], *, check_paths: bool = True) -> Estimate:
    """Correct and average, deepest node first (see the module's docstring).

    Parameters
    ----------
    sample
        The drawn graph.
    terms
        The cost, in terms that are summed.
    check_paths
        Whether to look for the gradient paths that estimators rely on; it walks autograd's graph, so that a
        training loop need not do it more than once.

    Raises
    ------
    EstimatorError
        If a term has a wrong shape, or no gradient path to a node that relies on one.
    """
    terms = align(sample, terms)
    if check_paths:
        check_gradient_paths(sample, terms)
    total = functools.reduce(torch.add, (term.value for term in terms.values()))
    credit = CreditAssignment(
        sample.nodes, {t: term.value for t, term in terms.items()}, {t: x.names for t, x in terms.items()}
    )
    learning: list[tuple[Estimator | Critic, Tensor, Tensor]] = []
    marks = FirstOrder()
    all_equal = all(draw.equal_weights for draw in sample.samples.values())
    for node in reversed(sample.nodes):
        draw, estimator = sample.samples[node.name], sample.estimators[node.name]
        if credit.terms[node.name] and (estimator.has_correction or estimator.is_stateful):
            weight = sample.row_weight(node.name)
            fit = _broadcast if all_equal else mask_zero_weight
            cost = credit.cost_to_go(node.name)
            if isinstance(estimator, ScoreFunction) and estimator.critic is not None:
                critic, cost = estimator.critic, fit(weight, cost)
                prediction = critic(sample.critic_input(node.name))
                if critic.training:
                    total = total + learning_term(critic.loss(cost, prediction), estimator.follows_scale)
                    learning.append((critic, cost, weight))
                cost = credit.lambda_return(node.name) - prediction.detach()
                credit.add_critic_return(node.name, prediction, estimator.lam)
            cost = cost + (total - total.detach())
            every = sample.row_weight(node.name, True)
            if draw.completed is None:
                cost = fit(every if estimator.uses_auxiliary_samples else weight, cost)
                correction = estimator.correction(draw, cost)
            else:
                rows, whole = len(draw.completed.sample.weight), mask_zero_weight(every, cost)
                weight, every = weight[:rows], every[:rows]
                cost = mask_zero_weight(every if estimator.uses_auxiliary_samples else weight, whole[:rows])
                correction = draw.completed.correction(estimator, whole, cost)
            if not estimator.higher_order or draw.completed is not None:
                message = _second_order(node.name, estimator)
                total = marks.mark(total, message, correction)
                correction = marks.mark(correction, message, correction, cost)
            total = total + correction
            if estimator.is_stateful:
                learning.append((estimator, cost.detach(), weight))
        elif not estimator.higher_order:
            total = marks.mark(total, _second_order(node.name, estimator), draw.value)
        if not sample.joint:
            total = weighted_sum(draw, draw.weight, total)
            credit.average(draw)
    mean = credit.mean
    if sample.joint:  # all nodes share the axis of trajectories, whose weights are equal
        total, mean = total.mean(0), {name: value.mean(0) for name, value in mean.items()}
    marks.close()
    if torch.is_grad_enabled():  # without gradients this is an evaluation, which must change nothing
        for learner, cost, weight in learning:  # now: an estimator may serve several nodes
            learner.update(cost, weight)
    means = {name: value.expand(sample.batch) for name, value in mean.items()}
    return Estimate(total.expand(sample.batch), means, sample.samples)


def _second_order(node: str, estimator: Estimator) -> str:
    """Return what to say of a second derivative that an estimator does not have."""
    return (
        f"node {node!r}: {type(estimator).__name__} estimates first derivatives only, and a second derivative was "
        "taken through the expectation. Use Enumerate(), ScoreFunction() or, for a smooth cost of continuous values, "
        "Pathwise()."
    )


def align(sample: GraphSample, terms: Mapping[str, CostTerm]) -> dict[str, CostTerm]:
    """Bring each term to ``[S_n, ..., S_1, *batch]``, with size 1 where an axis is absent; refuse other shapes.

    On an axis of the batch a term may have size 1 only if all nodes that it names have: the whole batch
    shares their samples. Otherwise it is a sum over the batch, and repeating it would multiply the cost.
    """
    shapes = [draw.weight.shape for draw in sample.samples.values()]
    rank, batch = max(map(len, shapes)), sample.batch
    padded_shapes = [[1] * (rank - len(shape)) + list(shape) for shape in (*shapes, batch)]
    full = [next((size for size in axis if size != 1), 1) for axis in zip(*padded_shapes, strict=True)]
    aligned = {}
    for name, term in terms.items():
        label = describe_cost(name)
        own = list(term.value.shape)
        padded = [1] * (rank - len(own)) + own
        if not (len(batch) <= len(own) <= rank and all(s in (1, f) for s, f in zip(padded, full, strict=True))):
            raise EstimatorError(
                f"{label} has shape {own}, expected {list(full)} (axes of rows, 1 if unused, "
                f"then the batch {list(batch)}): sum over event dimensions, keep the batch"
            )
        summed = [axis - rank for axis in range(rank - len(batch), rank) if padded[axis] == 1 < full[axis]]
        sizes = [sample.samples[node].q.batch_shape[axis] for axis in summed for node in term.names]
        if summed and (not sizes or max(sizes) > 1):
            raise EstimatorError(
                f"{label} has shape {own}, one value for all entries of the batch {list(batch)}: it seems to be summed "
                "or averaged over the batch. Return one value per entry; for a term of shared nodes or of none, name "
                "only those among its parameters, or return a Python number."
            )
        aligned[name] = term._replace(value=term.value.reshape(padded))
        for node in term.names:
            weight = sample.samples[node].weight
            averaged = aligned[name].value.shape[rank - weight.dim()] == 1 < len(weight)
            if averaged and node not in term.optional:
                raise EstimatorError(
                    f"node {node!r} has {len(weight)} draws, but {label} that depends on it has one value for all: "
                    "keep the axes of rows, they are averaged here (or drop the parameter, if it is not used)"
                )
    return aligned


def describe_cost(name: str) -> str:
    """Name a cost term for an error message."""
    return "the cost" if name == "cost" else f"cost term {name!r}"


def _carriers(draw: NodeSample) -> list[Tensor]:
    """Return the tensors of a node by which a gradient flows to its parents: of its draw, and of its distribution.

    An estimator may differentiate the log-density in its correction alone.
    """
    if draw.log_prob is not None:
        return [draw.value, draw.log_prob, draw.weight]
    base = unwrap_independent(draw.q)[0]
    own = (getattr(base, name, None) for name in base.arg_constraints)
    return [draw.value, draw.weight, *(tensor for tensor in own if isinstance(tensor, Tensor))]


def _broadcast(weight: Tensor, value: Tensor) -> Tensor:
    """Return ``value`` in the shape of both."""
    return torch.broadcast_tensors(value, weight)[0]


def check_gradient_paths(sample: GraphSample, terms: Mapping[str, CostTerm], remedy: str | None = None) -> None:
    """Raise if a node relies on a gradient path that is not there: silence would be a wrong gradient.

    Each cost term that names the node must have one, save those that may as well not depend on it; and some term, or
    some child, must. Without gradients nothing is looked for; while torch compiles, the graph is given the check.

    Parameters
    ----------
    sample
        The drawn graph.
    terms
        The cost, in terms that are summed.
    remedy
        What would work, for the message; None: the estimators that fit the node.

    Raises
    ------
    MissingGradientPathError
        It names the node.
    """
    if not torch.is_grad_enabled():
        return
    compiling, draws = torch.compiler.is_compiling(), sample.samples
    for node in sample.nodes:
        name, draw, estimator = node.name, draws[node.name], sample.estimators[node.name]
        if not (estimator.requires_differentiable_cost and without_vmap(draw.value).requires_grad):
            continue
        direct = [term for term in terms.values() if name in term.names]
        children = [draws[child.name] for child in sample.nodes if name in child.parents]
        inherited = [t for child in children for t in _carriers(child)]
        required = [term.value for term in direct if name not in term.optional]
        outputs = required or [term.value for term in direct] + inherited
        if not outputs:  # a node that nothing depends on has no gradient, rightly
            continue
        message = (
            f"node {name!r}: {type(estimator).__name__} differentiates the cost through the node's value, but the "
            "cost has no gradient path to it (or only an identically zero one, such as sign, floor or argmax); "
        )
        if compiling:
            from vaekit.graph.compilation import check_path  # which takes seconds to import

            check_path(message + (remedy or "ScoreFunction() works without one"), bool(required), draw.value, *outputs)
            continue
        found = (has_gradient_path(value, draw.value) for value in outputs)
        if not (all(found) if required else any(found)):
            raise MissingGradientPathError(name, message + (remedy or describe_supported(draw.q, without_path=True)))
