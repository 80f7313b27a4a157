"""Distributions in full precision, and the probabilities of exactly 0 and 1 that torch's logits lose."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Distribution, Multinomial, OneHotCategorical
from torch.distributions.utils import lazy_property

HALF = (torch.float16, torch.bfloat16)
_D = TypeVar("_D", bound=Distribution)


def precise(q: _D) -> _D:
    """Return a distribution with parameters of at least float32, and without probs or logits that torch derived.

    torch samples in the type of the parameters, and half precision counts 256 steps from 0 to 1. It derives logits
    from probs that it clamps, so that states of probability 0 become possible. A distribution without either is
    returned as it is.

    torch's categorical distributions normalize their logits in the logits' own type. This rounding comes before.
    """
    if not _is_imprecise(q):
        return q
    own = vars(q)
    changed: dict[str, Any] = {}
    casts: dict[int, Tensor] = {}  # torch compares its parameters by identity
    for name, value in own.items():
        if isinstance(value, Tensor) and value.dtype in HALF:
            changed[name] = casts.setdefault(id(value), value.float())
        elif isinstance(value, Distribution):
            inner = precise(value)
            if inner is not value:
                changed[name] = inner
    if casts and (names := _arguments(type(q))):
        # the constructor may derive more of them (Gumbel: the ends of a uniform distribution, by their type)
        arguments: dict[str, Any] = {name: getattr(q, name).float() for name in names}
        return type(q)(**arguments, validate_args=q._validate_args)
    new = copy.copy(q)
    new.__dict__.update(changed)
    if "probs" in own and "logits" in own:
        del new.__dict__["probs" if given_probs(q) is None else "logits"]
    return new


def _arguments(family: type[Distribution]) -> set[str]:
    """Return the names of a constructor's arguments, if it takes just the parameters and none instead of another."""
    constraints: Any = family.arg_constraints
    names = set(constraints) if isinstance(constraints, dict) else set()
    alternatives = any(isinstance(getattr(family, name, None), lazy_property) for name in names)
    takes = set(inspect.signature(family).parameters) - {"validate_args"}
    return names if names == takes and not alternatives else set()


def _is_imprecise(q: Distribution) -> bool:
    """Return whether a distribution has a parameter in half precision, or both probs and logits."""
    own = vars(q)
    if "probs" in own and "logits" in own and not torch.compiler.is_compiling():
        return True
    for value in own.values():
        if isinstance(value, Tensor):
            if value.dtype in HALF:
                return True
        elif isinstance(value, Distribution) and _is_imprecise(value):
            return True
    return False


def given_probs(q: Distribution) -> Tensor | None:
    """Return the probabilities that a discrete distribution was made with; None if it was made with logits."""
    own = vars(q._categorical if isinstance(q, OneHotCategorical | Multinomial) else q)
    if "probs" not in own or ("logits" in own and own.get("_param") is not own["probs"]):
        return None
    return own["probs"]


def exact_logits(q: Any) -> Tensor:
    """Return logits, infinite where a probability is exactly 0 or 1; these have no gradient."""
    probs = given_probs(q)
    if probs is None:
        return q._categorical.logits if isinstance(q, OneHotCategorical | Multinomial) else q.logits
    if isinstance(q, Bernoulli | Binomial):
        return safe_log(probs) - safe_log(1 - probs)
    return safe_log(probs).log_softmax(-1)  # normalized again, so that only possible states have a gradient


def safe_log(x: Tensor) -> Tensor:
    """Return the logarithm; that of 0 is minus infinity, without a gradient."""
    return torch.where(x > 0, torch.where(x > 0, x, 1).log(), -math.inf)
