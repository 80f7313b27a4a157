"""Whether the support of a distribution moves with its parameters: then only pathwise gradients hold.

A score function differentiates the density inside the support, and misses what enters and leaves at its ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution, constraints
from torch.distributions import transforms as T

from vaekit.estimators.func_transforms import is_differentiated, without_vmap

Ends = tuple[Any, Any]  # numbers or tensors; None if infinite
_WRAPPED = ("base_dist", "component_distribution", "base", "distribution")


def support_moves(q: Distribution) -> bool:
    """Return whether the support of ``q`` depends on tensors that a derivative may be taken by.

    The answer is read from the constraint that the distribution declares. A plain ``TransformedDistribution`` declares
    the codomain of its last transform, so its base is followed through the transforms, end by end. Without gradients
    no support moves.

    Examples
    --------
    >>> from torch.distributions import Uniform
    >>> t = torch.tensor(1.5, requires_grad=True)
    >>> support_moves(Uniform(0.0, t)), support_moves(Uniform(0.0, t.detach()))
    (True, False)
    """
    if not torch.is_grad_enabled():
        return False
    if _is_plain(q):
        return any(_moves(end) for end in _ends_of(q))
    wrapped = [vars(q).get(name, vars(q).get(f"_{name}")) for name in _WRAPPED]
    if any(isinstance(inner, Distribution) for inner in wrapped) and not isinstance(q, TransformedDistribution):
        return any(support_moves(inner) for inner in wrapped if isinstance(inner, Distribution))
    return any(_moves(tensor) for tensor in _tensors(_support(q)))


def _is_plain(q: Distribution) -> bool:
    """Return whether a transformed distribution leaves its support to its transforms."""
    return isinstance(q, TransformedDistribution) and type(q).support is TransformedDistribution.support


def _support(q: Distribution) -> Any:
    try:
        return q.support
    except (NotImplementedError, AttributeError):
        return None


def _tensors(constraint: Any) -> Iterator[Tensor]:
    """Yield the tensors in a constraint and in its parts."""
    for value in vars(constraint).values() if isinstance(constraint, constraints.Constraint) else ():
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, Tensor):
                yield part
            else:
                yield from _tensors(part)


def _moves(end: Any) -> bool:
    if not isinstance(end, Tensor) or not is_differentiated(end):
        return False
    return torch.compiler.is_compiling() or not bool(without_vmap(end).isinf().all())


def _ends_of(q: Distribution) -> Ends:
    """Return the ends of the support of a transformed distribution, each with its gradient."""
    assert isinstance(q, TransformedDistribution)
    base: Any = q
    transforms: list[T.Transform] = []
    while _is_plain(base):
        base, transforms = base.base_dist, [*base.transforms, *transforms]
    ends, rigid = _bounds(_support(base)), _rigid(_support(base))
    for transform in _parts(transforms):
        if rigid is None or type(_inner(transform.domain)) is rigid:
            ends, rigid = _image(transform, ends), _rigid(transform.codomain)
        elif moving := [tensor for tensor in _parameters(transform) if _moves(tensor)]:
            return moving[0], None
    return ends


def _rigid(constraint: Any) -> type | None:
    """Return the type of a set that is no interval, or holds whole numbers only; None for an interval.

    Any transform with parameters moves its points.
    """
    inner = _inner(constraint)
    interval = inner is constraints.real or hasattr(inner, "lower_bound") or hasattr(inner, "upper_bound")
    return None if inner is None or (interval and not inner.is_discrete) else type(inner)


def _inner(constraint: Any) -> Any:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def _parts(transforms: Iterable[T.Transform]) -> Iterator[T.Transform]:
    """Yield the transforms, composed ones part by part."""
    for transform in transforms:
        if isinstance(transform, T.ComposeTransform):
            yield from _parts(transform.parts)
        else:
            yield transform


def _parameters(transform: Any) -> Iterator[Tensor]:
    """Yield the tensors of a transform, and of those in it."""
    for value in vars(transform).values():
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, Tensor):
                yield part
            elif isinstance(part, T.Transform):
                yield from _parameters(part)


def _bounds(constraint: Any) -> Ends:
    constraint = _inner(constraint)
    return getattr(constraint, "lower_bound", None), getattr(constraint, "upper_bound", None)


def _image(transform: T.Transform, ends: Ends) -> Ends:
    """Return where a transform takes the ends of an interval, in any order."""
    if isinstance(transform, T.IndependentTransform):
        return _image(transform.base_transform, ends)
    lower, upper = (_image_of_end(transform, side, end) for side, end in enumerate(ends))
    return lower, upper


def _image_of_end(transform: T.Transform, side: int, end: Any) -> Any:
    """Return where a transform takes an end: that of its domain to that of its codomain, for all parameters."""
    domain, codomain = _bounds(transform.domain), _bounds(transform.codomain)
    for at in (side, 1 - side):  # a decreasing transform has swapped them
        if at == side if end is None else _equal(end, domain[at]):
            return codomain[at if _increases(transform) else 1 - at]
    if isinstance(transform, T.PowerTransform) and _equal(end, 1):
        return end
    if isinstance(transform, T.AffineTransform):  # the scale does not move zero
        return transform.loc if _equal(end, 0) else transform.loc + transform.scale * end
    try:
        return transform(torch.as_tensor(end))
    except (RuntimeError, ValueError, NotImplementedError):  # one of vectors, which does not go end by end
        return None


def _increases(transform: T.Transform) -> bool:
    try:
        return bool((without_vmap(torch.as_tensor(transform.sign)) > 0).all())
    except NotImplementedError:
        return True


def _equal(end: Any, number: Any) -> bool:
    if number is None:
        return False
    pair = (without_vmap(torch.as_tensor(value)) for value in (end, number))
    return bool(torch.eq(*pair).all())
