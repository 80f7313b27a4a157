"""Draw the nodes of a stochastic graph, parents first, each by its estimator.

Each node adds an axis of rows on the *left* of the batch, so that broadcasting combines them: with rows
S_1 .. S_n a cost is ``[S_n, ..., S_1, *batch]``, an axis that it does not depend on having size 1. Two nodes never
share an axis, independent ones neither. Joint trajectories are the exception: all nodes share one axis of K rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily

from vaekit.distributions.precise import precise
from vaekit.estimators.automatic import choose_estimator, describe_supported
from vaekit.estimators.discrete_support import unwrap_independent
from vaekit.estimators.enumerate import Enumerate
from vaekit.estimators.estimator import Estimator, NodeSample, describe_distribution
from vaekit.estimators.func_transforms import in_transform, refuses_randomness
from vaekit.estimators.moving_support import support_moves
from vaekit.estimators.score_function import ScoreFunction
from vaekit.estimators.zero_probabilities import complete
from vaekit.exceptions import EstimatorError
from vaekit.graph.dependencies import Node


class GraphSample(NamedTuple):
    """A graph whose nodes were drawn.

    Attributes
    ----------
    nodes
        Parents first.
    estimators
        The one that drew each node.
    samples
        What it drew.
    batch
        Batch shape that all nodes share.
    joint
        Whether all nodes share one axis of trajectories, rather than having one each.
    """

    nodes: list[Node]
    estimators: dict[str, Estimator]
    samples: dict[str, NodeSample]
    batch: torch.Size
    joint: bool

    @property
    def values(self) -> dict[str, Tensor]:
        """The value drawn at each node, ``[*rows, *batch, *event]``."""
        return {name: draw.value for name, draw in self.samples.items()}

    def row_weight(self, name: str, counterfactuals: bool = False) -> Tensor:
        """Return the weight of a row at a node: the product over it and the nodes before it, detached.

        With ``counterfactuals`` the node's own rows weigh 1 each: 0 are those alone that nodes before it rule out.
        """
        draw = self.samples[name]
        own = torch.ones_like(draw.weight) if counterfactuals else draw.weight.detach()
        return functools.reduce(torch.mul, draw.outer, own)

    def joint_weight(self, names: Collection[str]) -> Tensor:
        """Return the share of each row in a mean over some nodes, which depend on others: it sums to 1; detached."""
        weights = [draw.weight.detach() for draw in self.samples.values()]
        if self.joint:
            return weights[0]
        needed = frozenset[str]().union(*(node.ancestors for node in self.nodes if node.name in names))
        among = [weight for name, weight in zip(self.samples, weights, strict=True) if name in needed]
        return functools.reduce(torch.mul, among, weights[0].new_ones(()))

    def critic_input(self, name: str) -> Tensor:
        """Return what a critic of a node sees: the context, and the values of the node's ancestors, flattened.

        ``[1, *rows of nodes before it, *batch, features]``, without a gradient; ``[K, *batch, features]`` of joint
        trajectories.
        """
        own, rank = self.samples[name], self.samples[name].weight.dim()
        ancestors = next(node.ancestors for node in self.nodes if node.name == name) - {name}
        parts = [] if own.context is None else [own.context.to(own.weight.dtype)]
        for draw in (self.samples[node.name] for node in self.nodes if node.name in ancestors):
            value, event = draw.value.detach(), len(draw.q.event_shape)
            parts.append(value.flatten(-event) if event else value[..., None])
        if not parts:
            return own.weight.new_zeros((1,) * rank + (0,))
        parts = [part.reshape((1,) * (rank + 1 - part.dim()) + part.shape) for part in parts]
        leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*leading, part.shape[-1]) for part in parts], -1).to(own.weight.dtype)


def sample_graph(
    nodes: list[Node],
    estimators: Mapping[str, Estimator | str],
    *,
    num_samples: int | None = None,
    context: Tensor | None = None,
    undifferentiable: Collection[str] = (),
) -> GraphSample:
    """Draw all nodes.

    Parameters
    ----------
    nodes
        Parents first, as :func:`vaekit.graph.dependencies.parse_graph` returns them.
    estimators
        An estimator for each node, or ``"auto"``.
    num_samples
        None, or the number of joint trajectories.
    context
        What learned baselines and critics see.
    undifferentiable
        Nodes to which the cost is known to have no gradient path: ``"auto"`` avoids pathwise estimators there.

    Raises
    ------
    EstimatorError
        If an estimator does not fit its node, or batch shapes disagree.
    """
    if num_samples is not None and num_samples < 1:
        raise EstimatorError(f"num_samples is {num_samples}, it must be at least 1 (or None)")
    resolved: dict[str, Any] = dict(estimators)
    samples: dict[str, NodeSample] = {}
    batch: torch.Size | None = None
    outer: tuple[Tensor, ...] = ()
    rows = 1
    for depth, node in enumerate(nodes):
        q = precise(_distribution(node, samples))  # before it is expanded: torch's expand loses which were given
        own = q.batch_shape
        if batch is None:
            batch = own
        axes = 1 if num_samples is not None else depth
        if len(own) > len(batch) + axes or len(own) < len(batch) or (not node.parents and len(own) != len(batch)):
            raise EstimatorError(
                f"node {node.name!r} ({describe_distribution(q)}) has batch shape {list(own)}, but the batch shape of "
                f"the graph is {list(batch)}: all nodes share one number of batch dimensions (after the axes of rows)"
            )
        inner = own[len(own) - len(batch) :]
        _check_rows(node, q, own[: len(own) - len(batch)], samples, num_samples)
        batch = batch if inner == batch else torch.broadcast_shapes(batch, inner)
        later = [resolved[n.name] for n in nodes[depth + 1 :]]
        budgeted = rows * math.prod([e.num_samples for e in later if isinstance(e, Estimator)])
        estimator = _resolve(node, q, resolved[node.name], node.name in undifferentiable, budgeted, num_samples)
        resolved[node.name] = estimator
        if num_samples is None:
            rows *= estimator.num_evaluations(q)
            for found in resolved.values():  # before anything is built
                if isinstance(found, Enumerate):
                    found.check_budget(rows, f"the graph (all nodes up to {node.name!r} together)")
            if depth:
                q = q.expand(torch.Size([1] * (len(batch) + depth - len(own))) + own)
            compared = [resolved[before.name].common_random_numbers for before in reversed(nodes[:depth])]
            shared = tuple(axis for axis, compares in enumerate(compared, start=1) if compares)
            draw = estimator.sample(q, common_noise_dims=shared)
        else:
            draw = estimator.sample(q.expand(torch.Size([num_samples]) + inner), torch.Size())
        draw = complete(estimator, draw, node.name, num_samples is not None)
        if draw.completed is not None:
            inner_draw = draw.completed.sample._replace(context=context, outer=outer)
            draw = draw._replace(completed=draw.completed._replace(sample=inner_draw))
        samples[node.name] = draw._replace(context=context, outer=outer)
        if num_samples is None:
            outer = (draw.weight.detach(), *outer)
    assert batch is not None  # there is at least one node
    return GraphSample(nodes, resolved, samples, batch, joint=num_samples is not None)


def _distribution(node: Node, samples: Mapping[str, NodeSample]) -> Distribution:
    """Return the distribution of a node, given the values of its parents."""
    if isinstance(node.q, Distribution):
        return node.q
    q = node.q.function(**{parent: samples[parent].value for parent in node.parents})
    if not isinstance(q, Distribution):
        raise EstimatorError(f"q[{node.name!r}] returned a {type(q).__name__}, not a distribution")
    return q


def _check_rows(
    node: Node, q: Distribution, leading: torch.Size, samples: Mapping[str, NodeSample], joint: int | None
) -> None:
    """Raise an error if the axes in front of a node's batch are not those of the rows of the nodes before it."""
    rows = [joint] if joint is not None else [len(draw.weight) for draw in reversed(list(samples.values()))]
    rows = rows[len(rows) - len(leading) :]
    if any(size not in (1, count) for size, count in zip(leading, rows, strict=True)):
        rank = len(q.batch_shape) - len(leading)
        raise EstimatorError(
            f"node {node.name!r} ({describe_distribution(q)}) has batch shape {list(q.batch_shape)}, but the nodes "
            f"before it have {rank} batch dimensions and {rows} rows on the axes in front: where nodes share their "
            "samples over a batch, their own batch has size 1 there, such as logits[None] for logits without a batch"
        )


