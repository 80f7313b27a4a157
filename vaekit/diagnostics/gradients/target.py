"""What a gradient report measures: the gradient of a loss with respect to parameters, drawn again and again."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.diagnostics.gradients.replicas import NotReplicableError, Replicas, flatten, pull_back, replicate
from vaekit.estimators import NodeSample
from vaekit.exceptions import EstimatorError
from vaekit.graph.dependencies import NodeFunction, parse_graph
from vaekit.graph.expectation import evaluate
from vaekit.graph.fold import Estimate

MAX_REPLICATES = 256
HELD = 2**22  # numbers a chunk of replicates may hold at a time, in each of its tensors
REPLICATE_CHECKED = 1


class Target(ABC):
    """A loss whose gradient is estimated.

    Attributes
    ----------
    params
        What it is differentiated by.
    """

    params: list[Tensor]

    @abstractmethod
    def gradients(self, estimators: Any, count: int) -> Tensor:
        """Return independent gradient estimates, ``[count, components]``."""

    @abstractmethod
    def single_gradient(self, estimators: Any) -> None:
        """Work out one gradient as a training step would: what is timed."""

    @abstractmethod
    def rows(self, estimators: Any) -> int:
        """Return the cost evaluations of one estimate, an entry of the batch."""

    @abstractmethod
    def chunk(self, estimators: Any) -> int:
        """Return how many estimates to make at a time."""


class ExpectationTarget(Target):
    """The mean over the batch of an expectation.

    Estimates are made together on an axis of the batch where the cost allows it: a try at two of them tells whether
    one depends on the values of another. Parameters that the cost or a conditional distribution holds make a backward
    pass an estimate necessary, still in one batch.

    Parameters
    ----------
    cost, num_samples, context
        As in :func:`vaekit.expectation`.
    q
        Likewise, or a function without arguments that returns it.
    params
        What it is differentiated by.
    vectorize
        Whether to try to make estimates together.
    """

    def __init__(
        self,
        cost: Any,
        q: Any,
        params: Sequence[Tensor],
        num_samples: int | None = None,
        context: Tensor | None = None,
        vectorize: bool = True,
    ) -> None:
        rebuilt = callable(q) and not isinstance(q, Distribution | Mapping)
        self._q: Callable[[], Any] = q if rebuilt else lambda: q
        self._cost, self.params = cost, list(params)
        self._num_samples, self._context = num_samples, context
        self._together: bool | None = None if vectorize else False
        self._direct = False  # whether the cost or a child's distribution holds parameters

    def gradients(self, estimators: Any, count: int) -> Tensor:
        """Return independent gradient estimates (see the base class)."""
        if self._together is None:
            self._together = self._broadcasts(estimators)
        if not self._together:
            return torch.cat([self._one(estimators) for _ in range(count)])
        q, replicas = self._replicated(count)
        total = self._evaluate(q, estimators, count).total
        total = total.flatten(1).mean(1) if total.dim() > 1 else total
        leaves = [leaf for item in replicas for leaf in item.leaves]
        sources = [source for item in replicas for source in item.sources]
        _check_connected(total)
        inputs = [*leaves, *self.params]
        found = torch.autograd.grad(total.sum(), inputs, allow_unused=True, retain_graph=True)
        cotangents = [None if g is None else g.unsqueeze(1) for g in found[: len(leaves)]]
        gradients = pull_back(sources, cotangents, self.params, count)
        if any(g is not None for g in found[len(leaves) :]):
            own = torch.eye(count, dtype=total.dtype, device=total.device)
            gradients = gradients + pull_back([total], [own], self.params, count)
        return gradients

    def single_gradient(self, estimators: Any) -> None:
        """Work out one gradient (see the base class)."""
        self._one(estimators)

    def rows(self, estimators: Any) -> int:
        """Return the product of the rows of all nodes, or the number of joint trajectories (see the base class)."""
        draws = self._evaluate(self._q(), estimators).samples
        if self._num_samples is not None:
            return self._num_samples
        return math.prod(draw.weight.shape[0] for draw in draws.values())

    def chunk(self, estimators: Any) -> int:
        """Return how many estimates fit into a chunk (see the base class)."""
        if self._together is None:
            self._together = self._broadcasts(estimators)
        if not self._together:
            return 16
        result = self._evaluate(self._q(), estimators)
        size = max(draw.value.numel() for draw in result.samples.values()) * self.rows(estimators)
        count = bounded(size, sum(p.numel() for p in self.params))
        return max(1, min(count, math.isqrt(HELD // max(1, size)))) if self._direct else count

    def _one(self, estimators: Any) -> Tensor:
        total = self._evaluate(self._q(), estimators).total.mean()
        _check_connected(total)
        return flatten(torch.autograd.grad(total, self.params, allow_unused=True, retain_graph=True), self.params)

    def _evaluate(self, q: Any, estimators: Any, count: int | None = None) -> Estimate:
        context = self._context
        if context is not None and count is not None:
            context = context.expand(count, *context.shape)
        return evaluate(self._cost, q, estimators, num_samples=self._num_samples, context=context)

    def _replicated(self, count: int) -> tuple[Any, list[Replicas]]:
        """Return q with an axis of replicates in front of the batch; functions of parents stay as they are."""
        q = self._q()
        if isinstance(q, Distribution):
            only = replicate(q, count)
            return only.q, [only]
        made = {name: replicate(item, count) if isinstance(item, Distribution) else item for name, item in q.items()}
        replicas = [item for item in made.values() if isinstance(item, Replicas)]
        return {name: item.q if isinstance(item, Replicas) else item for name, item in made.items()}, replicas

    def _broadcasts(self, estimators: Any) -> bool:
        """Tell whether each replicate's costs and conditional distributions depend on its own values alone."""
        ordinary = self._evaluate(self._q(), estimators)  # what is wrong with it shall be told, not hidden below
        batch = ordinary.total.dim()
        try:
            q, _ = self._replicated(3)
            result = self._evaluate(q, estimators, 3)
            draws = result.samples
            if result.total.requires_grad:
                found = torch.autograd.grad(result.total.sum(), self.params, allow_unused=True)
                self._direct = any(g is not None for g in found)
            nodes, terms = parse_graph(self._cost, q)
            with torch.no_grad():
                for function in terms.values():
                    if not _agree(function, draws, batch, lambda output, values: output):
                        return False
                for node in nodes:
                    if isinstance(node.q, NodeFunction) and not _agree(node.q, draws, batch, _density(node.name)):
                        return False
        except (NotReplicableError, EstimatorError, RuntimeError, ValueError, IndexError, TypeError):
            return False
        return True


