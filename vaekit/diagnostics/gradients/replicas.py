"""Many gradient estimates at once: replicates on an axis of the batch, each with parameters of its own.

A distribution is expanded by an axis of replicates and its parameters become leaves, ``[count, *batch, ...]``: one
backward pass gives each replicate's gradient with respect to its own. What lies before the distribution, a linear map
then, is the same for all replicates, and is gone through once with a batch of cotangents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.exceptions import EstimatorError


class NotReplicableError(EstimatorError):
    """A distribution whose parameters cannot be told apart by replicate; estimates are then made one by one."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where}: gradients of many draws cannot be told apart, as it has no axis of the batch")


class Replicas(NamedTuple):
    """A distribution with an axis of replicates.

    Attributes
    ----------
    q
        Batch shape ``[count, *batch]``.
    leaves
        Its parameters, ``[count, ...]``, cut off from what they were made from.
    sources
        The same, ``[1, ...]``, connected to it.
    """

    q: Distribution
    leaves: list[Tensor]
    sources: list[Tensor]


def replicate(q: Distribution, count: int) -> Replicas:
    """Give a distribution an axis of ``count`` replicates and parameters that are leaves.

    Raises
    ------
    NotReplicableError
        If its parameters cannot be told apart by replicate.
    """
    try:
        one, many = (q.expand(torch.Size([n, *q.batch_shape])) for n in (1, count))
    except NotImplementedError as error:
        raise NotReplicableError(f"{type(q).__name__}.expand") from error
    found: dict[int, tuple[Tensor, Tensor]] = {}
    _cut(one, many, count, found)
    return Replicas(many, [leaf for leaf, _ in found.values()], [source for _, source in found.values()])


def _cut(one: Distribution, many: Distribution, count: int, found: dict[int, tuple[Tensor, Tensor]]) -> None:
    """Replace the parameters of ``many`` by leaves, through distributions within distributions."""
    for name, source in list(vars(one).items()):
        expanded = vars(many).get(name)
        if isinstance(source, Distribution) and isinstance(expanded, Distribution):
            _cut(source, expanded, count, found)
        elif isinstance(source, Tensor) and source.requires_grad:
            if not isinstance(expanded, Tensor) or expanded.shape != (count, *source.shape[1:]) or len(source) != 1:
                raise NotReplicableError(f"{type(one).__name__}.{name}")
            if id(expanded) not in found:
                found[id(expanded)] = (expanded.detach().clone().requires_grad_(), source)
            setattr(many, name, found[id(expanded)][0])
        elif not isinstance(source, Tensor) and any(tensor.requires_grad for tensor in _tensors(source)):
            raise NotReplicableError(f"{type(one).__name__}.{name}")  # a transform's own parameters, say


def _tensors(item: Any, depth: int = 3) -> Iterable[Tensor]:
    """Go through the tensors in lists, and in the attributes of what is in them."""
    if isinstance(item, Tensor):
        yield item
    elif depth and isinstance(item, list | tuple):
        for element in item:
            yield from _tensors(element, depth - 1)
    elif depth and hasattr(item, "__dict__") and not isinstance(item, type):
        for element in vars(item).values():
            yield from _tensors(element, depth - 1)


def pull_back(
    outputs: Sequence[Tensor], cotangents: Sequence[Tensor | None], params: Sequence[Tensor], count: int
) -> Tensor:
    """Return vector-Jacobian products, ``[count, components]``, for cotangents ``[count, *output]``; None is zero."""
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if c is not None and o.requires_grad]
    if not pairs:
        return torch.zeros(count, sum(p.numel() for p in params), dtype=params[0].dtype, device=params[0].device)
    used, seeds = [o for o, _ in pairs], [c for _, c in pairs]
    try:
        gradients = torch.autograd.grad(
            used, params, seeds, is_grads_batched=True, allow_unused=True, retain_graph=True
        )
    except RuntimeError:  # an operation whose backward pass cannot be batched
        rows = [
            torch.autograd.grad(used, params, [c[i] for c in seeds], allow_unused=True, retain_graph=True)
            for i in range(count)
        ]
        return torch.cat([flatten(row, params) for row in rows])
    return flatten(gradients, params, count)


def flatten(gradients: Sequence[Tensor | None], params: Sequence[Tensor], count: int = 1) -> Tensor:
    """Return gradients ``[count, *parameter]`` (None is zero) side by side, ``[count, components]``."""
    parts = [
        p.new_zeros(count, p.numel()) if g is None else g.detach().reshape(count, p.numel())
        for g, p in zip(gradients, params, strict=True)
    ]
    return torch.cat(parts, 1)
