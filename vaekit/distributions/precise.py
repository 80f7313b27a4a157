"""Distributions in full precision, and exact probabilities of 0 and 1, which torch's logits lose."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Distribution
from torch.distributions.utils import lazy_property

HALF = (torch.float16, torch.bfloat16)
_D = TypeVar("_D", bound=Distribution)


def precise(q: _D) -> _D:
    """Return a distribution with parameters of at least float32, and without probs or logits that torch derived.

    torch samples in the type of the parameters, and half precision has only 256 steps from 0 to 1. It derives logits
    from clamped probs, so that states of probability 0 become possible. Other distributions are returned unchanged.

    torch's categorical distributions normalize their logits in the type of the logits, before this function.
    """
    attributes = vars(q)
    changed: dict[str, Any] = {}
    casts: dict[int, Tensor] = {}  # by identity, as torch compares its parameters
    for name, value in attributes.items():
        if isinstance(value, Tensor) and value.dtype in HALF:
            changed[name] = casts.setdefault(id(value), value.float())
        elif isinstance(value, Distribution):
            inner = precise(value)
            if inner is not value:
                changed[name] = inner
    probs_and_logits = "probs" in attributes and "logits" in attributes
    if not changed and (not probs_and_logits or torch.compiler.is_compiling()):
        return q
    if casts and (names := _arguments(type(q))):
        # the constructor may derive more attributes (Gumbel: the ends of a uniform distribution, by their type)
        arguments: dict[str, Any] = {name: getattr(q, name).float() for name in names}
        return type(q)(**arguments, validate_args=q._validate_args)
    new = copy.copy(q)
    new.__dict__.update(changed)
    if probs_and_logits:
        del new.__dict__["probs" if given_probs(q) is None else "logits"]
    return new


def _arguments(family: type[Distribution]) -> set[str]:
    """Return the argument names of a constructor whose only arguments are the parameters, without alternatives."""
    constraints: Any = family.arg_constraints
    names = set(constraints) if isinstance(constraints, dict) else set()
    alternatives = any(isinstance(getattr(family, name, None), lazy_property) for name in names)
    takes = set(inspect.signature(family).parameters) - {"validate_args"}
    return names if names == takes and not alternatives else set()


def implements(q: Distribution, method: str) -> bool:
    """Return whether the class of a distribution overrides a method of ``Distribution``, such as ``log_prob``."""
    return getattr(type(q), method) is not getattr(Distribution, method)


def given_probs(q: Distribution) -> Tensor | None:
    """Return the probabilities that were passed to a discrete distribution; None if logits were passed."""
    attributes = vars(getattr(q, "_categorical", q))
    if "probs" not in attributes or ("logits" in attributes and attributes.get("_param") is not attributes["probs"]):
        return None
    return attributes["probs"]


def exact_logits(q: Any) -> Tensor:
    """Return logits. A probability of exactly 0 or 1 has an infinite logit without a gradient."""
    probs = given_probs(q)
    if probs is None:
        return getattr(q, "_categorical", q).logits
    if isinstance(q, Bernoulli | Binomial):
        return safe_log(probs) - safe_log(1 - probs)
    return safe_log(probs).log_softmax(-1)  # normalized again: only possible states have a gradient


def safe_log(x: Tensor) -> Tensor:
    """Return the logarithm: minus infinity, without a gradient, at 0."""
    return torch.where(x > 0, torch.where(x > 0, x, 1).log(), -math.inf)
