"""Detection of supports that move with the parameters, for which only pathwise gradients are correct.

A score function differentiates the density inside the support, and misses the mass that crosses its ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution, constraints
from torch.distributions import transforms as T

from vaekit.estimators.func_transforms import is_differentiated, without_vmap

Interval = tuple[Any, Any]  # ends as numbers or tensors; None if infinite
INNER_DISTRIBUTIONS = ("base_dist", "component_distribution", "base", "distribution")


def support_moves(q: Distribution) -> bool:
    """Return whether the support of ``q`` depends on tensors by which a derivative may be taken.

    The support is the constraint that the distribution declares. A plain ``TransformedDistribution`` declares the
    codomain of its last transform, so the ends of its base's support pass through the transforms instead. Without
    gradients, no support moves.

    Examples
    --------
    >>> from torch.distributions import Uniform
    >>> t = torch.tensor(1.5, requires_grad=True)
    >>> support_moves(Uniform(0.0, t)), support_moves(Uniform(0.0, t.detach()))
    (True, False)
    """
    if not torch.is_grad_enabled():
        return False
    if _declares_codomain(q):
        return any(_moves(end) for end in _transformed_ends(q))
    attributes = [vars(q).get(name, vars(q).get(f"_{name}")) for name in INNER_DISTRIBUTIONS]
    inner = [attribute for attribute in attributes if isinstance(attribute, Distribution)]
    if inner and not isinstance(q, TransformedDistribution):
        return any(support_moves(distribution) for distribution in inner)
    return any(_moves(tensor) for tensor in _tensors(_get_support(q)))


def _declares_codomain(q: Distribution) -> bool:
    """Return whether a transformed distribution derives its support from its transforms."""
    return isinstance(q, TransformedDistribution) and type(q).support is TransformedDistribution.support


def _get_support(q: Distribution) -> Any:
    try:
        return q.support
    except (NotImplementedError, AttributeError):
        return None


def _tensors(item: Any) -> Iterator[Tensor]:
    """Yield the tensors in the attributes of a constraint or transform, and in its parts."""
    for value in vars(item).values() if isinstance(item, constraints.Constraint | T.Transform) else ():
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, Tensor):
                yield part
            else:
                yield from _tensors(part)


def _moves(end: Any) -> bool:
    if not isinstance(end, Tensor) or not is_differentiated(end):
        return False
    return torch.compiler.is_compiling() or not bool(without_vmap(end).isinf().all())


def _transformed_ends(q: Any) -> Interval:
    """Return the ends of the support of a transformed distribution, each with its gradient."""
    base = q
    transforms: list[T.Transform] = []
    while _declares_codomain(base):
        base, transforms = base.base_dist, [*base.transforms, *transforms]
    ends, rigid = _bounds(_get_support(base)), _rigid_type(_get_support(base))
    for transform in _flatten(transforms):
        if rigid is None or _rigid_type(transform.domain) is rigid:
            ends, rigid = _transform_interval(transform, ends), _rigid_type(transform.codomain)
        elif moving := [tensor for tensor in _tensors(transform) if _moves(tensor)]:
            return moving[0], None
    return ends


def _rigid_type(constraint: Any) -> type | None:
    """Return the type of a set that is not an interval of real numbers, None for an interval.

    Any transform with parameters moves the points of such a set.
    """
    inner = _unwrap(constraint)
    interval = inner is constraints.real or any(bound is not None for bound in _bounds(inner))
    return None if inner is None or (interval and not inner.is_discrete) else type(inner)


def _unwrap(constraint: Any) -> Any:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def _flatten(transforms: Iterable[T.Transform]) -> Iterator[T.Transform]:
    """Yield the transforms, with the parts of composed ones one by one."""
    for transform in transforms:
        if isinstance(transform, T.ComposeTransform):
            yield from _flatten(transform.parts)
        else:
            yield transform


def _bounds(constraint: Any) -> Interval:
    constraint = _unwrap(constraint)
    return getattr(constraint, "lower_bound", None), getattr(constraint, "upper_bound", None)


def _transform_interval(transform: T.Transform, ends: Interval) -> Interval:
    """Return the transformed ends of an interval, in any order."""
    while isinstance(transform, T.IndependentTransform):
        transform = transform.base_transform
    return _transform_end(transform, 0, ends[0]), _transform_end(transform, 1, ends[1])


def _transform_end(transform: T.Transform, side: int, end: Any) -> Any:
    """Return a transformed end. An end of the domain maps to an end of the codomain for all parameters."""
    domain, codomain = _bounds(transform.domain), _bounds(transform.codomain)
    for at in (side, 1 - side):  # an earlier decreasing transform has swapped the ends
        if at == side if end is None else _equal(end, domain[at]):
            return codomain[at if _increases(transform) else 1 - at]
    if isinstance(transform, T.PowerTransform) and _equal(end, 1):
        return end
    if isinstance(transform, T.AffineTransform):  # the scale does not move zero
        return transform.loc if _equal(end, 0) else transform.loc + transform.scale * end
    if isinstance(transform, T.ReshapeTransform):
        return end
    end = torch.as_tensor(end)
    if isinstance(transform, T.CatTransform | T.StackTransform) and not end.dim():  # all parts begin at this end
        ends = [_transform_end(part, side, end) for part in transform.transforms]
        return next(filter(_moves, ends), ends[0])
    return None if end.dim() < transform.domain.event_dim else transform(end)  # a number is not an end of vectors


def _increases(transform: T.Transform) -> bool:
    try:
        return bool((without_vmap(torch.as_tensor(transform.sign)) > 0).all())
    except NotImplementedError:
        return True


def _equal(end: Any, number: Any) -> bool:
    return number is not None and bool(
        torch.eq(*(without_vmap(torch.as_tensor(value)) for value in (end, number))).all()
    )
