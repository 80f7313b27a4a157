"""Distributions in full precision, and the probabilities of exactly 0 and 1 that torch's logits lose."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, OneHotCategorical

HALF = (torch.float16, torch.bfloat16)
_D = TypeVar("_D", bound=Distribution)


def precise(q: _D) -> _D:
    """Return a distribution with parameters of at least float32, and without probs or logits that torch derived.

    torch samples in the type of the parameters, and half precision counts 256 steps from 0 to 1. It derives logits
    from probs that it clamps, so that states of probability 0 become possible. A distribution without either is
    returned as it is.

    torch's categorical distributions normalize their logits in the logits' own type. This rounding comes before.
    """
    own, changed = vars(q), dict[str, Any]()
    casts: dict[int, Tensor] = {}  # torch compares its parameters by identity
    for name, value in own.items():
        if isinstance(value, Tensor) and value.dtype in HALF:
            changed[name] = casts.setdefault(id(value), value.float())
        elif isinstance(value, Distribution):
            inner = precise(value)
            if inner is not value:
                changed[name] = inner
    derived = {"probs", "logits"} if "probs" in own and "logits" in own else set()
    derived.discard("logits" if given_probs(q) is None else "probs")
    if not changed and not derived:
        return q
    names = set(q.arg_constraints) if isinstance(q.arg_constraints, dict) else set()
    if casts and names and names == set(inspect.signature(type(q)).parameters) - {"validate_args"}:
        # the constructor may derive more of them (Gumbel: the ends of a uniform distribution, by their type)
        return type(q)(**{name: getattr(q, name).float() for name in names}, validate_args=q._validate_args)  # type: ignore[attr-defined]
    new = copy.copy(q)
    new.__dict__.update(changed)
    for name in derived:
        del new.__dict__[name]
    return new


def given_probs(q: Distribution) -> Tensor | None:
    """Return the probabilities that a discrete distribution was made with; None if it was made with logits."""
    own = vars(q._categorical if isinstance(q, OneHotCategorical) else q)
    if "probs" not in own or ("logits" in own and own.get("_param") is not own["probs"]):
        return None
    return own["probs"]


def exact_logits(q: Any) -> Tensor:
    """Return logits, infinite where a probability is exactly 0 or 1; these have no gradient."""
    probs = given_probs(q)
    if probs is None:
        return q.logits
    if isinstance(q, Bernoulli):
        return safe_log(probs) - safe_log(1 - probs)
    return safe_log(probs) - probs.sum(-1, keepdim=True).log()


def safe_log(x: Tensor) -> Tensor:
    """Return the logarithm; that of 0 is minus infinity, without a gradient."""
    return torch.where(x > 0, torch.where(x > 0, x, 1).log(), -math.inf)