def _resolve(
    node: Node, q: Distribution, estimator: Estimator | str, undifferentiable: bool, rows: int, num_samples: int | None
) -> Estimator:
    """Return the node's estimator, chosen by rule for ``auto``; refuse one that does not fit."""
    if not isinstance(estimator, Estimator):  # "auto"
        estimator = choose_estimator(q, not undifferentiable, rows, num_samples is not None)
        if num_samples == 1 and not estimator.requires_differentiable_cost:
            estimator = ScoreFunction()  # a single trajectory has no others to be compared with
    if not estimator.supports(q):
        if isinstance(estimator, ScoreFunction) and support_moves(q):
            remedy = "Use Pathwise() and a cost with a gradient path to the value"
            if isinstance(unwrap_independent(q)[0], MixtureSameFamily):
                remedy = "Make the component a node of its own, with a node of Pathwise() that depends on it"
            elif not q.has_rsample:
                remedy = "Apply the transform within the cost"
            raise EstimatorError(
                f"node {node.name!r}: ScoreFunction needs a support that does not depend on the parameters, and that "
                f"of {describe_distribution(q)} moves with them: the gradient would miss what enters and leaves at "
                f"its ends. {remedy}, or detach the parameters of the support"
            )
        raise EstimatorError(
            f"node {node.name!r}: {type(estimator).__name__} does not fit {describe_distribution(q)}; "
            f"{describe_supported(q)}"
        )
    if num_samples is not None:
        check_joint(node.name, estimator, num_samples)
    if in_transform():
        check_transform(node.name, estimator)
    return estimator


