"""Learned baselines, critics and control variates depend on the costs only, not on the caller's use of the value."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

import vaekit
from vaekit.batch import Batch
from vaekit.estimators import REBAR, RELAX, Critic, Estimator, LearnedBaseline, MovingAverage, MuProp, ScoreFunction
from vaekit.likelihoods import Bernoulli as BernoulliLikelihood
from vaekit.models import DiscreteVAE

FEATURES, BATCH = 3, 20
CONTEXT = torch.randn(BATCH, FEATURES, generator=torch.Generator().manual_seed(0))


def linear(features: int = FEATURES) -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(features, 1)


MAKERS: dict[str, Callable[[], Estimator]] = {
    "learned": lambda: ScoreFunction(2, LearnedBaseline(linear())),
    "critic": lambda: ScoreFunction(2, critic=Critic(linear())),
    "both": lambda: ScoreFunction(2, LearnedBaseline(linear()), critic=Critic(linear()), lam=0.5),
    "muprop": lambda: MuProp(2, LearnedBaseline(linear())),
    "rebar": lambda: REBAR(num_samples=2),
    "relax": lambda: RELAX(linear(1 + FEATURES)),
    "relax_black_box": lambda: RELAX(linear(1 + FEATURES), temperature=None),
}
by_estimator = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def total_of(estimator: Estimator, logits: Tensor) -> Tensor:
    torch.manual_seed(2)
    return vaekit.expectation(
        lambda b: (b - 0.45) ** 2 + CONTEXT[:, 0], Bernoulli(logits=logits), estimator, context=CONTEXT
    )


def learned_gradient(make: Callable[[], Estimator], use: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Return the gradients of the estimator's parameters if the caller minimizes ``use(total)``."""
    estimator = make()
    use(total_of(estimator, torch.zeros(BATCH, requires_grad=True))).backward()
    return [p.grad for p in estimator.parameters() if p.grad is not None]


USES: dict[str, Callable[[Tensor], Tensor]] = {
    "maximized": lambda total: -total.mean(),
    "sum": lambda total: total.sum(),
    "tiny": lambda total: 1e-3 * total.mean(),
    "difference": lambda total: total[:10].sum() - total[10:].sum(),
    "nonlinear": lambda total: (1 - total).mean().exp(),
}


@by_estimator
@pytest.mark.parametrize("use", ["maximized", "sum", "tiny", "difference", "nonlinear"])
def test_gradient_of_learned_parts_does_not_depend_on_the_use_of_the_value(
    make: Callable[[], Estimator], use: str
) -> None:
    expected = learned_gradient(make, torch.mean)
    assert expected
    assert all(gradient.abs().sum() > 0 for gradient in expected)
    for actual, gradient in zip(learned_gradient(make, USES[use]), expected, strict=True):
        torch.testing.assert_close(actual, gradient, rtol=1e-4, atol=1e-6)


@by_estimator
def test_observations_that_the_caller_ignores_do_not_train(make: Callable[[], Estimator]) -> None:
    assert all((gradient == 0).all() for gradient in learned_gradient(make, lambda total: 0 * total.sum()))


@by_estimator
def test_gradient_is_that_of_the_mean_loss_added_over_calls(make: Callable[[], Estimator]) -> None:
    """The gradients of two backward passes add up, as for any parameter."""
    once = learned_gradient(make, torch.mean)
    estimator = make()
    total = total_of(estimator, torch.zeros(BATCH, requires_grad=True))
    for sign in (1, -1):
        (sign * total).mean().backward(retain_graph=True)
    actual = [p.grad for p in estimator.parameters() if p.grad is not None]
    for twice, gradient in zip(actual, once, strict=True):
        torch.testing.assert_close(twice, 2 * gradient)


@by_estimator
@pytest.mark.parametrize("how", ["eval", "no_grad", "inference_mode"])
def test_nothing_is_learned_in_evaluation(make: Callable[[], Estimator], how: str) -> None:
    estimator = make()
    total_of(estimator, torch.zeros(BATCH, requires_grad=True))  # a state that is not initial
    before = copy.deepcopy(estimator.state_dict())
    logits = torch.zeros(BATCH, requires_grad=True)
    if how == "eval":
        total_of(estimator.eval(), logits).sum().backward()
        assert logits.grad is not None
        assert all(p.grad is None for p in estimator.parameters())
    else:
        with getattr(torch, how)():
            total_of(estimator, logits)
    assert all(torch.equal(value, before[name]) for name, value in estimator.state_dict().items())


def test_a_frozen_baseline_of_an_estimator_in_training_does_not_change() -> None:
    estimator = ScoreFunction(2, MovingAverage())
    estimator.baseline.eval()
    total_of(estimator, torch.zeros(BATCH, requires_grad=True))
    assert estimator.baseline.running.seen == 0


@pytest.mark.parametrize("scale", [1.0, -1.0, 1024.0, 0.25])
def test_in_a_model_learned_parts_follow_the_size_of_the_loss_but_not_its_sign(scale: float) -> None:
    """A gradient scaler multiplies the loss and divides all gradients; accumulation divides the loss."""

    def gradients(scale: float) -> list[Tensor]:
        torch.manual_seed(0)
        model = DiscreteVAE(4, BernoulliLikelihood(), variables=2, categories=3, hidden=[3], estimator=REBAR())
        total = model.loss(Batch((torch.rand(6, 4) > 0.5).float()), training=True).total
        (scale * total.mean()).backward()
        return [p.grad for p in model.estimators["y"].parameters()]

    for actual, expected in zip(gradients(scale), gradients(1.0), strict=True):
        assert expected != 0
        torch.testing.assert_close(actual, abs(scale) * expected)
