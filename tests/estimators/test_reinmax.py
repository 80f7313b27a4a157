"""ReinMax is of second order: exact for quadratic costs, not for cubic ones."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical

from vaekit import expectation
from vaekit.estimators import Enumerate, Estimator, ReinMax, StraightThrough
from vaekit.exceptions import EstimatorError

_F64 = torch.float64
KINDS = ["bernoulli", "categorical"]


def node(kind: str, logits: Tensor) -> Distribution:
    """Return the distribution of a single variable with ``[batch]`` or ``[batch, 3]`` logits."""
    return Bernoulli(logits=logits) if kind == "bernoulli" else OneHotCategorical(logits=logits)


def leaf(kind: str) -> Tensor:
    torch.manual_seed(4)
    at = torch.tensor([-1.3, 0.0, 2.0] if kind == "bernoulli" else [[0.0, 0.0, 0.0], [1.2, -0.7, 0.1]])
    return at.to(_F64).requires_grad_()


def mean_gradient(estimator: Estimator, kind: str, logits: Tensor, cost) -> Tensor:
    """Return the exact mean of the estimator: all states with their probabilities replace its samples."""
    states = Enumerate().sample(node(kind, logits))
    actual = torch.zeros_like(logits)
    for value, weight in zip(states.value, states.weight.detach(), strict=True):
        module = type(estimator).__module__
        with mock.patch(f"{module}.sample_discrete", lambda q, shape, common_dims, v=value: v.expand(*shape, *v.shape)):
            total = expectation(cost, node(kind, logits), estimator)
        actual += torch.autograd.grad((weight * total).sum(), logits)[0]
    return actual


def exact_gradient(kind: str, logits: Tensor, cost) -> Tensor:
    return torch.autograd.grad(expectation(cost, node(kind, logits), Enumerate()).sum(), logits)[0]


def polynomial(kind: str, degree: int):
    """Return a cost of that degree in which the entries of a one-hot value interact."""
    direction = torch.tensor(1.0 if kind == "bernoulli" else [1.0, -0.6, 0.4], dtype=_F64)
    project = (lambda z: z) if kind == "bernoulli" else (lambda z: (direction * z).sum(-1))
    return lambda z: (project(z) - 0.3) ** degree


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_mean_gradient_is_exact_up_to_the_second_degree(kind: str, degree: int) -> None:
    logits, cost = leaf(kind), polynomial(kind, degree)
    torch.testing.assert_close(mean_gradient(ReinMax(), kind, logits, cost), exact_gradient(kind, logits, cost))


@pytest.mark.parametrize("kind", KINDS)
def test_quadratic_form_of_a_one_hot_value_is_exact(kind: str) -> None:
    logits, matrix = leaf(kind), torch.randn(3, 3, dtype=_F64)
    cost = (lambda z: 3 * z**2 - z) if kind == "bernoulli" else (lambda z: ((z @ matrix) * z).sum(-1))
    torch.testing.assert_close(mean_gradient(ReinMax(), kind, logits, cost), exact_gradient(kind, logits, cost))


@pytest.mark.parametrize("kind", KINDS)
def test_third_degree_is_biased_and_so_is_straight_through_from_the_second(kind: str) -> None:
    logits = leaf(kind)
    for estimator, degree in ((ReinMax(), 3), (StraightThrough(), 2)):
        cost = polynomial(kind, degree)
        exact = exact_gradient(kind, logits, cost)
        actual = mean_gradient(estimator, kind, logits, cost)
        assert (actual - exact).norm() > 0.02 * exact.norm(), type(estimator).__name__


@pytest.mark.parametrize("kind", KINDS)
def test_another_temperature_is_no_longer_exact(kind: str) -> None:
    logits, cost = leaf(kind), polynomial(kind, 2)
    exact = exact_gradient(kind, logits, cost)
    assert (mean_gradient(ReinMax(1.5), kind, logits, cost) - exact).norm() > 0.01 * exact.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_a_sample_is_its_formula(kind: str) -> None:
    """The formula with explicit softmaxes, at temperature 1.5."""
    logits = leaf("categorical") if kind == "categorical" else leaf("bernoulli")
    slope = torch.randn(logits.shape, dtype=_F64)
    estimator = ReinMax(temperature=1.5)
    value = estimator.sample(node(kind, logits)).value
    (actual,) = torch.autograd.grad((slope * value).sum(), logits)
    drawn, warm = value[0].detach(), (logits / 1.5).detach()
    soft = torch.sigmoid if kind == "bernoulli" else (lambda x: x.softmax(-1))
    middle = (drawn + soft(warm)) / 2
    # logits of the middle distribution, which move with the node's logits
    inner = middle.logit() if kind == "bernoulli" else middle.log()
    second = soft((inner - logits).detach() + logits)
    expected = torch.autograd.grad((slope * (2 * second - 0.5 * soft(logits))).sum(), logits)[0]
    torch.testing.assert_close(actual, expected)


def test_vector_with_a_cost_quadratic_in_each_variable_is_unbiased() -> None:
    torch.manual_seed(5)
    logits = torch.tensor([[0.4, -0.8, 0.1], [0.9, 0.0, -0.5]], dtype=_F64)
    logits = logits.expand(200_000, 2, 3).clone().requires_grad_()
    q = Independent(OneHotCategorical(logits=logits), 1)
    first, second = torch.randn(2, 3, dtype=_F64)
    cost = lambda z: ((z[..., 0, :] * first).sum(-1) - 0.2) ** 2 * ((z[..., 1, :] * second).sum(-1) + 0.4) ** 2  # noqa: E731
    actual, exact = (
        torch.autograd.grad(expectation(cost, q, e).sum(), logits, retain_graph=True)[0]
        for e in (ReinMax(), Enumerate())
    )
    error = actual.std(0) / len(actual) ** 0.5
    assert (error < 0.02 * exact[0].norm()).all()
    assert ((actual.mean(0) - exact[0]).abs() < 4 * error).all()


@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("scale", [1e2, 1e30, 3e38])
@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits_stay_finite(kind: str, scale: float, temperature: float) -> None:
    logits = (torch.tensor([[0.5, -0.5, 0.0], [0.5, 0.5, 0.5]]) * scale).repeat(100, 1).requires_grad_()
    q = Independent(Bernoulli(logits=logits), 1) if kind == "bernoulli" else OneHotCategorical(logits=logits)
    total = expectation(lambda z: (z * torch.arange(3.0)).sum(-1), q, ReinMax(temperature))
    (gradient,) = torch.autograd.grad(total.sum(), logits)
    assert total.isfinite().all()
    assert gradient.isfinite().all()


def test_temperature_is_a_buffer() -> None:
    estimator = ReinMax(2.0)
    estimator.temperature.fill_(1.0)
    logits, cost = leaf("categorical"), polynomial("categorical", 2)
    torch.testing.assert_close(
        mean_gradient(estimator, "categorical", logits, cost), exact_gradient("categorical", logits, cost)
    )
    restored = ReinMax(2.0)
    restored.load_state_dict(estimator.state_dict())
    assert restored.temperature == 1


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(EstimatorError, match="ReinMax: temperature="):
        ReinMax(temperature)
