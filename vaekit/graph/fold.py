"""Fold: a nested reduction of the cost of a sampled graph to one differentiable expectation.

It evaluates the surrogate loss of Schulman, Heess, Weber and Abbeel (2015), Gradient Estimation Using Stochastic
Computation Graphs, for any estimator per node. The nodes are visited deepest first. At each, the estimator's correction
receives the *value* of the cost that the node is credited with (see ``credit``) and the *gradient* of the whole fold so
far; then the node's sample dimension is averaged with its weights. The fold is nested, not a flat sum of corrections:
an estimator that differentiates the cost must include the corrections of deeper nodes.
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
from vaekit.estimators.estimator import Estimator
from vaekit.estimators.func_transforms import without_vmap
from vaekit.estimators.node_sample import NodeSample
from vaekit.exceptions import EstimatorError
from vaekit.graph.cost_terms import CostTerm, align
from vaekit.graph.credit import CreditAssignment, mask_zero_weight, weighted_sum
from vaekit.graph.gradient_path import has_gradient_path
from vaekit.graph.sampling import GraphSample


class Estimate(NamedTuple):
    """The result of :func:`fold`.

    Attributes
    ----------
    total : Tensor, shape (*batch)
        The expectation, with the gradient estimate.
    terms : dict[str, Tensor], shape (*batch)
        Mean of each cost term, without a gradient.
    samples : dict[str, NodeSample]
        Sample of each node.
    """

    total: Tensor
    terms: dict[str, Tensor]
    samples: dict[str, NodeSample]


class MissingGradientPathError(EstimatorError):
    """The cost has no gradient path to a node whose estimator needs one."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


def fold(graph_sample: GraphSample, terms: Mapping[str, CostTerm], *, check_paths: bool = True) -> Estimate:
    """Correct and average the cost, deepest node first.

    Parameters
    ----------
    graph_sample : GraphSample
        Samples of all nodes.
    terms : Mapping[str, CostTerm]
        Summands of the cost.
    check_paths : bool
        Whether to check gradient paths. The check traverses autograd's graph, and a training loop needs it only once.

    Raises
    ------
    EstimatorError
        If a term has a wrong shape, or no gradient path to a node that needs one.
    """
    terms = align(graph_sample, terms)
    if check_paths:
        check_gradient_paths(graph_sample, terms)
    values = {name: term.value for name, term in terms.items()}
    credit = CreditAssignment(graph_sample.nodes, values, {name: term.names for name, term in terms.items()})
    total = functools.reduce(torch.add, values.values())
    learners: list[tuple[Estimator | Critic, Tensor, Tensor]] = []
    marks = FirstOrder()
    for node in reversed(graph_sample.nodes):
        sample, estimator = graph_sample.samples[node.name], graph_sample.estimators[node.name]
        message = (
            f"node {node.name!r}: {type(estimator).__name__} estimates first derivatives only, and a second derivative "
            "was taken through the expectation. Use Enumerate(), ScoreFunction() or, for a smooth cost of continuous "
            "values, Pathwise()."
        )
        if credit.terms[node.name] and (estimator.has_correction or estimator.is_stateful):
            total, cost = _credited_cost(graph_sample, node.name, credit, total, learners)
            correction, cost, weight = _correction(graph_sample, node.name, cost)
            if not estimator.higher_order or sample.completed is not None:
                total = marks.mark(total, message, correction)
                correction = marks.mark(correction, message, correction, cost)
            total = total + correction
            if estimator.is_stateful:
                learners.append((estimator, cost.detach(), weight))
        elif not estimator.higher_order:
            total = marks.mark(total, message, sample.value)
        if not graph_sample.joint:
            total = weighted_sum(sample, sample.weight, total)
            credit.average(sample)
    mean = credit.mean
    if graph_sample.joint:  # all nodes share the dimension of joint samples, which have equal weights
        total, mean = total.mean(0), {name: value.mean(0) for name, value in mean.items()}
    marks.close()
    if torch.is_grad_enabled():  # without gradients this is an evaluation, which must not change anything
        for learner, cost, weight in learners:  # after all corrections, because nodes may share an estimator
            learner.update(cost, weight)
    batch = graph_sample.batch
    return Estimate(total.expand(batch), {name: v.expand(batch) for name, v in mean.items()}, graph_sample.samples)


