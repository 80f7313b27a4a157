"""Probabilities of exactly 0 and 1: estimator x distribution x kind of zero, against sums over the possible states."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    OneHotCategorical,
    Poisson,
)

from vaekit import distributions, expectation, importance_weighted_bound
from vaekit.estimators import Enumerate, Estimator, LeaveOneOut, Pathwise, ScoreFunction

from .conformance import CONTEXT_FEATURES, CONTINUOUS, PARTS, TABLE, Row

COUNT = 1500  # independent entries of the batch, for the mean gradient
INF = math.inf


class Zero(NamedTuple):
    """A distribution with states of probability 0.

    Attributes
    ----------
    make
        From its parameter to the distribution, ``[*batch]``.
    parameter
        The parameter of one entry of the batch.
    states
        All states of its support, ``[states, *event]``.
    prob
        From the parameter to their probabilities, ``[states]``, differentiable.
    """

    make: Callable[[Tensor], Distribution]
    parameter: Tensor
    states: Tensor
    prob: Callable[[Tensor], Tensor]


def binary(p: Tensor) -> Tensor:
    return torch.stack([1 - p, p], -1)


def product(shares: Tensor) -> Tensor:
    """Return the probabilities of all states of two variables, from theirs ``[2, K]``."""
    return (shares[0][:, None] * shares[1]).flatten()


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
    """Return a cost that is not linear; of the impossible states, if requested, infinite or NaN."""
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
    """Return the value and the gradient by autograd; that of infinite logits is 0."""
    leaf = zero.parameter.double().requires_grad_()
    value = (zero.prob(leaf) * cost_of(zero.states, zero.states.dim() - 1)).sum()
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), torch.where(zero.parameter.isfinite(), gradient, 0)


def estimate(zero: Zero, estimator: Estimator, bad: float | None = None) -> tuple[Tensor, Tensor]:
    """Return values ``[COUNT]`` and gradients ``[COUNT, components]``, one entry of the batch each."""
    torch.manual_seed(0)
    leaf = zero.parameter.expand(COUNT, *zero.parameter.shape).clone().requires_grad_()
    states = zero.states[zero.prob(zero.parameter) == 0]
    event = zero.states.dim() - 1
    context = torch.zeros(COUNT, CONTEXT_FEATURES)
    total = expectation(lambda z: cost_of(z, event, bad, states), zero.make(leaf), estimator, context=context)
    (gradient,) = torch.autograd.grad(total.sum(), leaf)
    return total.detach(), gradient.reshape(COUNT, -1).double()


def check(found: Tensor, wanted: Tensor) -> None:
    """Compare means over the entries: |z| < 4.5, or rounding where nothing varies."""
    error = found.std(0) / COUNT**0.5
    assert ((found.mean(0) - wanted).abs() <= 4.5 * error + 2e-4 * (1 + wanted.abs())).all(), (found.mean(0), wanted)


@pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda x: x)
def test_value_and_gradient_are_the_exact_ones(kind: str, name: str) -> None:
    zero, estimator = KINDS[kind], UNBIASED[name].make()
    estimator.to(torch.float32)
    value, gradient = exact(zero)
    values, gradients = estimate(zero, estimator)
    check(values, value)
    check(gradients, gradient.flatten())
    assert all(p.grad is None or p.grad.isfinite().all() for p in estimator.parameters())


@pytest.mark.parametrize("bad", [INF, math.nan])
@pytest.mark.parametrize(("kind", "name"), [c for c in CASES if "30" not in c[0]], ids=lambda x: x)
def test_an_impossible_state_may_have_any_cost(kind: str, name: str, bad: float) -> None:
    """The value is right, and the gradient by possible probabilities and logits is as without it."""
    zero, row = KINDS[kind], UNBIASED[name]
    if row.make().requires_differentiable_cost:  # these differentiate the cost at values between the states
        bad = 1e6
    values, gradients = estimate(zero, row.make().to(torch.float32), bad)
    check(values, exact(zero)[0])
    assert gradients.isfinite().all()
    if "logits" in kind and not row.make().requires_differentiable_cost:
        check(gradients, exact(zero)[1].flatten())


@pytest.mark.parametrize("kind", [k for k in KINDS if "categorical" not in k and k[:3] not in ("bin", "poi")])
@pytest.mark.parametrize("row", [row for row in TABLE + PARTS if not row.unbiased], ids=lambda row: row.name)
def test_biased_estimators_stay_finite(kind: str, row: Row) -> None:
    zero, estimator = KINDS[kind], row.make().to(torch.float32)
    values, gradients = estimate(zero, estimator)
    if estimator.unbiased_value:
        check(values, exact(zero)[0])
    assert gradients.isfinite().all()
    if "logits" in kind:
        infinite = ~zero.parameter.flatten().isfinite()
        assert (gradients[:, infinite] == 0).all()


@pytest.mark.parametrize(
    ("kind", "name"),
    [c for c in CASES if c[1] in ("score_loo_2", "enumerate", "score_critic", "rao_blackwell", "muprop")],
)
def test_below_and_above_other_nodes(kind: str, name: str) -> None:
    """The same node given a certain parent, and as the parent of a normal variable."""
    zero, estimator = KINDS[kind], UNBIASED[name].make()
    torch.manual_seed(0)
    leaf = zero.parameter.expand(COUNT, *zero.parameter.shape).clone().requires_grad_()
    event = zero.states.dim() - 1
    certain = torch.full((COUNT,), INF)
    q = {
        "a": Bernoulli(logits=certain),
        "z": lambda a: zero.make(torch.where((a > 0).reshape(*a.shape, *[1] * zero.parameter.dim()), leaf, leaf)),
        "w": lambda z: Normal(cost_of(z, event), 1.0),
    }
    estimators = {"a": ScoreFunction(2, LeaveOneOut()), "z": estimator, "w": Pathwise()}
    total = expectation(lambda a, w: a * w, q, estimators)
    value, gradient = exact(zero)
    check(total.detach(), value)
    (found,) = torch.autograd.grad(total.sum(), leaf)
    check(found.reshape(COUNT, -1).double(), gradient.flatten())


CERTAIN = {
    "logit of infinity": lambda leaf: Bernoulli(logits=leaf + INF),
    "logit of 30": lambda leaf: Bernoulli(logits=leaf + 30),
    "probability of 1": lambda leaf: Bernoulli(leaf.detach() + 1),
}


@pytest.mark.parametrize("certain", CERTAIN.values(), ids=CERTAIN)
@pytest.mark.parametrize("kind", ["one_hot_logits", "bits_logits_30", "bernoulli_probs_0"])
@pytest.mark.parametrize("name", UNBIASED)
def test_given_a_certain_parent(name: str, kind: str, certain: Callable[[Tensor], Distribution]) -> None:
    zero, row = KINDS[kind], UNBIASED[name]
    if not row.make().supports(zero.make(zero.parameter)):
        zero = KINDS["bernoulli_probs_0"]  # ARM has binary variables alone, and continuous ones are below
        if not row.make().supports(zero.make(zero.parameter)):
            zero = None
    torch.manual_seed(0)
    above = torch.zeros(COUNT, requires_grad=True)
    parameter = torch.tensor([0.5, 1.5]) if zero is None else zero.parameter
    leaf = parameter.expand(COUNT, *parameter.shape).clone().requires_grad_()
    event = 1 if zero is None else zero.states.dim() - 1
    make = (lambda t: Independent(Normal(t, 1.0), 1)) if zero is None else zero.make
    if zero is None and name.startswith("pathwise"):
        assert set(row.kinds) == set(CONTINUOUS)
    q = {
        "a": certain(above),
        "z": lambda a: make(leaf.expand(*a.shape, *parameter.shape)),
    }
    cost = (lambda a, z: a * z.square().sum(-1)) if zero is None else (lambda a, z: a * cost_of(z, event))
    estimators = {"a": ScoreFunction(2, LeaveOneOut()), "z": row.make().to(torch.float32)}
    total = expectation(cost, q, estimators, context=torch.zeros(COUNT, CONTEXT_FEATURES))
    value, gradient = (parameter.square().sum() + 2, 2 * parameter) if zero is None else exact(zero)
    check(total.detach().double(), value)
    found, upwards = torch.autograd.grad(total.sum(), [leaf, above], allow_unused=True)
    check(found.reshape(COUNT, -1).double(), gradient.flatten())
    assert upwards is None or upwards.abs().max() < 1e-6


@pytest.mark.parametrize("name", [row.name for row in TABLE + PARTS])
@pytest.mark.parametrize("kind", ["one_hot_logits_30", "bits_logits_30", "bernoulli_logits_-30", "bits_probs"])
def test_a_batch_of_one_entry_is_as_none(name: str, kind: str) -> None:
    zero, row = KINDS[kind], {row.name: row for row in TABLE + PARTS}[name]
    if not row.make().supports(zero.make(zero.parameter)):
        zero = KINDS["bits_logits_30"]._replace(make=lambda t: Independent(Normal(t, 1.0), 1))
        if not row.make().supports(zero.make(zero.parameter)):  # ARM
            zero = KINDS["bits_logits_30"]
    found = []
    for batch in ((), (1,)):
        torch.manual_seed(0)
        leaf = zero.parameter.expand((*batch, *zero.parameter.shape)).clone().requires_grad_()
        event, context = zero.parameter.dim(), torch.zeros(*batch, CONTEXT_FEATURES)
        cost = lambda z, event=event: cost_of(z, event)  # noqa: E731
        total = expectation(cost, zero.make(leaf), row.make().to(torch.float32), context=context)
        (gradient,) = torch.autograd.grad(total.sum(), leaf)
        assert gradient.isfinite().all()
        found.append((total.detach().reshape(()), gradient.reshape(zero.parameter.shape)))
    torch.testing.assert_close(*found)


def test_joint_samples_warn_of_the_states_that_they_miss() -> None:
    p = torch.zeros(5, requires_grad=True)
    with pytest.warns(UserWarning, match="node 'value': some probabilities are exactly 0"):
        total = expectation(lambda z: (z - 0.45) ** 2, Bernoulli(p), ScoreFunction(), num_samples=4)
    total.sum().backward()
    assert p.grad.isfinite().all()


@pytest.mark.parametrize("baseline", [None, LeaveOneOut])
@pytest.mark.parametrize("kind", [k for k in KINDS if "logits" in k])
def test_importance_weighted_bound(kind: str, baseline: Any) -> None:
    """Of two samples, against the sum over all pairs of states; impossible ones have an infinite log p."""
    zero = KINDS[kind]
    event = zero.states.dim() - 1
    impossible = zero.states[zero.prob(zero.parameter) == 0]
    log_joint = lambda z: -cost_of(z, event, INF, impossible)  # noqa: E731
    leaf = zero.parameter.double().requires_grad_()
    prob = zero.prob(leaf)
    possible = prob.detach() > 0
    log_w = -cost_of(zero.states, event)[possible] - prob[possible].log()
    pairs = torch.logaddexp(log_w[:, None], log_w) - math.log(2)
    wanted = (prob[possible][:, None] * prob[possible] * pairs).sum()
    (gradient,) = torch.autograd.grad(wanted, leaf)
    torch.manual_seed(0)
    leaves = zero.parameter.expand(COUNT, *zero.parameter.shape).clone().requires_grad_()
    estimator = ScoreFunction(baseline=baseline() if baseline else None)
    bound = importance_weighted_bound(log_joint, zero.make(leaves), estimator, num_samples=2)
    check(bound.detach(), wanted.detach())
    (found,) = torch.autograd.grad(bound.sum(), leaves)
    check(found.reshape(COUNT, -1).double(), torch.where(zero.parameter.isfinite(), gradient, 0).flatten())


@pytest.mark.parametrize("family", [MixtureSameFamily, distributions.MixtureSameFamily])
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("by", ["probs", "logits"])
def test_mixture_members_of_weight_zero(family: Any, vector: bool, by: str) -> None:
    weight = torch.tensor([0.4, 0.0, 0.6])
    mean = torch.tensor([-1.0, 0.5, 2.0])
    count = 8000

    def make(leaf: Tensor) -> Distribution:
        at = mean.expand(count, 3)
        component = Normal(at[..., None].expand(count, 3, 2), 1.0) if vector else Normal(at, 1.0)
        return family(Categorical(**{by: leaf}), Independent(component, 1) if vector else component)

    if by == "logits":
        weight = weight.log()
    wanted_leaf = weight.clone().requires_grad_()
    share = normalized(wanted_leaf) if by == "probs" else wanted_leaf.softmax(-1)
    (wanted,) = torch.autograd.grad((share * (mean**2 + 1)).sum(), wanted_leaf)
    wanted = torch.where(weight.isfinite(), wanted, 0).double()
    estimators: list[Estimator] = [ScoreFunction(4, LeaveOneOut())]
    if family is distributions.MixtureSameFamily:
        estimators.append(Pathwise())
    for estimator in estimators:
        torch.manual_seed(0)
        leaf = weight.expand(count, 3).clone().requires_grad_()
        cost = lambda z: z.square().mean(-1) if vector else z.square()  # noqa: E731
        total = expectation(cost, make(leaf), estimator)
        (found,) = torch.autograd.grad(total.sum(), leaf)
        assert found.isfinite().all()
        error = found.double().std(0) / count**0.5
        assert ((found.double().mean(0) - wanted).abs() <= 4.5 * error + 1e-4).all(), type(estimator)


def test_a_probability_that_float32_logits_lose() -> None:
    """Of 1e-8, which torch clamps: by the exact sum, value and gradient are right."""
    p = torch.tensor(1e-8, requires_grad=True)
    total = expectation(lambda b: 1e8 * b, Bernoulli(p), Enumerate())
    total.backward()
    assert total.item() == pytest.approx(1)
    assert p.grad.item() == pytest.approx(1e8)
