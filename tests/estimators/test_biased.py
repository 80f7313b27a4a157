"""The biased estimators: tests of their theorems, and a table of their bias.

``python -m pytest tests/estimators/test_biased.py -s -k tabulated`` prints the table.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from strength import strengths
from torch import Tensor
from torch.distributions import Bernoulli, Independent, OneHotCategorical

from vaekit import expectation
from vaekit.estimators import Enumerate, Estimator, GumbelSoftmax, StraightThrough

from .conformance import DISCRETE, TABLE, Row
from .graphs import below, single
from .oracle import exact
from .zscore import replicate

REPLICATES = 200_000
HARD = [row for row in TABLE if not row.unbiased and row.make().unbiased_value]


def bias(estimator: Estimator, replicates: int = REPLICATES) -> tuple[float, float]:
    """Return the norm of the bias on a categorical node, relative to the gradient's norm, and its error."""
    graph = single("categorical")
    _, by_name = exact(graph)
    gradient = torch.cat([g.flatten() for g in by_name.values()])
    _, actual = replicate(graph, {"x": estimator}, replicates)
    difference = (actual.mean(0) - gradient)[1:]  # the first component is the parameter of the cost
    error = actual[:, 1:].std(0) / replicates**0.5
    return float(difference.norm() / gradient[1:].norm()), float(error.norm() / gradient[1:].norm())


@pytest.mark.parametrize(
    ("name", "temperature"), [*itertools.product(["soft", "hard"], [1.0, 0.5, 0.2]), ("straight_through", None)]
)
def test_bias_is_tabulated(name: str, temperature: float | None, record_property) -> None:
    estimator = GumbelSoftmax(temperature, hard=name == "hard") if temperature else StraightThrough()
    size, error = bias(estimator)
    record_property("relative bias", round(size, 3))
    print(f"{name:17}temperature {temperature}: relative bias {size:.3f} +- {error:.3f}")
    assert error < 0.02  # the table is printed with -s


def test_bias_of_soft_gumbel_softmax_falls_with_the_temperature() -> None:
    actual = [bias(GumbelSoftmax(t), 400_000) for t in (1.0, 0.5, 0.2)]
    for (warm, warm_error), (cold, cold_error) in itertools.pairwise(actual):
        assert cold + 4 * cold_error < warm - 4 * warm_error


@strengths
@pytest.mark.parametrize("kind", DISCRETE)
@pytest.mark.parametrize("row", HARD, ids=lambda row: row.name)
def test_expected_value_of_hard_ones_is_exact(row: Row, kind: str, fraction: float) -> None:
    for graph in (single(kind), below(kind, "categorical")):
        value, _ = exact(graph)
        values, _ = replicate(graph, {node.name: row.make() for node in graph.nodes}, int(100_000 * fraction))
        assert (values.mean() - value).abs() / (values.std() / len(values) ** 0.5) < 4


def test_value_of_the_soft_one_is_not() -> None:
    value, _ = exact(single("categorical"))
    values, _ = replicate(single("categorical"), {"x": GumbelSoftmax(1.0)}, 100_000)
    assert not GumbelSoftmax().unbiased_value
    assert (values.mean() - value).abs() / (values.std() / len(values) ** 0.5) > 10


@pytest.mark.parametrize("kind", DISCRETE)
@pytest.mark.parametrize("row", HARD, ids=lambda row: row.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hard_values_are_exactly_discrete(row: Row, kind: str, dtype: torch.dtype) -> None:
    logits = (3 * torch.randn(5000, 2, 3, dtype=dtype)).requires_grad_()
    q = (
        Independent(Bernoulli(logits=logits), 2)
        if kind.startswith("bern")
        else Independent(OneHotCategorical(logits=logits), 1)
    )
    value = row.make().sample(q).value
    assert ((value == 0) | (value == 1)).all()
    assert kind.startswith("bern") or (value.sum(-1) == 1).all()
    assert value.requires_grad


@pytest.mark.parametrize("family", [Bernoulli, OneHotCategorical])
def test_straight_through_is_unbiased_for_a_linear_cost(family: type) -> None:
    slope = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    logits = torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64).expand(1000, 3).clone().requires_grad_()
    q = Independent(Bernoulli(logits=logits), 1) if family is Bernoulli else OneHotCategorical(logits=logits)
    actual = [
        torch.autograd.grad(expectation(lambda z: (slope * z).sum(-1), q, e).sum(), logits, retain_graph=True)[0]
        for e in (StraightThrough(), Enumerate())
    ]
    torch.testing.assert_close(*actual)  # for each single sample, not only for their mean


def test_straight_through_is_biased_for_a_quadratic_cost() -> None:
    size, error = bias(StraightThrough())
    assert size > 10 * error


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("scale", [1e2, 1e6, 1e30])
@pytest.mark.parametrize("family", [Bernoulli, OneHotCategorical])
def test_cold_temperature_and_extreme_logits_stay_finite(family: type, scale: float, hard: bool) -> None:
    logits = (torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, 1.0]]) * scale).repeat(1000, 1).requires_grad_()
    q = Independent(Bernoulli(logits=logits), 1) if family is Bernoulli else OneHotCategorical(logits=logits)
    total = expectation(lambda z: (z * torch.arange(3.0)).sum(-1), q, GumbelSoftmax(0.01, hard=hard))
    (gradient,) = torch.autograd.grad(total.sum(), logits)
    assert total.isfinite().all()
    assert gradient.isfinite().all()


def test_impossible_categories_stay_impossible() -> None:
    logits = torch.tensor([0.0, -torch.inf, 1.0]).expand(1000, 3).clone().requires_grad_()
    for row in TABLE:
        if "categorical" in row.kinds and not row.unbiased:
            q = OneHotCategorical(logits=logits, validate_args=False)
            total = expectation(lambda z: (z * torch.tensor([1.0, 5.0, 2.0])).sum(-1), q, row.make())
            (gradient,) = torch.autograd.grad(total.sum(), logits)
            assert (total <= 2).all(), row.name
            assert gradient.isfinite().all(), row.name


def test_temperature_is_a_buffer_that_a_schedule_may_change() -> None:
    estimator = GumbelSoftmax(2.0)
    estimator.temperature.fill_(0.05)
    q = OneHotCategorical(logits=torch.zeros(1000, 3))
    values = estimator.sample(q).value
    assert (values.max(-1).values > 0.99).float().mean() > 0.7  # near the corners: 0.05 instead of 2
    restored = GumbelSoftmax(2.0)
    restored.load_state_dict(estimator.state_dict())
    assert restored.temperature == torch.tensor(0.05)


def test_soft_values_lie_inside_the_simplex() -> None:
    value: Tensor = GumbelSoftmax(0.7).sample(OneHotCategorical(logits=torch.randn(1000, 4, dtype=torch.float64))).value
    assert ((value > 0) & (value < 1)).all()
    torch.testing.assert_close(value.sum(-1), torch.ones(1, 1000, dtype=torch.float64))
