"""Distributions with probabilities of exactly 0 or 1: their exact values, their estimates, and the comparison."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Categorical, Distribution, Independent, OneHotCategorical, Poisson

from vaekit import distributions, expectation
from vaekit.estimators import Estimator

from .conformance import CONTEXT_FEATURES, PARTS, TABLE

COUNT = 1500  # independent entries of the batch, over which gradients are averaged
INF = math.inf


class Zero(NamedTuple):
    """A distribution with states of probability 0.

    Attributes
    ----------
    make : callable
        Constructor of the distribution, batch shape (*batch), from its parameter.
    parameter : Tensor
        The parameter of one entry of the batch.
    states : Tensor, shape (states, *event)
        All states of the support.
    prob : callable
        Differentiable function from the parameter to the probabilities of the states.
    """

    make: Callable[[Tensor], Distribution]
    parameter: Tensor
    states: Tensor
    prob: Callable[[Tensor], Tensor]


def binary(p: Tensor) -> Tensor:
    return torch.stack([1 - p, p], -1)


def product(weights: Tensor) -> Tensor:
    """Return the probabilities of all states of two variables from their probabilities ``[2, K]``."""
    return (weights[0][:, None] * weights[1]).flatten()


def normalized(p: Tensor) -> Tensor:
    return p / p.sum(-1, keepdim=True)


def binomial(p: Tensor) -> Tensor:
    return torch.stack([(1 - p) ** 2, 2 * p * (1 - p), p**2])


BITS, EYE = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2))), torch.eye(3)
PAIRS = torch.stack([EYE.repeat_interleave(3, 0), EYE.repeat(3, 1)], 1)
VECTOR = torch.tensor([[0.2, 0.0, 0.8], [1.0, 0.0, 0.0]])
MASKED = torch.tensor([0.3, -INF, 0.0])
ONE = torch.tensor
KINDS = {
    "bernoulli_probs_0": Zero(lambda t: Bernoulli(t), ONE(0.0), torch.arange(2.0), binary),
    "bernoulli_probs_1": Zero(lambda t: Bernoulli(t), ONE(1.0), torch.arange(2.0), binary),
    "bernoulli_logits_-inf": Zero(
        lambda t: Bernoulli(logits=t), ONE(-INF), torch.arange(2.0), lambda t: binary(t.sigmoid())
    ),
    "bernoulli_logits_inf": Zero(
        lambda t: Bernoulli(logits=t), ONE(INF), torch.arange(2.0), lambda t: binary(t.sigmoid())
    ),
    "bits_probs": Zero(
        lambda t: Independent(Bernoulli(t), 1), torch.tensor([0.0, 0.3]), BITS, lambda t: product(binary(t))
    ),
    "bits_probs_both": Zero(
        lambda t: Independent(Bernoulli(t), 1), torch.tensor([0.0, 1.0]), BITS, lambda t: product(binary(t))
    ),
    "bits_logits": Zero(
        lambda t: Independent(Bernoulli(logits=t), 1),
        torch.tensor([INF, 0.3]),
        BITS,
        lambda t: product(binary(t.sigmoid())),
    ),
    "one_hot_probs": Zero(lambda t: OneHotCategorical(t), torch.tensor([0.6, 0.0, 1.4]), EYE, normalized),
    "one_hot_ours": Zero(lambda t: distributions.OneHotCategorical(t), torch.tensor([0.0, 0.0, 1.0]), EYE, normalized),
    "one_hot_logits": Zero(lambda t: OneHotCategorical(logits=t), MASKED, EYE, lambda t: t.softmax(-1)),
    "one_hots_probs": Zero(
        lambda t: Independent(OneHotCategorical(t), 1), VECTOR, PAIRS, lambda t: product(normalized(t))
    ),
    "one_hots_logits": Zero(
        lambda t: Independent(distributions.OneHotCategorical(logits=t), 1),
        torch.stack([MASKED, torch.tensor([-INF, 0.0, -INF])]),
        PAIRS,
        lambda t: product(t.softmax(-1)),
    ),
    "categorical_probs": Zero(lambda t: Categorical(t), torch.tensor([0.5, 0.5, 0.0]), torch.arange(3), normalized),
    "categorical_logits": Zero(lambda t: Categorical(logits=t), MASKED, torch.arange(3), lambda t: t.softmax(-1)),
    "binomial_0": Zero(lambda t: Binomial(2, t), ONE(0.0), torch.arange(3.0), binomial),
    "binomial_1": Zero(lambda t: Binomial(2, t), ONE(1.0), torch.arange(3.0), binomial),
    "binomial_logits": Zero(
        lambda t: Binomial(2, logits=t), ONE(-INF), torch.arange(3.0), lambda t: binomial(t.sigmoid())
    ),
    "bernoulli_logits_-30": Zero(
        lambda t: Bernoulli(logits=t), ONE(-30.0), torch.arange(2.0), lambda t: binary(t.sigmoid())
    ),
    "bits_logits_30": Zero(
        lambda t: Independent(Bernoulli(logits=t), 1),
        torch.tensor([30.0, -30.0]),
        BITS,
        lambda t: product(binary(t.sigmoid())),
    ),
    "one_hot_logits_30": Zero(
        lambda t: OneHotCategorical(logits=t), torch.tensor([30.0, 0.0, -30.0]), EYE, lambda t: t.softmax(-1)
    ),
    "one_hots_logits_30": Zero(
        lambda t: Independent(distributions.OneHotCategorical(logits=t), 1),
        torch.tensor([[0.0, 30.0, 29.0], [0.0, 0.0, -30.0]]),
        PAIRS,
        lambda t: product(t.softmax(-1)),
    ),
    "poisson_0": Zero(lambda t: Poisson(t), ONE(0.0), torch.arange(2.0), lambda t: torch.stack([1 - t, t])),
}
UNBIASED = {row.name: row for row in TABLE + PARTS if row.unbiased}
CASES = [
    (kind, name)
    for kind, zero in KINDS.items()
    for name, row in UNBIASED.items()
    if row.make().supports(zero.make(zero.parameter))
]


def cost_of(values: Tensor, event: int, impossible: float | None = None, states: Any = None) -> Tensor:
    """Return a nonlinear cost; ``impossible`` replaces it at the given states."""
    flat = values.double().flatten(-event) if event else values.double()[..., None]
    weight = torch.linspace(0.7, 2.1, flat.shape[-1], dtype=torch.float64)
    cost = (flat * weight + 0.3).sum(-1) ** 2
    if impossible is None or not len(states):
        return cost
    bad = torch.stack(
        [(values == state).flatten(values.dim() - event).all(-1) if event else values == state for state in states]
    ).any(0)
    return torch.where(bad, impossible, cost)


def exact(zero: Zero) -> tuple[Tensor, Tensor]:
    """Return the value and the gradient by autograd; the gradient of infinite logits is 0."""
    leaf = zero.parameter.double().requires_grad_()
    value = (zero.prob(leaf) * cost_of(zero.states, zero.states.dim() - 1)).sum()
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), torch.where(zero.parameter.isfinite(), gradient, 0)


def estimate(zero: Zero, estimator: Estimator, bad: float | None = None) -> tuple[Tensor, Tensor]:
    """Return values ``[COUNT]`` and gradients ``[COUNT, components]``, one per entry of the batch."""
    torch.manual_seed(0)
    leaf = zero.parameter.expand(COUNT, *zero.parameter.shape).clone().requires_grad_()
    states = zero.states[zero.prob(zero.parameter) == 0]
    event = zero.states.dim() - 1
    context = torch.zeros(COUNT, CONTEXT_FEATURES)
    total = expectation(lambda z: cost_of(z, event, bad, states), zero.make(leaf), estimator, context=context)
    (gradient,) = torch.autograd.grad(total.sum(), leaf)
    return total.detach(), gradient.reshape(COUNT, -1).double()


def assert_mean(actual: Tensor, expected: Tensor) -> None:
    """Compare means over the entries: |z| < 4.5, or rounding without variance."""
    error = actual.std(0) / COUNT**0.5
    assert ((actual.mean(0) - expected).abs() <= 4.5 * error + 2e-4 * (1 + expected.abs())).all(), (
        actual.mean(0),
        expected,
    )
