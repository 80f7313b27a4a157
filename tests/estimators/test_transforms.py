"""Expectations inside the transforms of torch.func: the same estimates, or one error of vaekit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, Normal
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import vaekit
from vaekit.estimators import REBAR, Enumerate, Estimator, LeaveOneOut, MovingAverage, MuProp, Pathwise, ScoreFunction
from vaekit.exceptions import EstimatorError

from .conformance import UNBIASED, Row

REPLICATES, THRESHOLD = 4000, 4.0
WAYS: dict[str, Callable[[Callable, Tensor], Tensor]] = {
    "grad": lambda f, t: grad(lambda t: f(t).sum())(t),
    "vmap(grad)": lambda f, t: vmap(grad(f), randomness="different")(t),
    "grad(vmap)": lambda f, t: grad(lambda t: vmap(f, randomness="different")(t).sum())(t),
    "jacrev": lambda f, t: jacrev(lambda t: f(t).sum())(t),
    "jvp": lambda f, t: jvp(f, (t,), (torch.ones_like(t),))[1],
}
by_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def bernoulli(t: Tensor) -> Distribution:
    return torch.distributions.Bernoulli(logits=t, validate_args=False)


def normal(t: Tensor) -> Distribution:
    return Normal(t, 1.0, validate_args=False)


def value_of(estimator: Estimator | str, q: Callable, cost: Callable) -> Callable[[Tensor], Tensor]:
    return lambda t: vaekit.expectation(cost, q(t), estimator)


def square(value: Tensor) -> Tensor:
    return (value - 0.45) ** 2


def agrees(actual: Tensor, exact: float) -> None:
    error = actual.std() / len(actual) ** 0.5
    assert abs(actual.mean() - exact) < THRESHOLD * error + 1e-9


@by_way
@pytest.mark.parametrize("row", [row for row in UNBIASED if not row.stateful], ids=lambda row: row.name)
def test_gradient_is_right_or_rejected(row: Row, way: Callable) -> None:
    torch.manual_seed(0)
    estimator, binary = row.make(), "bernoulli" in row.kinds
    t = torch.full((REPLICATES,), 0.3, dtype=torch.float64)
    f = value_of(estimator, bernoulli if binary else normal, square)
    if estimator.differentiates_cost:
        with pytest.raises(EstimatorError, match=r"inside the step.*Use DisARM"):
            way(f, t)
        return
    p = torch.tensor(0.3, dtype=torch.float64).sigmoid().item()
    agrees(way(f, t), p * (1 - p) * (0.55**2 - 0.45**2) if binary else 2 * (0.3 - 0.45))


@by_way
@pytest.mark.parametrize("estimator", [Pathwise(), "auto"], ids=str)
def test_cost_without_a_path_is_not_a_silent_zero(estimator: Estimator | str, way: Callable) -> None:
    torch.manual_seed(0)
    t = torch.full((REPLICATES,), 0.3, dtype=torch.float64)
    f = value_of(estimator, normal, lambda z: (z - 0.45).sign())
    if estimator == "auto":
        agrees(way(f, t), 2 * Normal(0.0, 1.0).log_prob(torch.tensor(0.15)).exp().item())
        return
    with pytest.raises(EstimatorError, match="no gradient path"):
        way(f, t)


@pytest.mark.parametrize("transform", [hessian, lambda f: vmap(f), jacfwd], ids=["hessian", "vmap", "jacfwd"])
def test_random_numbers_within_vmap_need_a_flag(transform: Callable) -> None:
    t = torch.full((3,), 0.3)
    with pytest.raises(EstimatorError, match=r"Pass randomness='different'"):
        transform(value_of(ScoreFunction(), bernoulli, square))(t)
    assert transform(value_of(Enumerate(), bernoulli, square))(t).isfinite().all()


@by_way
@pytest.mark.parametrize("make", [MuProp, REBAR, lambda: ScoreFunction(baseline=MovingAverage())])
def test_others_are_rejected_by_name(make: Callable[[], Estimator], way: Callable) -> None:
    with pytest.raises(EstimatorError, match=r"(MuProp|REBAR|ScoreFunction) .* Use|learns from costs"):
        way(value_of(make(), bernoulli, square), torch.full((3,), 0.3))


def test_failures_of_torch_are_errors_of_vaekit() -> None:
    f = value_of(Pathwise(), lambda t: Gamma(t.exp(), 1.0, validate_args=False), square)
    with pytest.raises(EstimatorError, match=r"transform of torch.func.*Use torch.autograd.grad"):
        jvp(f, (torch.zeros(3),), (torch.ones(3),))


def test_errors_of_the_cost_are_unchanged() -> None:
    def broken(value: Tensor) -> Tensor:
        raise RuntimeError("the simulator is down")

    with pytest.raises(RuntimeError, match="simulator is down") as caught:
        vaekit.expectation(broken, Normal(torch.zeros(3), 1.0), ScoreFunction(baseline=LeaveOneOut()))
    assert not isinstance(caught.value, EstimatorError)


def test_importance_weighted_bound_rejects_forward_mode() -> None:
    def bound(t: Tensor) -> Tensor:
        return vaekit.importance_weighted_bound(lambda z: -(z**2), normal(t), num_samples=3)

    with pytest.raises(EstimatorError, match="forward mode"):
        jvp(bound, (torch.zeros(3),), (torch.ones(3),))
