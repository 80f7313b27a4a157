"""Measure-valued derivatives compared with quadrature and exact sums, also for step functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from strength import strengths
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Chi2,
    Distribution,
    Gamma,
    Independent,
    Laplace,
    Normal,
    OneHotCategorical,
    Poisson,
)

from vaekit import expectation
from vaekit.estimators import LeaveOneOut, MeasureValued, Pathwise, ScoreFunction
from vaekit.exceptions import EstimatorError

REPLICATES = 200_000
PRECISION = 0.01
COSTS: dict[
    str, tuple[Callable, list[float]]
] = {  # functions of NumPy arrays or tensors, and the positions of their jumps
    "smooth": (lambda z: 1 / (1 + (z - 0.7) ** 2) + 0.3 * z, []),
    "step": (lambda z: (z > 0.9) * 1.0, [0.9]),
    "two_steps": (lambda z: (z > 0.4) * 2.0 - (z > 2.0) * 3.0, [0.4, 2.0]),
    "square": (lambda z: (z - 1.0) ** 2, []),
}
by_cost = pytest.mark.parametrize("name", COSTS)


def measure(
    make: Callable[..., Distribution],
    parameters: tuple[float, ...],
    cost: Callable,
    estimator: MeasureValued,
    fraction: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the mean gradient of each parameter and its standard error, of as many replicates as a pilot suggests."""

    replicates, precision = int(REPLICATES * fraction), PRECISION / fraction**0.5

    def gradients() -> Tensor:
        leaves = [torch.full((replicates,), p, dtype=torch.float64, requires_grad=True) for p in parameters]
        return torch.stack(torch.autograd.grad(expectation(cost, make(*leaves), estimator).sum(), leaves))

    pilot = gradients()
    needed = 1.3 * (pilot.var(1) / (precision * pilot.mean(1).norm()).square().clamp_min(1e-12)).max()
    chunks = [gradients() for _ in range(min(20, math.ceil(needed / replicates)))] or [gradients()]
    actual = torch.cat(chunks, 1)
    return actual.mean(1), actual.std(1) / math.sqrt(actual.shape[1])


def by_difference(expected: Callable[..., float], parameters: tuple[float, ...], step: float) -> np.ndarray:
    """Return the derivatives of an exact expectation by differences of fourth order."""
    gradient = []
    for i in range(len(parameters)):
        at = [expected(*(p + k * step * p * (j == i) for j, p in enumerate(parameters))) for k in (-2, -1, 1, 2)]
        gradient.append((at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step * parameters[i]))
    return np.array(gradient)


def agree(actual: tuple[Tensor, Tensor], gradient: np.ndarray, fraction: float = 1.0) -> None:
    mean, error = actual
    assert (error <= PRECISION / fraction**0.5 * np.linalg.norm(gradient) + 1e-12).all(), "too few replicates"
    assert ((mean - torch.from_numpy(gradient)).abs() / (error + 1e-7)).max() < 4


@strengths
@by_cost
@pytest.mark.parametrize("parameters", [(0.3, 1.3), (0.9, 1.0), (3.0, 2.0), (25.0, 20.0)])
def test_gamma_agrees_with_quadrature(name: str, parameters: tuple[float, float], fraction: float) -> None:
    cost, jumps = COSTS[name]

    def expected(concentration: float, rate: float) -> float:
        density = stats.gamma(concentration, scale=1 / rate)
        ends = [-80 / min(concentration, 1.0), *np.log(jumps), np.log(density.isf(1e-18))]

        def integrand(y: float) -> float:  # over the logarithm, which avoids the pole at 0
            return float(cost(np.exp(y))) * math.exp(density.logpdf(np.exp(y)) + y)

        middle = [math.log(concentration / rate)]
        points = sorted([*ends, *middle])
        pieces = itertools.pairwise(points)
        return sum(integrate.quad(integrand, *piece, epsabs=1e-13, epsrel=1e-12, limit=400)[0] for piece in pieces)

    agree(
        measure(Gamma, parameters, cost, MeasureValued(2), fraction),
        by_difference(expected, parameters, 1e-2),
        fraction,
    )


@strengths
@by_cost
@pytest.mark.parametrize("rate", [0.2, 1.5, 4.0])
def test_poisson_agrees_with_its_sum(name: str, rate: float, fraction: float) -> None:
    cost, counts = COSTS[name][0], np.arange(200)
    derivative = (stats.poisson.pmf(counts, rate) * (counts / rate - 1) * cost(counts)).sum()
    agree(measure(Poisson, (rate,), cost, MeasureValued(), fraction), np.array([derivative]), fraction)


