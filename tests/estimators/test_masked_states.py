"""Impossible states: never evaluated if masked by logits, evaluated for the gradient by probs of exactly 0."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Geometric,
    Multinomial,
    NegativeBinomial,
    OneHotCategorical,
)

from vaekit import expectation
from vaekit.estimators import (
    Enumerate,
    Estimator,
    LeaveOneOut,
    LocalExpectation,
    MeasureValued,
    RaoBlackwell,
    ScoreFunction,
    UnorderedSet,
)

LISTING: dict[str, Callable[[], Estimator]] = {
    "enumerate": Enumerate,
    "local_expectation": LocalExpectation,
    "measure_valued": lambda: MeasureValued(2),
    "rao_blackwell": RaoBlackwell,
    "unordered_set": UnorderedSet,
}


@pytest.mark.parametrize("name", LISTING)
def test_states_masked_by_logits_are_not_evaluated(name: str) -> None:
    """The derivative by a parameter of the cost is infinite there, and infinity times 0 is NaN."""
    scale = torch.tensor(2.0, requires_grad=True)
    logits = torch.tensor([[0.0, -math.inf, 0.5], [-math.inf, 1.0, -math.inf]], requires_grad=True)
    seen = []

    def cost(z: Tensor) -> Tensor:
        seen.append(z.detach())
        return (scale * (z * torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])).sum(-1)).log()

    expectation(cost, OneHotCategorical(logits=logits), LISTING[name]()).sum().backward()
    assert (seen[0] * logits.detach().isinf()).sum() == 0
    assert scale.grad is not None
    assert logits.grad is not None
    torch.testing.assert_close(scale.grad, torch.tensor(1.0))
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("make", "probs", "exact"),
    [
        (lambda p: Geometric(probs=p), 1.0, -3.0),  # (2 - p) / p^2
        (lambda p: NegativeBinomial(torch.tensor(3.0), probs=p), 0.0, 9.0),
    ],
)
def test_counts_that_are_certainly_0(make: Callable[[Tensor], Distribution], probs: float, exact: float) -> None:
    p = torch.tensor(probs, requires_grad=True)
    expectation(lambda z: (z + 1) ** 2, make(p), ScoreFunction(3)).backward()
    assert p.grad is not None
    torch.testing.assert_close(p.grad, torch.tensor(exact))


def test_multinomial_with_a_probability_of_0() -> None:
    """E = 3 p.f, of normalized probabilities."""
    p = torch.tensor([0.5, 0.5, 0.0], requires_grad=True)
    torch.manual_seed(0)
    factor = torch.tensor([1.0, 3.0, 7.0])
    q = Multinomial(3, probs=p)
    expectation(lambda z: (z * factor).sum(-1), q, ScoreFunction(30_000, baseline=LeaveOneOut())).backward()
    assert p.grad is not None
    torch.testing.assert_close(p.grad, torch.tensor([-3.0, 3.0, 15.0]), rtol=0.02, atol=0.0)


def test_the_error_of_a_cost_at_an_impossible_state_has_a_note() -> None:
    table = torch.tensor([1.0, 2.0])
    p = torch.tensor([0.5, 0.5, 0.0], requires_grad=True)
    with pytest.raises(IndexError) as error:
        expectation(lambda z: table[z], Categorical(probs=p), ScoreFunction(2))
    assert "logits of minus infinity" in error.value.__notes__[0]
    masked = p.detach().log().requires_grad_()
    assert expectation(lambda z: table[z], Categorical(logits=masked), Enumerate()) == 1.5