def check_transform(name: str, estimator: Estimator) -> None:
    """Raise an error if an estimator does not work inside a transform of ``torch.func``, or forward mode.

    Raises
    ------
    EstimatorError
        If it differentiates the cost itself, learns from costs, or samples within a ``vmap`` that rejects randomness.
    """
    what = f"node {name!r}: {type(estimator).__name__}"
    critic = estimator.critic if isinstance(estimator, ScoreFunction) else None
    if estimator.differentiates_cost:
        raise EstimatorError(
            f"{what} differentiates the cost inside the step, which torch.func and forward mode do not allow. Use "
            "DisARM() or LocalExpectation(), or torch.autograd.grad instead of the transform."
        )
    if torch.is_grad_enabled() and (estimator.is_stateful or (critic is not None and critic.training)):
        raise EstimatorError(
            f"{what} learns from costs, which torch.func and forward mode do not allow. Call its eval(), use "
            "ScoreFunction(baseline=LeaveOneOut()), or torch.autograd.grad instead of the transform."
        )
    if refuses_randomness() and not isinstance(estimator, Enumerate):
        raise EstimatorError(
            f"{what} samples random numbers within a vmap that rejects them. Pass randomness='different' (or 'same') "
            "to torch.func.vmap or jacfwd; instead of hessian(f) use jacfwd(jacrev(f), randomness='same')."
        )


def check_joint(name: str, estimator: Estimator, num_samples: int) -> None:
    """Raise an error if an estimator cannot draw one row of each of ``num_samples`` joint trajectories.

    Raises
    ------
    EstimatorError
        If it samples sets of rows or adds some, or compares a trajectory with others and there are none.
    """
    baseline = estimator.baseline if isinstance(estimator, ScoreFunction) else None
    if not estimator.supports_joint_samples or (baseline is not None and baseline.num_auxiliary_samples):
        what = type(estimator).__name__ + (f"(baseline={type(baseline).__name__}())" if baseline is not None else "")
        raise EstimatorError(
            f"node {name!r}: {what} cannot draw joint trajectories; leave num_samples at None, or use "
            "ScoreFunction(baseline=LeaveOneOut())"
        )
    if baseline is not None and num_samples < baseline.min_samples:
        raise EstimatorError(
            f"node {name!r}: {type(baseline).__name__} compares joint trajectories, of which num_samples must be at "
            f"least {baseline.min_samples}; it is {num_samples}"
        )
