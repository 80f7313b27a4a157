"""Probabilities of exactly 0 and 1 for each estimator and distribution, compared with sums over the possible states."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli

from vaekit import expectation
from vaekit.estimators import Enumerate, ScoreFunction

from .conformance import PARTS, TABLE, Row
from .zero_cases import (
    CASES,
    INF,
    KINDS,
    UNBIASED,
    assert_mean,
    estimate,
    exact,
)


@pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda x: x)
def test_value_and_gradient_are_the_exact_ones(kind: str, name: str) -> None:
    zero, estimator = KINDS[kind], UNBIASED[name].make()
    estimator.to(torch.float32)
    value, gradient = exact(zero)
    values, gradients = estimate(zero, estimator)
    assert_mean(values, value)
    assert_mean(gradients, gradient.flatten())
    assert all(p.grad is None or p.grad.isfinite().all() for p in estimator.parameters())


@pytest.mark.parametrize("bad", [INF, math.nan])
@pytest.mark.parametrize(("kind", "name"), [c for c in CASES if "30" not in c[0]], ids=lambda x: x)
def test_an_impossible_state_may_have_any_cost(kind: str, name: str, bad: float) -> None:
    """The value is correct, and impossible states do not change the gradient by possible probabilities and logits."""
    zero, row = KINDS[kind], UNBIASED[name]
    if row.make().requires_differentiable_cost:  # differentiates the cost at values between the states
        bad = 1e6
    values, gradients = estimate(zero, row.make().to(torch.float32), bad)
    assert_mean(values, exact(zero)[0])
    assert gradients.isfinite().all()
    if "logits" in kind and not row.make().requires_differentiable_cost:
        assert_mean(gradients, exact(zero)[1].flatten())


@pytest.mark.parametrize("kind", [k for k in KINDS if "categorical" not in k and k[:3] not in ("bin", "poi")])
@pytest.mark.parametrize("row", [row for row in TABLE + PARTS if not row.unbiased], ids=lambda row: row.name)
def test_biased_estimators_stay_finite(kind: str, row: Row) -> None:
    zero, estimator = KINDS[kind], row.make().to(torch.float32)
    values, gradients = estimate(zero, estimator)
    if estimator.unbiased_value:
        assert_mean(values, exact(zero)[0])
    assert gradients.isfinite().all()
    if "logits" in kind:
        infinite = ~zero.parameter.flatten().isfinite()
        assert (gradients[:, infinite] == 0).all()


def test_joint_samples_warn_of_the_states_that_they_miss() -> None:
    p = torch.zeros(5, requires_grad=True)
    with pytest.warns(UserWarning, match="node 'value': some probabilities are exactly 0"):
        total = expectation(lambda z: (z - 0.45) ** 2, Bernoulli(p), ScoreFunction(), num_samples=4)
    total.sum().backward()
    assert p.grad.isfinite().all()


def test_a_probability_that_float32_logits_lose() -> None:
    """torch clamps a probability of 1e-8. The exact sum has the correct value and gradient."""
    p = torch.tensor(1e-8, requires_grad=True)
    total = expectation(lambda b: 1e8 * b, Bernoulli(p), Enumerate())
    total.backward()
    assert total.item() == pytest.approx(1)
    assert p.grad.item() == pytest.approx(1e8)
