"""Many gradient estimates at once: replicates of a distribution, each with separate parameters.

A distribution is expanded by a leading batch dimension of replicates, and its parameters become leaves of shape
``[count, *batch, ...]``. One backward pass then gives the gradient of each replicate with respect to its parameters.
The computation before the distribution, such as a linear layer, is the same for all replicates. One pass with a batch
of cotangents differentiates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.exceptions import EstimatorError


class NotReplicableError(EstimatorError):
    """A distribution whose parameters cannot be separated by replicate, so that estimates are computed one by one."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} does not have a batch dimension that separates the gradients of many samples")


class Replicas(NamedTuple):
    """A distribution of batch shape ``[count, *batch]``.

    ``leaves`` are its parameters ``[count, ...]``, detached; ``sources`` are the same ``[1, ...]`` with gradient path.
    """

    q: Distribution
    leaves: list[Tensor]
    sources: list[Tensor]


def replicate(q: Distribution, count: int) -> Replicas:
    """Return ``count`` replicates of a distribution, or raise an error if its parameters cannot be separated."""
    try:
        one, many = (q.expand(torch.Size([n, *q.batch_shape])) for n in (1, count))
    except NotImplementedError as error:
        raise NotReplicableError(f"{type(q).__name__}.expand") from error
    pairs: dict[int, tuple[Tensor, Tensor]] = {}
    _detach_parameters(one, many, count, pairs)
    return Replicas(many, [leaf for leaf, _ in pairs.values()], [source for _, source in pairs.values()])


def _detach_parameters(
    one: Distribution, many: Distribution, count: int, pairs: dict[int, tuple[Tensor, Tensor]]
) -> None:
    """Replace the parameters of ``many``, and of distributions inside it, by leaves."""
    for name, source in list(vars(one).items()):
        expanded = vars(many).get(name)
        if isinstance(source, Distribution) and isinstance(expanded, Distribution):
            _detach_parameters(source, expanded, count, pairs)
        elif isinstance(source, Tensor) and source.requires_grad:
            if not isinstance(expanded, Tensor) or expanded.shape != (count, *source.shape[1:]) or len(source) != 1:
                raise NotReplicableError(f"{type(one).__name__}.{name}")
            leaf, _ = pairs.setdefault(id(expanded), (expanded.detach().clone().requires_grad_(), source))
            setattr(many, name, leaf)
        elif not isinstance(source, Tensor) and any(tensor.requires_grad for tensor in _nested_tensors(source)):
            raise NotReplicableError(f"{type(one).__name__}.{name}")  # such as the parameters of a transform


def _nested_tensors(item: Any, depth: int = 3) -> list[Tensor]:
    """Return the tensors in nested lists and attributes."""
    if isinstance(item, Tensor):
        return [item]
    if not depth or isinstance(item, type):
        return []
    children = item if isinstance(item, list | tuple) else getattr(item, "__dict__", {}).values()
    return [tensor for child in children for tensor in _nested_tensors(child, depth - 1)]


def separate_gradients(totals: Tensor, replicas: Sequence[Replicas], params: Sequence[Tensor]) -> Tensor:
    """Return the gradients ``[count, components]`` of the totals ``[count]`` of all replicates."""
    leaves = [leaf for item in replicas for leaf in item.leaves]
    sources = [source for item in replicas for source in item.sources]
    partials = torch.autograd.grad(totals.sum(), [*leaves, *params], allow_unused=True, retain_graph=True)
    pairs = [(s, g.unsqueeze(1)) for s, g in zip(sources, partials[: len(leaves)], strict=True) if g is not None]
    if any(g is not None for g in partials[len(leaves) :]):  # parameters outside the replicated distributions
        pairs.append((totals, torch.eye(len(totals), dtype=totals.dtype, device=totals.device)))
    return _vector_jacobian_products(pairs, params, len(totals))


def _vector_jacobian_products(pairs: list[tuple[Tensor, Tensor]], params: Sequence[Tensor], count: int) -> Tensor:
    """Return ``[count, components]`` for pairs of an output and its cotangents ``[count, *output]``."""
    outputs, cotangents = [output for output, _ in pairs], [cotangent for _, cotangent in pairs]
    options: dict[str, Any] = {"allow_unused": True, "retain_graph": True}
    if not pairs:
        return flatten([None] * len(params), params, count)
    try:
        gradients = torch.autograd.grad(outputs, params, cotangents, is_grads_batched=True, **options)
    except RuntimeError:  # the backward pass of some operations cannot be batched
        rows = [torch.autograd.grad(outputs, params, [c[i] for c in cotangents], **options) for i in range(count)]
        return torch.cat([flatten(row, params) for row in rows])
    return flatten(gradients, params, count)


def flatten(gradients: Sequence[Tensor | None], params: Sequence[Tensor], count: int = 1) -> Tensor:
    """Return gradients ``[count, *parameter]`` concatenated as ``[count, components]``; None is zero."""
    parts = [
        p.new_zeros(count, p.numel()) if g is None else g.detach().reshape(count, p.numel())
        for g, p in zip(gradients, params, strict=True)
    ]
    return torch.cat(parts, 1)