def bounded(size: int, components: int) -> int:
    """Return how many replicates to make at a time, each with tensors of ``size`` and a gradient of ``components``."""
    return max(1, min(MAX_REPLICATES, HELD // max(1, size), 4 * HELD // max(1, components)))


def _check_connected(total: Tensor) -> None:
    if not total.requires_grad:
        raise EstimatorError("the expectation has no gradient path to any parameter: q must be made from params")


def _pick(value: Tensor, batch: int, event: int = 0) -> Tensor:
    """Return one replicate of values ``[*rows, count or 1, *batch, *event]``, or all if they have none."""
    axis = value.dim() - event - batch - 1
    if axis < 0:
        raise ValueError("a cost without the axis of replicates")
    return value.select(axis, REPLICATE_CHECKED if value.shape[axis] > 1 else 0)


def _agree(
    function: NodeFunction,
    draws: Mapping[str, NodeSample],
    batch: int,
    compared: Callable[[Any, Mapping[str, Tensor]], Any],
) -> bool:
    """Compare what a function makes of one replicate alone with its part of what it makes of all."""
    everything = {name: draw.value for name, draw in draws.items()}
    alone = {name: _pick(draw.value, batch, len(draw.q.event_shape)) for name, draw in draws.items()}
    outputs = []
    for values in (everything, alone):
        output = function.function(**{name: values[name] for name in function.inputs})
        outputs.append(torch.as_tensor(compared(output, values)).double())
    whole, part = outputs
    mine = _pick(whole, batch)
    if mine.dim() != part.dim():
        return False
    mine, part = torch.broadcast_tensors(mine, part)
    return torch.allclose(mine, part, rtol=1e-4, atol=1e-6, equal_nan=True)


def _density(name: str) -> Callable[[Any, Mapping[str, Tensor]], Tensor]:
    """Return what compares conditional distributions: their log-densities at the values drawn."""

    def log_prob(q: Distribution, values: Mapping[str, Tensor]) -> Tensor:
        return q.log_prob(values[name])

    return log_prob
