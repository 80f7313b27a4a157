"""Sampling of the nodes of a stochastic graph, parents first, each with its estimator.

Each node adds a sample dimension on the *left* of the batch, so that broadcasting combines the samples: with S_1 .. S_n
samples a cost has shape ``[S_n, ..., S_1, *batch]``, with size 1 in dimensions that it does not depend on. Two nodes
never share a sample dimension, even if they are independent. Joint samples are the exception: all nodes share one
dimension of size K.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.distributions.precise import precise
from vaekit.estimators.automatic import choose_estimator, describe_supported
from vaekit.estimators.estimator import Estimator, describe_distribution
from vaekit.estimators.func_transforms import in_transform, rejects_randomness
from vaekit.estimators.node_sample import NodeSample
from vaekit.estimators.score_function import ScoreFunction
from vaekit.estimators.zero_probabilities import complete
from vaekit.exceptions import EstimatorError
from vaekit.graph.dependencies import Node


class GraphSample(NamedTuple):
    """Samples of all nodes of a graph."""

    nodes: list[Node]  # parents first
    estimators: dict[str, Estimator]
    samples: dict[str, NodeSample]
    batch: torch.Size  # batch shape that all nodes share
    joint: bool  # whether all nodes share one dimension of joint samples

    @property
    def values(self) -> dict[str, Tensor]:
        """Values of each node, ``[*sample, *batch, *event]``."""
        return {name: sample.value for name, sample in self.samples.items()}

    def cumulative_weight(self, name: str, own: bool = True) -> Tensor:
        """Return the product of the weights of a node and of the nodes before it, without a gradient.

        ``own=False`` replaces the weights of the node itself by 1: only the samples that earlier nodes exclude are 0.
        """
        sample = self.samples[name]
        weight = sample.weight.detach() if own else torch.ones_like(sample.weight)
        return functools.reduce(torch.mul, sample.outer, weight)

    def ancestors(self, names: Collection[str]) -> frozenset[str]:
        """Return some nodes and all nodes that they depend on, directly or indirectly."""
        return frozenset[str]().union(*(node.ancestors for node in self.nodes if node.name in names))

    def joint_weight(self, names: Collection[str]) -> Tensor:
        """Return the weights of the mean over some nodes and their ancestors, without a gradient. They sum to 1."""
        weights = {name: sample.weight.detach() for name, sample in self.samples.items()}
        first = next(iter(weights.values()))
        if self.joint:
            return first
        ancestors = self.ancestors(names)
        return functools.reduce(torch.mul, (weights[name] for name in weights if name in ancestors), first.new_ones(()))

    def critic_input(self, name: str) -> Tensor:
        """Return the input of a node's critic: the context and the flattened values of the node's ancestors.

        The shape is ``[1, *sample, *batch, features]`` with the sample dimensions of earlier nodes, or
        ``[K, *batch, features]`` for joint samples. The input carries no gradient.
        """
        node_sample, rank = self.samples[name], self.samples[name].weight.dim()
        ancestors = next(node.ancestors for node in self.nodes if node.name == name) - {name}
        features = [] if node_sample.context is None else [node_sample.context.to(node_sample.weight.dtype)]
        for sample in (self.samples[node.name] for node in self.nodes if node.name in ancestors):
            value, event_dim = sample.value.detach(), len(sample.q.event_shape)
            features.append(value.flatten(-event_dim) if event_dim else value[..., None])
        if not features:
            return node_sample.weight.new_zeros((1,) * rank + (0,))
        features = [part.reshape((1,) * (rank + 1 - part.dim()) + part.shape) for part in features]
        leading = torch.broadcast_shapes(*(part.shape[:-1] for part in features))
        features = [part.expand(*leading, part.shape[-1]) for part in features]
        return torch.cat(features, -1).to(node_sample.weight.dtype)


def sample_graph(
    nodes: list[Node],
    estimators: Mapping[str, Estimator | None],
    *,
    num_samples: int | None = None,
    context: Tensor | None = None,
    undifferentiable: Collection[str] = (),
) -> GraphSample:
    """Sample all nodes.

    Parameters
    ----------
    nodes : list[Node]
        Nodes, parents first, as :func:`vaekit.graph.dependencies.parse_graph` returns them.
    estimators : Mapping[str, Estimator or None]
        Estimator of each node. None chooses one by rule.
    num_samples : int or None
        Number of joint samples. None gives each node its own sample dimension.
    context : Tensor or None, shape (*batch, features)
        Input of learned baselines and critics.
    undifferentiable : Collection[str]
        Nodes without a gradient path from the cost. The rule does not choose pathwise estimators for them.

    Raises
    ------
    EstimatorError
        If an estimator does not support its node, or batch shapes differ.
    """
    if num_samples is not None and num_samples < 1:
        raise EstimatorError(f"expectation: num_samples={num_samples} must be at least 1, or None.")
    resolved = {name: estimator for name, estimator in estimators.items() if estimator is not None}
    samples: dict[str, NodeSample] = {}
    batch: torch.Size | None = None
    outer: tuple[Tensor, ...] = ()
    num_evaluations = 1
    for depth, node in enumerate(nodes):
        q = precise(_distribution(node, samples))  # expand would hide whether probs or logits were passed
        batch, leading, inner = _split_shape(node, q, batch, samples, num_samples)
        if node.name not in resolved:
            later = math.prod(resolved[n.name].num_samples for n in nodes[depth + 1 :] if n.name in resolved)
            is_differentiable = node.name not in undifferentiable
            resolved[node.name] = _choose_estimator(q, is_differentiable, num_evaluations * later, num_samples)
        estimator = resolved[node.name]
        _check_estimator(node, q, estimator, num_samples)
        if num_samples is None:
            num_evaluations *= estimator.num_evaluations(q)
            for each in resolved.values():  # before the samples take memory
                each.check_budget(num_evaluations, f"the graph (all nodes up to {node.name!r} together)")
            if depth:
                q = q.expand(torch.Size([1] * (depth - len(leading))) + q.batch_shape)
            uses_common = [resolved[earlier.name].common_random_numbers for earlier in reversed(nodes[:depth])]
            common_noise_dims = tuple(dim for dim, is_common in enumerate(uses_common, start=1) if is_common)
            sample = estimator.sample(q, common_noise_dims=common_noise_dims)
        else:
            sample = estimator.sample(q.expand(torch.Size([num_samples]) + inner), torch.Size())
        sample = complete(estimator, sample, node.name, num_samples is not None)
        samples[node.name] = _set_fields(sample, context=context, outer=outer)
        if num_samples is None:
            outer = (sample.weight.detach(), *outer)
    assert batch is not None  # a graph has at least one node
    return GraphSample(nodes, resolved, samples, batch, joint=num_samples is not None)


def _distribution(node: Node, samples: Mapping[str, NodeSample]) -> Distribution:
    """Return the distribution of a node for the values of its parents."""
    if isinstance(node.q, Distribution):
        return node.q
    q = node.q.function(**{parent: samples[parent].value for parent in node.parents})
    if not isinstance(q, Distribution):
        raise EstimatorError(f"q[{node.name!r}] returned a {type(q).__name__}. Return a distribution.")
    return q


def _set_fields(sample: NodeSample, **fields: Any) -> NodeSample:
    """Return the sample with some fields replaced, also in the sample without its auxiliary samples."""
    if sample.completed is not None:
        original = sample.completed.sample._replace(**fields)
        sample = sample._replace(completed=sample.completed._replace(sample=original))
    return sample._replace(**fields)


def _split_shape(
    node: Node,
    q: Distribution,
    batch: torch.Size | None,
    samples: dict[str, NodeSample],
    num_samples: int | None,
) -> tuple[torch.Size, torch.Size, torch.Size]:
    """Return the batch shape of the graph, and the leading (sample) and inner (batch) part of the node's batch shape.

    The leading part must match the sample dimensions of the nodes before it, and the inner part the batch.
    """
    shape = q.batch_shape
    batch = shape if batch is None else batch
    max_leading = len(samples) if num_samples is None else 1
    num_leading = len(shape) - len(batch)
    label = f"node {node.name!r} ({describe_distribution(q)}) has batch shape {list(shape)}, but "
    if not 0 <= num_leading <= max_leading or (num_leading and not node.parents):
        raise EstimatorError(
            f"{label}the batch shape of the graph is {list(batch)}. All nodes need the same number of batch dimensions "
            "(after the sample dimensions)."
        )
    leading, inner = shape[:num_leading], shape[num_leading:]
    outer = [len(samples[name].weight) for name in reversed(samples)] if num_samples is None else [num_samples]
    sizes = outer[len(outer) - num_leading :]
    if any(size not in (1, count) for size, count in zip(leading, sizes, strict=True)):
        raise EstimatorError(
            f"{label}the nodes before it have {len(batch)} batch dimensions and {sizes} samples in the leading "
            "dimensions. A node that a batch shares has batch size 1, such as logits[None] for logits without a batch."
        )
    return (batch if inner == batch else torch.broadcast_shapes(batch, inner)), leading, inner


def _choose_estimator(
    q: Distribution, is_differentiable: bool, num_evaluations: int, num_samples: int | None
) -> Estimator:
    estimator = choose_estimator(q, is_differentiable, num_evaluations, num_samples is not None)
    needs_other_samples = num_samples == 1 and not estimator.requires_differentiable_cost
    return ScoreFunction() if needs_other_samples else estimator


def _check_estimator(node: Node, q: Distribution, estimator: Estimator, num_samples: int | None) -> None:
    if not estimator.supports(q):
        raise EstimatorError(f"node {node.name!r}: {estimator.explain_unsupported(q)} {describe_supported(q)}")
    if num_samples is not None:
        check_joint(node.name, estimator, num_samples)
    if in_transform():
        check_transform(node.name, estimator)


def check_transform(name: str, estimator: Estimator) -> None:
    """Raise an error if an estimator does not work inside a transform of ``torch.func``, or in forward mode."""
    label = f"node {name!r}: {type(estimator).__name__}"
    if estimator.differentiates_cost:
        raise EstimatorError(
            f"{label} differentiates the cost inside the step, which torch.func and forward mode do not allow. Use "
            "DisARM() or LocalExpectation(), or torch.autograd.grad instead of the transform."
        )
    if torch.is_grad_enabled() and estimator.learns_from_costs:
        raise EstimatorError(
            f"{label} learns from costs, which torch.func and forward mode do not allow. Call its eval(), use "
            "ScoreFunction(baseline=LeaveOneOut()), or torch.autograd.grad instead of the transform."
        )
    if rejects_randomness() and not estimator.is_deterministic:
        raise EstimatorError(
            f"{label} samples random numbers within a vmap that rejects them. Pass randomness='different' (or 'same') "
            "to torch.func.vmap or jacfwd. Replace hessian(f) with jacfwd(jacrev(f), randomness='same')."
        )


def check_joint(name: str, estimator: Estimator, num_samples: int) -> None:
    """Raise an error if an estimator, or its baseline, does not support ``num_samples`` joint samples."""
    label = f"node {name!r}: {estimator.description}"
    if not estimator.supports_joint_samples:
        raise EstimatorError(
            f"{label} does not support joint samples. Leave num_samples at None, or use "
            "ScoreFunction(baseline=LeaveOneOut())."
        )
    baseline = estimator.baseline
    if baseline is not None and num_samples < baseline.min_samples:
        raise EstimatorError(
            f"{label} compares joint samples: num_samples={num_samples} must be at least {baseline.min_samples}."
        )