def _credited_cost(
    graph_sample: GraphSample,
    node: str,
    credit: CreditAssignment,
    total: Tensor,
    learners: list[tuple[Estimator | Critic, Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Return the total with the loss of the node's critic, and the node's cost with the gradient of the total."""
    estimator, cost = graph_sample.estimators[node], credit.cost_to_go(node)
    if (critic := estimator.critic) is not None:
        weight = graph_sample.cumulative_weight(node)
        cost = _broadcast(graph_sample, weight, cost)
        prediction = critic(graph_sample.critic_input(node))
        if critic.training:
            total = total + learning_term(critic.loss(cost, prediction), estimator.follows_scale)
            learners.append((critic, cost, weight))
        cost = credit.lambda_return(node) - prediction.detach()
        credit.add_critic_return(node, prediction, estimator.lam)
    return total, cost + (total - total.detach())


def _correction(graph_sample: GraphSample, node: str, cost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the correction of a node's estimator, the cost that it depends on, and the weight of each sample."""
    sample, estimator = graph_sample.samples[node], graph_sample.estimators[node]
    weight, outer_weight = graph_sample.cumulative_weight(node), graph_sample.cumulative_weight(node, own=False)
    mask = outer_weight if estimator.uses_auxiliary_samples else weight
    if sample.completed is None:
        cost = _broadcast(graph_sample, mask, cost)
        return estimator.correction(sample, cost), cost, weight
    count = len(sample.completed.sample.weight)
    completed_cost = mask_zero_weight(outer_weight, cost)
    cost = mask_zero_weight(mask[:count], completed_cost[:count])
    return sample.completed.correction(estimator, completed_cost, cost), cost, weight[:count]


def _broadcast(graph_sample: GraphSample, weight: Tensor, value: Tensor) -> Tensor:
    """Return ``value`` in the shape of both, masked where a sample may have weight 0."""
    if all(sample.equal_weights for sample in graph_sample.samples.values()):
        return torch.broadcast_tensors(value, weight)[0]
    return mask_zero_weight(weight, value)


def _gradient_carriers(sample: NodeSample) -> list[Tensor]:
    """Return the tensors of a node through which a gradient reaches its parents."""
    if sample.log_prob is not None:
        return [sample.value, sample.log_prob, sample.weight]
    base = unwrap_independent(sample.q)[0]  # an estimator may compute the log-density only in its correction
    parameters = (getattr(base, name, None) for name in base.arg_constraints)
    return [sample.value, sample.weight, *(tensor for tensor in parameters if isinstance(tensor, Tensor))]


def check_gradient_paths(graph_sample: GraphSample, terms: Mapping[str, CostTerm], remedy: str | None = None) -> None:
    """Raise an error if a node needs a gradient path that does not exist, which would be a silently wrong gradient.

    Each cost term that names the node must have a path, except for optional names. Without such a term, one of the
    other terms or children must have one. While torch compiles, the check becomes a part of the compiled graph.
    ``remedy`` is the last sentence of the message; None lists the estimators that support the node.
    """
    if not torch.is_grad_enabled():
        return
    for node in graph_sample.nodes:
        name, sample = node.name, graph_sample.samples[node.name]
        estimator = graph_sample.estimators[name]
        if not (estimator.requires_differentiable_cost and without_vmap(sample.value).requires_grad):
            continue
        direct = [term for term in terms.values() if name in term.names]
        required = [term.value for term in direct if name not in term.optional]
        children = [graph_sample.samples[child.name] for child in graph_sample.nodes if name in child.parents]
        inherited = [tensor for child in children for tensor in _gradient_carriers(child)]
        outputs = required or [term.value for term in direct] + inherited
        if not outputs:  # nothing depends on the node: its gradient is correctly zero
            continue
        message = (
            f"node {name!r}: {type(estimator).__name__} differentiates the cost with respect to the node's value, but "
            "the cost has no gradient path to it (or only an identically zero one, such as sign, floor or argmax). "
        )
        if torch.compiler.is_compiling():
            from vaekit.graph.compilation import check_path  # slow to import

            check_path(message + (remedy or "Use ScoreFunction()."), bool(required), sample.value, *outputs)
            continue
        has_path = (has_gradient_path(output, sample.value) for output in outputs)
        if not (all(has_path) if required else any(has_path)):
            raise MissingGradientPathError(name, message + (remedy or describe_supported(sample.q, without_path=True)))
