"""Impossible and certain values: logits of plus or minus infinity."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli

from vaekit import expectation
from vaekit.distributions import OneHotCategorical
from vaekit.estimators import REBAR, RELAX, Estimator

LEARNED = {
    "rebar": REBAR,
    "relax": lambda: RELAX(torch.nn.Sequential(torch.nn.Linear(3, 1)), temperature=0.5),
}


@pytest.mark.parametrize("make", LEARNED.values(), ids=LEARNED)
@pytest.mark.parametrize("binary", [False, True])
def test_learned_control_variates_stay_finite(make, binary: bool) -> None:
    """The gradient by the other logits equals the gradient of the sum over the possible states."""
    torch.manual_seed(0)
    estimator: Estimator = make()
    row = torch.tensor([0.3, -torch.inf, 0.0] if not binary else [0.3, -torch.inf, torch.inf])
    logits = row.expand(20_000, 3).clone().requires_grad_()
    q = torch.distributions.Independent(Bernoulli(logits=logits), 1) if binary else OneHotCategorical(logits=logits)
    scale = torch.tensor([1.0, 2.0, 3.0])
    loss = expectation(lambda y: (y * scale).sum(-1) ** 2, q, estimator)
    assert loss.isfinite().all()
    loss.sum().backward()
    for name, parameter in estimator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    weight = torch.tensor([0.3, 0.0]).softmax(0) if not binary else torch.tensor(0.3).sigmoid()
    expected = weight[0] * weight[1] * (1 - 9) if not binary else weight * (1 - weight) * (16 - 9)
    actual = logits.grad[:, 0]
    assert ((actual.mean() - expected) / (actual.std() / len(actual) ** 0.5)).abs() < 4.5  # one false alarm in 100,000
    assert (logits.grad[:, 1] == 0).all()