@strengths
@by_cost
@pytest.mark.parametrize("parameters", [(0.5, 1.2), (1.0, 0.3), (-2.0, 2.0)])
def test_normal_agrees_with_quadrature(name: str, parameters: tuple[float, float], fraction: float) -> None:
    cost, jumps = COSTS[name]
    location, scale = parameters
    ends = sorted([(jump - location) / scale for jump in jumps] + [-12.0, 0.0, 12.0])

    def score(e: float, power: int) -> float:
        slope = e if power == 1 else e * e - 1
        return float(cost(location + scale * e)) * slope / scale * stats.norm.pdf(e)

    pieces = list(itertools.pairwise(ends))
    gradient = [sum(integrate.quad(score, *piece, args=(k,), limit=200)[0] for piece in pieces) for k in (1, 2)]
    agree(measure(Normal, parameters, cost, MeasureValued(), fraction), np.array(gradient), fraction)


@pytest.mark.parametrize("family", [Categorical, OneHotCategorical, Bernoulli])
def test_one_discrete_variable_has_its_exact_gradient(family: type[Distribution]) -> None:
    shape = (6,) if family is Bernoulli else (6, 5)
    logits = torch.randn(shape, dtype=torch.float64).requires_grad_()
    table = torch.randn(5, dtype=torch.float64)
    prob = torch.stack([1 - logits.sigmoid(), logits.sigmoid()], -1) if family is Bernoulli else logits.softmax(-1)
    exact = torch.autograd.grad((prob * table[: prob.shape[-1]]).sum(), logits)[0]

    def cost(z: Tensor) -> Tensor:
        return table[z.argmax(-1) if family is OneHotCategorical else z.long()]

    actual = torch.autograd.grad(expectation(cost, family(logits=logits), MeasureValued()).sum(), logits)[0]
    torch.testing.assert_close(actual, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("probs", [(0.2,), (0.9,)])
def test_probabilities_may_be_the_parameters(probs: tuple[float]) -> None:
    mean, error = measure(lambda p: Bernoulli(probs=p), probs, lambda z: 3 * z + 1, MeasureValued())
    torch.testing.assert_close(mean, torch.full_like(mean, 3.0))
    assert error < 1e-12


def test_degrees_of_freedom_are_a_concentration() -> None:
    agree(measure(Chi2, (3.0,), lambda z: z.square(), MeasureValued()), np.array([8.0]))  # E z^2 = n (n + 2)


VECTORS: dict[str, tuple[Callable[..., Distribution], list[Tensor]]] = {
    "gamma": (Gamma, [torch.tensor([0.6, 2.0, 5.0]), torch.tensor([1.0, 2.0, 4.0])]),
    "poisson": (Poisson, [torch.tensor([0.4, 1.0, 2.0])]),
    "normal": (Normal, [torch.tensor([0.4, -1.0, 2.0]), torch.tensor([0.4, 1.0, 2.0])]),
    "categorical": (lambda x: Categorical(logits=x), [torch.linspace(-1, 1, 12).reshape(3, 4)]),
}


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("num_samples", [1, 3])
def test_vector_under_a_step_agrees_with_the_score_function(name: str, num_samples: int) -> None:
    """Compare two unbiased estimates of a cost in which variables interact."""
    make, values = VECTORS[name]
    means, errors = [], []
    for estimator in (MeasureValued(num_samples), ScoreFunction(16, LeaveOneOut())):
        leaves = [v.double().expand(60_000, *v.shape).clone().requires_grad_() for v in values]
        q = Independent(make(*leaves), 1)
        total = expectation(lambda z: ((z * torch.tensor([1.0, -1.0, 0.5])).sum(-1) > 0.3).double(), q, estimator)
        gradient = torch.cat([g.flatten(1) for g in torch.autograd.grad(total.sum(), leaves)], 1)
        means.append(gradient.mean(0))
        errors.append(gradient.std(0) / math.sqrt(len(gradient)))
    error = (errors[0].square() + errors[1].square()).sqrt()
    assert (error < 0.02 * means[1].norm()).all()
    assert ((means[0] - means[1]).abs() / error).max() < 4


@pytest.mark.parametrize(
    ("q", "changes"),
    [
        (Independent(Normal(torch.zeros(2, 3), 1.0), 1), 3),
        (Independent(Gamma(torch.ones(2, 3), 1.0), 1), 4),
        (Independent(Poisson(torch.ones(2, 3)), 1), 1),
        (Independent(Bernoulli(logits=torch.zeros(2, 3)), 1), 1),
        (Independent(Categorical(logits=torch.zeros(2, 3, 4)), 1), 3),
        (Independent(OneHotCategorical(logits=torch.zeros(2, 3, 4)), 1), 3),
    ],
    ids=lambda q: type(q.base_dist).__name__ if isinstance(q, Independent) else "",
)
@pytest.mark.parametrize("num_samples", [1, 2])
def test_each_auxiliary_sample_perturbs_one_variable(q: Independent, changes: int, num_samples: int) -> None:
    estimator = MeasureValued(num_samples)
    sample = estimator.sample(q)
    assert len(sample.value) == estimator.num_evaluations(q) == num_samples * (1 + 3 * changes)
    assert (sample.weight[:num_samples] == 1 / num_samples).all()
    assert (sample.weight[num_samples:] == 0).all()
    real = sample.value[:num_samples]
    other = sample.value[num_samples:].reshape(
        changes, 3, *real.shape
    )  # [changes, changed, num_samples, batch, variable]
    differs = (other != real).flatten(5).any(5) if real.dim() > 3 else other != real
    changed = torch.eye(3, dtype=torch.bool)[None, :, None, None]
    assert (differs == changed).all()


def test_matrix_of_variables_with_sample_dimensions() -> None:
    location = torch.randn(1, 4, 3, 2, dtype=torch.float64).requires_grad_()
    q = Independent(Independent(Normal(location, 1.0), 1), 1)
    estimator = MeasureValued(2)
    assert q.batch_shape == (1, 4)
    sample = estimator.sample(q)
    assert sample.value.shape == (2 * (1 + 6 * 3), 1, 4, 3, 2)
    correction = estimator.correction(sample, sample.value.sum((-1, -2)))
    gradient = torch.autograd.grad((sample.weight * correction).sum(), location)[0]
    assert gradient.isfinite().all()
    assert (gradient > 0).all()  # the cost increases in each variable, and m + s W exceeds m - s W


def test_cost_may_be_numpy() -> None:
    rate = torch.full((1000,), 2.0, requires_grad=True)
    total = expectation(lambda z: np.floor(z.detach().numpy() / 2), Poisson(rate), MeasureValued())
    assert torch.autograd.grad(total.sum(), rate)[0].mean() > 0.3


def test_variance_is_lower_than_that_of_the_score_function() -> None:
    for make, parameters in ((Normal, (0.5, 0.4)), (Gamma, (3.0, 2.0)), (Poisson, (2.0,))):
        leaves = [torch.full((20_000,), p, dtype=torch.float64, requires_grad=True) for p in parameters]
        variances = []
        for estimator in (MeasureValued(), ScoreFunction(4, LeaveOneOut())):
            total = expectation(lambda z: (z - 1).square(), make(*leaves), estimator)
            gradients = torch.autograd.grad(total.sum(), leaves)
            variances.append(torch.stack(gradients).var(1))
        assert (variances[0] < variances[1]).all(), make


def test_linear_cost_of_a_normal_location_is_near_the_pathwise_gradient() -> None:
    location = torch.full((50_000,), 1.0, dtype=torch.float64, requires_grad=True)
    means = []
    for estimator in (MeasureValued(), Pathwise()):
        total = expectation(lambda z: 3 * z, Normal(location, 0.5), estimator)
        means.append(torch.autograd.grad(total.mean(), location)[0].sum())
    torch.testing.assert_close(*means, rtol=0.02, atol=0)


EXTREME = {
    "bernoulli": lambda x: Bernoulli(logits=x * 1e30),
    "one_hot": lambda x: OneHotCategorical(logits=torch.stack([x * 1e30, -x * 1e30, 0 * x], -1)),
    "impossible": lambda x: Categorical(logits=torch.stack([x, torch.full_like(x, -math.inf), 0 * x], -1)),
    "gamma_low": lambda x: Gamma(1e-3 * x, x),
    "gamma_high": lambda x: Gamma(1e6 * x, x),
    "poisson_low": lambda x: Poisson(1e-20 * x),
    "poisson_high": lambda x: Poisson(1e6 * x),
    "normal_narrow": lambda x: Normal(x, 1e-20 * x),
    "normal_wide": lambda x: Normal(x, 1e15 * x),
}


@pytest.mark.parametrize("name", EXTREME)
def test_extremes_give_finite_gradients(name: str) -> None:
    x = torch.ones(200, requires_grad=True)
    total = expectation(
        lambda z: torch.tanh(z.float().reshape(*z.shape[:2], -1).sum(-1)), EXTREME[name](x), MeasureValued()
    )
    assert total.isfinite().all()
    assert torch.autograd.grad(total.sum(), x)[0].isfinite().all()


def test_others_are_rejected() -> None:
    q = {"z": Laplace(torch.zeros(3), 1.0)}
    with pytest.raises(EstimatorError, match=r"MeasureValued does not support Laplace.*Pathwise"):
        expectation(lambda z: z, q, MeasureValued())
    with pytest.raises(EstimatorError, match="joint samples"):
        expectation(lambda z: z, {"z": Normal(torch.zeros(3), 1.0)}, MeasureValued(), num_samples=2)
    with pytest.raises(EstimatorError, match="joint samples"):
        MeasureValued().sample(Normal(torch.zeros(3), 1.0), torch.Size())
    with pytest.raises(EstimatorError, match="num_samples=0 must"):
        MeasureValued(0)
