"""Gumbel-Rao: the mean gradient of the straight-through Gumbel-Softmax, less variance, stability."""

from __future__ import annotations

import pytest
import torch
from strength import strengths
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical

from vaekit import expectation
from vaekit.estimators import Estimator, GumbelRao, GumbelSoftmax
from vaekit.exceptions import EstimatorError

_F64 = torch.float64
LOGITS = torch.tensor([[0.5, -0.8, 1.1], [0.2, 0.9, -0.4]], dtype=_F64)


def node(kind: str, logits: Tensor) -> Distribution:
    """Return the distribution of ``[batch, 2, 3]`` logits: two one-hot variables, or six binary ones."""
    if kind == "bernoulli":
        return Independent(Bernoulli(logits=logits), 2)
    return Independent(OneHotCategorical(logits=logits), 1)


def cost(z: Tensor) -> Tensor:
    slope = torch.tensor([[1.0, -0.6, 0.4], [0.3, 0.8, -1.0]], dtype=z.dtype)
    total = (slope * z).sum((-1, -2))
    return (total - 0.3) ** 2 + torch.sin(2 * total)


def gradients(kind: str, estimator: Estimator, replicates: int) -> Tensor:
    logits = LOGITS.expand(replicates, 2, 3).clone().requires_grad_()
    total = expectation(cost, node(kind, logits), estimator)
    return torch.autograd.grad(total.sum(), logits)[0]


@strengths
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("kind", ["bernoulli", "categorical"])
def test_mean_equals_that_of_straight_through_gumbel_softmax_and_variance_is_lower(
    kind: str, temperature: float, fraction: float
) -> None:
    count = int(400_000 * fraction)
    plain = gradients(kind, GumbelSoftmax(temperature, hard=True), count)
    actual = {n: gradients(kind, GumbelRao(temperature, num_inner=n), count) for n in (1, 5)}
    for rao in actual.values():
        error = ((plain.var(0) + rao.var(0)) / count).sqrt()
        assert error.norm() < 0.02 / fraction**0.5 * plain.mean(0).norm()
        assert ((plain.mean(0) - rao.mean(0)).abs() < 4 * error).all()
    torch.testing.assert_close(actual[1].var(0), plain.var(0), rtol=0.06 / fraction**0.5, atol=0)
    assert (actual[5].var(0) < plain.var(0)).all()
    assert actual[5].var(0).sum() < 0.9 * plain.var(0).sum()


@strengths
@pytest.mark.parametrize("kind", ["bernoulli", "categorical"])
def test_variance_falls_towards_that_of_the_conditional_mean(kind: str, fraction: float) -> None:
    """V(n) = V_inf + (V_1 - V_inf) / n, the law of total variance."""
    v = {
        n: float(gradients(kind, GumbelRao(0.3, num_inner=n), int(200_000 * fraction)).var(0).sum())
        for n in (1, 2, 4, 20)
    }
    slope = (v[1] - v[20]) / (1 - 1 / 20)
    for n in (2, 4):  # 0.08 is about four standard errors of a variance
        assert v[n] == pytest.approx(v[1] - slope * (1 - 1 / n), rel=0.08 / fraction**0.5)
    assert v[20] < 0.8 * v[1]


def test_evaluates_the_cost_once_a_sample() -> None:
    rows = []
    logits = LOGITS.expand(5, 2, 3).clone().requires_grad_()
    expectation(lambda z: rows.append(z.shape[0]) or cost(z), node("categorical", logits), GumbelRao(num_samples=3))
    assert rows == [3]


ESTIMATORS = [
    pytest.param(lambda t: GumbelRao(t, num_inner=4), id="rao"),
    pytest.param(lambda t: GumbelSoftmax(t, hard=True), id="hard"),
    pytest.param(lambda t: GumbelSoftmax(t), id="soft"),
]


@pytest.mark.parametrize("make", ESTIMATORS)
@pytest.mark.parametrize("scale", [1.0, 1e2, 1e30, 3e38])
@pytest.mark.parametrize("temperature", [0.01, 100.0])
@pytest.mark.parametrize("kind", ["bernoulli", "categorical"])
def test_stays_finite_in_single_precision(kind: str, temperature: float, scale: float, make) -> None:
    row = torch.tensor([[0.5, -0.5, 0.0], [0.5, 0.5, 0.5]]) * scale
    logits = row.repeat(20_000, 1, 1).requires_grad_()
    total = expectation(lambda z: (z * torch.arange(3.0)).sum((-1, -2)), node(kind, logits), make(temperature))
    (gradient,) = torch.autograd.grad(total.sum(), logits)
    assert total.dtype == gradient.dtype == torch.float32
    assert total.isfinite().all()
    assert gradient.isfinite().all()


@strengths
@pytest.mark.parametrize("make", ESTIMATORS)
@pytest.mark.parametrize("kind", ["bernoulli", "categorical"])
def test_single_precision_agrees_with_double_at_a_cold_temperature(kind: str, make, fraction: float) -> None:
    """The gradient is rare and large: both means agree within their standard errors."""
    slope = torch.tensor([[1.0, -0.6, 0.4], [0.3, 0.8, -1.0]])
    moments = []
    for dtype in (torch.float32, _F64):
        logits = LOGITS.to(dtype).expand(int(300_000 * fraction), 2, 3).clone().requires_grad_()
        q = node(kind, logits)
        total = expectation(lambda z: (z * slope.to(z)).sum((-1, -2)), q, make(0.01))
        gradient = torch.autograd.grad(total.sum(), logits)[0].double()
        moments.append((gradient.mean(0), gradient.var(0) / len(gradient)))
    (single, single_error), (double, double_error) = moments
    assert ((single - double).abs() < 4 * (single_error + double_error).sqrt()).all()


@pytest.mark.parametrize("make", ESTIMATORS)
def test_schedule_may_change_the_temperature(make) -> None:
    estimator, fresh = make(2.0), make(0.1)
    estimator.temperature.fill_(0.1)
    actual = []
    for e in (estimator, fresh):
        torch.manual_seed(6)
        actual.append(gradients("categorical", e, 50))
    assert torch.equal(*actual)
    restored = make(2.0)
    restored.load_state_dict(estimator.state_dict())
    assert restored.temperature == torch.tensor(0.1)


def test_wrong_arguments_are_rejected() -> None:
    for temperature in (0.0, -1.0):
        with pytest.raises(EstimatorError, match="GumbelRao: temperature="):
            GumbelRao(temperature)
    with pytest.raises(EstimatorError, match="GumbelRao: num_inner=0 must"):
        GumbelRao(num_inner=0)
    with pytest.raises(EstimatorError, match="GumbelRao: num_samples=0 must"):
        GumbelRao(num_samples=0)
