"""Losses whose gradient estimates a report measures."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit._core import memory_budget
from vaekit.diagnostics.gradients.replicas import NotReplicableError, Replicas, flatten, replicate, separate_gradients
from vaekit.estimators import NodeSample
from vaekit.exceptions import EstimatorError
from vaekit.graph.dependencies import NodeFunction, parse_graph
from vaekit.graph.expectation import evaluate
from vaekit.graph.fold import Estimate

MAX_REPLICATES = 256
TESTED_REPLICATE = 1


class Target(ABC):
    """A loss whose gradient with respect to ``params`` is estimated."""

    params: list[Tensor]

    @abstractmethod
    def gradient(self, estimators: Any) -> Tensor:
        """Return one gradient estimate, shape (1, components)."""

    @abstractmethod
    def num_evaluations(self, estimators: Any) -> int:
        """Return the number of cost evaluations per estimate and entry of the batch."""

    def gradients(self, estimators: Any, count: int) -> Tensor:
        """Return independent gradient estimates, shape (count, components)."""
        return torch.cat([self.gradient(estimators) for _ in range(count)])

    def training_gradient(self, estimators: Any) -> None:
        """Compute one gradient as a training step does, for timing."""
        self.gradient(estimators)

    def chunk_size(self, estimators: Any) -> int:
        """Return the number of estimates that are computed together."""
        return 16

    def finite_gradients(self, estimators: Any, count: int) -> Tensor:
        """Return :meth:`gradients`, or raise :class:`EstimatorError` if a value is NaN or infinite."""
        gradients = self.gradients(estimators, count)
        if num_invalid := int((~gradients.isfinite()).any(1).sum()):
            raise EstimatorError(f"{num_invalid} of {len(gradients)} gradients are not finite (NaN or infinite)")
        return gradients


class ExpectationTarget(Target):
    """The batch mean of an expectation.

    Estimates are computed together along an extra batch dimension if the cost allows this. A trial decides whether one
    replicate depends on the values of another. If the cost or a conditional distribution contains parameters, each
    estimate needs a separate backward pass, still in one batch. For the parameters, see
    :func:`vaekit.gradient_report`.
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
        is_factory = callable(q) and not isinstance(q, Distribution | Mapping)
        self._q: Callable[[], Any] = q if is_factory else lambda: q
        self._cost, self.params = cost, list(params)
        self._num_samples, self._context = num_samples, context
        self._vectorized: bool | None = None if vectorize else False
        self._direct = False  # whether the cost or a conditional distribution contains parameters

    @override
    def gradient(self, estimators: Any) -> Tensor:
        total = self._evaluate(self._q(), estimators).total.mean()
        _check_connected(total)
        return flatten(torch.autograd.grad(total, self.params, allow_unused=True, retain_graph=True), self.params)

    @override
    def gradients(self, estimators: Any, count: int) -> Tensor:
        if not self._is_vectorized(estimators):
            return super().gradients(estimators, count)
        q, replicas = self._replicate(count)
        total = self._evaluate(q, estimators, count).total
        total = total.flatten(1).mean(1) if total.dim() > 1 else total
        _check_connected(total)
        return separate_gradients(total, replicas, self.params)

    @override
    def num_evaluations(self, estimators: Any) -> int:
        samples = self._evaluate(self._q(), estimators).samples
        if self._num_samples is not None:
            return self._num_samples
        return math.prod(sample.weight.shape[0] for sample in samples.values())

    @override
    def chunk_size(self, estimators: Any) -> int:
        if not self._is_vectorized(estimators):
            return super().chunk_size(estimators)
        samples = self._evaluate(self._q(), estimators).samples
        size = max(sample.value.numel() for sample in samples.values()) * self.num_evaluations(estimators)
        count = limit_replicates(size, sum(p.numel() for p in self.params))
        return (
            max(1, min(count, math.isqrt(memory_budget.REPLICATED_VALUES // max(1, size)))) if self._direct else count
        )

    def _evaluate(self, q: Any, estimators: Any, count: int | None = None) -> Estimate:
        context = self._context
        if context is not None and count is not None:
            context = context.expand(count, *context.shape)
        return evaluate(self._cost, q, estimators, num_samples=self._num_samples, context=context)

    def _replicate(self, count: int) -> tuple[Any, list[Replicas]]:
        """Return q with a leading batch dimension of replicates; functions of parents are unchanged."""
        q = self._q()
        if isinstance(q, Distribution):
            replicas = replicate(q, count)
            return replicas.q, [replicas]
        by_name = {name: replicate(item, count) for name, item in q.items() if isinstance(item, Distribution)}
        return {**q, **{name: item.q for name, item in by_name.items()}}, list(by_name.values())

    def _is_vectorized(self, estimators: Any) -> bool:
        if self._vectorized is None:
            self._vectorized = self._are_replicates_independent(estimators)
        return self._vectorized

    def _are_replicates_independent(self, estimators: Any) -> bool:
        """Return whether the costs and conditional distributions of each replicate depend on its values only."""
        result = self._evaluate(self._q(), estimators)  # raises the errors of the graph itself, which are hidden below
        rank = result.total.dim()
        try:
            q, _ = self._replicate(3)
            result = self._evaluate(q, estimators, 3)
            if result.total.requires_grad:
                partials = torch.autograd.grad(result.total.sum(), self.params, allow_unused=True)
                self._direct = any(g is not None for g in partials)
            nodes, terms = parse_graph(self._cost, q)
            functions: list[tuple[NodeFunction, str | None]] = [(term, None) for term in terms.values()]
            functions += [(node.q, node.name) for node in nodes if not isinstance(node.q, Distribution)]
            with torch.no_grad():
                return all(_is_independent(f, result.samples, rank, name) for f, name in functions)
        except (NotReplicableError, EstimatorError, RuntimeError, ValueError, IndexError, TypeError):
            return False


def limit_replicates(size: int, components: int) -> int:
    """Return the number of replicates that fit into memory, for tensors of ``size`` and gradients of ``components``."""
    budget = memory_budget.REPLICATED_VALUES
    return max(1, min(MAX_REPLICATES, budget // max(1, size), 4 * budget // max(1, components)))


def _check_connected(total: Tensor) -> None:
    if not total.requires_grad:
        raise EstimatorError("the expectation has no gradient path to any parameter: build q from params")


def _select_replicate(value: Tensor, rank: int, event_dim: int = 0) -> Tensor:
    """Return one replicate of ``[*sample, count or 1, *batch, *event]``; ``rank`` is the number of batch dimensions."""
    dim = value.dim() - event_dim - rank - 1
    if dim < 0:
        raise ValueError("a cost without a dimension of replicates")
    return value.select(dim, TESTED_REPLICATE if value.shape[dim] > 1 else 0)


def _is_independent(
    function: NodeFunction, samples: Mapping[str, NodeSample], rank: int, node: str | None = None
) -> bool:
    """Return whether a function of one replicate alone agrees with the same replicate of all.

    If ``node`` is a name, the function returns its distribution, and the log-probabilities of its samples are compared.
    """
    joint = {name: sample.value for name, sample in samples.items()}
    alone = {name: _select_replicate(s.value, rank, len(s.q.event_shape)) for name, s in samples.items()}
    outputs = []
    for values in (joint, alone):
        output = function.function(**{name: values[name] for name in function.inputs})
        outputs.append(torch.as_tensor(output if node is None else output.log_prob(values[node])).double())
    of_all, expected = _select_replicate(outputs[0], rank), outputs[1]
    if of_all.dim() != expected.dim():
        return False
    of_all, expected = torch.broadcast_tensors(of_all, expected)
    return torch.allclose(of_all, expected, rtol=1e-4, atol=1e-6, equal_nan=True)
