"""Nodes with probabilities of exactly 0 and 1 in graphs, bounds and mixtures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, MixtureSameFamily, Normal

from vaekit import distributions, expectation, importance_weighted_bound
from vaekit.estimators import Estimator, LeaveOneOut, Pathwise, ScoreFunction

from .conformance import CONTEXT_FEATURES, CONTINUOUS, PARTS, TABLE
from .zero_cases import (
    CASES,
    COUNT,
    INF,
    KINDS,
    UNBIASED,
    assert_mean,
    cost_of,
    exact,
    normalized,
)


@pytest.mark.parametrize(
    ("kind", "name"),
    [c for c in CASES if c[1] in ("score_loo_2", "enumerate", "score_critic", "rao_blackwell", "muprop")],
)
def test_below_and_above_other_nodes(kind: str, name: str) -> None:
    """The same node below a certain parent, and as the parent of a normal variable."""
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
    assert_mean(total.detach(), value)
    (actual,) = torch.autograd.grad(total.sum(), leaf)
    assert_mean(actual.reshape(COUNT, -1).double(), gradient.flatten())


CERTAIN = {
    "logit of infinity": lambda leaf: Bernoulli(logits=leaf + INF),
    "logit of 30": lambda leaf: Bernoulli(logits=leaf + 30),
    "probability of 1": lambda leaf: Bernoulli(leaf.detach() + 1),
}


@pytest.mark.parametrize("certain", CERTAIN.values(), ids=CERTAIN)
@pytest.mark.parametrize("kind", ["one_hot_logits", "bits_logits_30", "bernoulli_probs_0"])
@pytest.mark.parametrize("name", UNBIASED)
def test_below_a_certain_parent(name: str, kind: str, certain: Callable[[Tensor], Distribution]) -> None:
    zero, row = KINDS[kind], UNBIASED[name]
    if not row.make().supports(zero.make(zero.parameter)):
        zero = KINDS["bernoulli_probs_0"]  # ARM supports binary variables only; continuous ones follow
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
    assert_mean(total.detach().double(), value)
    actual, upwards = torch.autograd.grad(total.sum(), [leaf, above], allow_unused=True)
    assert_mean(actual.reshape(COUNT, -1).double(), gradient.flatten())
    assert upwards is None or upwards.abs().max() < 1e-6


@pytest.mark.parametrize("name", [row.name for row in TABLE + PARTS])
@pytest.mark.parametrize("kind", ["one_hot_logits_30", "bits_logits_30", "bernoulli_logits_-30", "bits_probs"])
def test_a_batch_of_one_entry_agrees_with_no_batch(name: str, kind: str) -> None:
    zero, row = KINDS[kind], {row.name: row for row in TABLE + PARTS}[name]
    if not row.make().supports(zero.make(zero.parameter)):
        zero = KINDS["bits_logits_30"]._replace(make=lambda t: Independent(Normal(t, 1.0), 1))
        if not row.make().supports(zero.make(zero.parameter)):  # ARM
            zero = KINDS["bits_logits_30"]
    actual = []
    for batch in ((), (1,)):
        torch.manual_seed(0)
        leaf = zero.parameter.expand((*batch, *zero.parameter.shape)).clone().requires_grad_()
        event, context = zero.parameter.dim(), torch.zeros(*batch, CONTEXT_FEATURES)
        cost = lambda z, event=event: cost_of(z, event)  # noqa: E731
        total = expectation(cost, zero.make(leaf), row.make().to(torch.float32), context=context)
        (gradient,) = torch.autograd.grad(total.sum(), leaf)
        assert gradient.isfinite().all()
        actual.append((total.detach().reshape(()), gradient.reshape(zero.parameter.shape)))
    torch.testing.assert_close(*actual)


@pytest.mark.parametrize("baseline", [None, LeaveOneOut])
@pytest.mark.parametrize("kind", [k for k in KINDS if "logits" in k])
def test_importance_weighted_bound(kind: str, baseline: Any) -> None:
    """The bound of two samples equals the sum over all pairs of states; impossible ones have an infinite log p."""
    zero = KINDS[kind]
    event = zero.states.dim() - 1
    impossible = zero.states[zero.prob(zero.parameter) == 0]
    log_joint = lambda z: -cost_of(z, event, INF, impossible)  # noqa: E731
    leaf = zero.parameter.double().requires_grad_()
    prob = zero.prob(leaf)
    possible = prob.detach() > 0
    log_w = -cost_of(zero.states, event)[possible] - prob[possible].log()
    pairs = torch.logaddexp(log_w[:, None], log_w) - math.log(2)
    expected = (prob[possible][:, None] * prob[possible] * pairs).sum()
    (gradient,) = torch.autograd.grad(expected, leaf)
    torch.manual_seed(0)
    leaves = zero.parameter.expand(COUNT, *zero.parameter.shape).clone().requires_grad_()
    estimator = ScoreFunction(baseline=baseline() if baseline else None)
    bound = importance_weighted_bound(log_joint, zero.make(leaves), estimator, num_samples=2)
    assert_mean(bound.detach(), expected.detach())
    (actual,) = torch.autograd.grad(bound.sum(), leaves)
    assert_mean(actual.reshape(COUNT, -1).double(), torch.where(zero.parameter.isfinite(), gradient, 0).flatten())


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
    fraction = normalized(wanted_leaf) if by == "probs" else wanted_leaf.softmax(-1)
    (expected,) = torch.autograd.grad((fraction * (mean**2 + 1)).sum(), wanted_leaf)
    expected = torch.where(weight.isfinite(), expected, 0).double()
    estimators: list[Estimator] = [ScoreFunction(4, LeaveOneOut())]
    if family is distributions.MixtureSameFamily:
        estimators.append(Pathwise())
    for estimator in estimators:
        torch.manual_seed(0)
        leaf = weight.expand(count, 3).clone().requires_grad_()
        cost = lambda z: z.square().mean(-1) if vector else z.square()  # noqa: E731
        total = expectation(cost, make(leaf), estimator)
        (actual,) = torch.autograd.grad(total.sum(), leaf)
        assert actual.isfinite().all()
        error = actual.double().std(0) / count**0.5
        assert ((actual.double().mean(0) - expected).abs() <= 4.5 * error + 1e-4).all(), type(estimator)
