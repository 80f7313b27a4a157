"""Estimators reject unsupported nodes and costs, and the error message names the remedy."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch.distributions import Bernoulli, Distribution, Independent, Normal, OneHotCategorical, Poisson

from vaekit import expectation
from vaekit.estimators import (
    Enumerate,
    Estimator,
    GumbelRao,
    GumbelSoftmax,
    LeaveOneOut,
    MovingAverage,
    Pathwise,
    ReinMax,
    ScoreFunction,
    SelfCritic,
    StraightThrough,
)
from vaekit.exceptions import ConfigError, EstimatorError

from .conformance import TABLE

LOGITS = torch.zeros(4, 3)
STEPS = {
    "sign": torch.sign,
    "floor": torch.floor,
    "floor division": lambda z: z // 1,
    "rounded division": lambda z: torch.div(z, 2, rounding_mode="floor"),
    "round": torch.round,
    "comparison": lambda z: (z > 0).to(z.dtype),
    "argmax indexing": lambda z: torch.arange(5.0)[torch.stack([z, -z]).argmax(0)],
    "heaviside": lambda z: torch.heaviside(z, torch.ones(())),
    "integers": lambda z: z.long().to(z.dtype),
    "detached": lambda z: z.detach() ** 2,
}


def supporting(kind: str) -> set[type[Estimator]]:
    """Return the estimators that support a kind of node according to the conformance table."""
    return {type(row.make()) for row in TABLE if kind in row.kinds}


def named(error: BaseException) -> set[str]:
    """Return the names of estimators at the end of a message."""
    return set(str(error).rstrip(".").split(": ")[-1].split(", "))


@pytest.mark.parametrize("estimator", [Pathwise, GumbelSoftmax, StraightThrough])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_cost_without_a_gradient_path_is_rejected(step, estimator: type[Estimator]) -> None:
    location, weight = torch.zeros(4, requires_grad=True), torch.ones((), requires_grad=True)
    q = Normal(location, 1.0) if estimator is Pathwise else Bernoulli(logits=location)
    with pytest.raises(
        EstimatorError, match=f"node 'z'.*{estimator.__name__}.*no gradient path.*These estimators support"
    ) as caught:
        expectation(lambda z: weight * step(z), {"z": q}, estimator())
    supported = supporting("normal" if estimator is Pathwise else "bernoulli")
    assert named(caught.value) == {c.__name__ for c in supported if not c.requires_differentiable_cost}


@pytest.mark.parametrize("q", [Normal, Bernoulli])
def test_path_is_checked_for_each_cost_of_an_estimator(q: type[Distribution]) -> None:
    """Both costs come from the same line of code, and only the second one does not have a path."""
    estimator = Pathwise() if q is Normal else StraightThrough()
    location = torch.zeros(4, requires_grad=True)
    node = Normal(location, 1.0) if q is Normal else Bernoulli(logits=location)
    weight = torch.ones((), requires_grad=True)
    costs = [lambda z, f=f: weight * f(z) for f in (torch.square, torch.sign)]
    expectation(costs[0], node, estimator)
    with pytest.raises(EstimatorError, match="no gradient path"):
        expectation(costs[1], node, estimator)


def test_path_is_checked_for_a_second_lambda_of_one_node() -> None:
    estimator, location = Pathwise(), torch.zeros(4, requires_grad=True)
    expectation(lambda z: z**2, Normal(location, 1.0), estimator)
    with pytest.raises(EstimatorError, match="no gradient path"):
        expectation(lambda z: z.sign() * location.exp(), Normal(location, 1.0), estimator)


def test_decoder_with_zero_weights_has_a_path() -> None:
    decoder = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(decoder.weight)
    location = torch.zeros(4, requires_grad=True)
    expectation(lambda z: decoder(z[..., None])[..., 0], Normal(location, 1.0), Pathwise()).sum().backward()
    assert (location.grad == 0).all()
    assert decoder.weight.grad is not None


def test_one_term_without_a_path_is_enough() -> None:
    location = torch.zeros(4, requires_grad=True)
    with pytest.raises(EstimatorError, match="node 'z'"):
        expectation({"smooth": lambda z: z**2, "step": lambda z: z.sign()}, {"z": Normal(location, 1.0)}, Pathwise())


def test_node_that_needs_no_gradient_needs_no_path() -> None:
    total = expectation(lambda z: z.sign(), {"z": Normal(torch.zeros(4), 1.0)}, Pathwise())
    assert total.abs().eq(1).all()


@pytest.mark.parametrize(
    ("q", "kind"),
    [(Bernoulli(logits=LOGITS), "bernoulli"), (OneHotCategorical(logits=LOGITS), "categorical")],
    ids=["bernoulli", "categorical"],
)
def test_pathwise_on_a_discrete_node_names_the_supporting_estimators(q: Distribution, kind: str) -> None:
    with pytest.raises(
        EstimatorError, match=f"node 'k': Pathwise does not support {type(q).__name__}\\. .*: "
    ) as caught:
        expectation(lambda k: k.sum(-1), {"k": q}, Pathwise())
    assert named(caught.value) == {c.__name__ for c in supporting(kind)}


def test_pathwise_on_a_poisson_node_names_the_supporting_estimators() -> None:
    with pytest.raises(EstimatorError, match=r"Pathwise does not support Poisson\. .*: MeasureValued, ScoreFunction.$"):
        expectation(lambda k: k, {"k": Poisson(torch.ones(4))}, Pathwise())


@pytest.mark.parametrize("estimator", [GumbelSoftmax, StraightThrough, Enumerate])
def test_discrete_estimator_on_a_gaussian_names_the_supporting_estimators(estimator: type[Estimator]) -> None:
    with pytest.raises(EstimatorError, match=f"node 'z': {estimator.__name__} .*: ") as caught:
        expectation(lambda z: z, {"z": Normal(torch.zeros(3), 1.0)}, estimator())
    assert named(caught.value) == {c.__name__ for c in supporting("normal")}


def test_enumerate_over_its_budget_reports_the_number_of_states() -> None:
    q = Independent(Bernoulli(logits=torch.zeros(2, 20)), 1)
    with pytest.raises(EstimatorError, match=r"Independent\(Bernoulli\) has 1048576 states.*max_states=4096"):
        expectation(lambda z: z.sum(-1), q, Enumerate())


def test_enumerate_counts_the_states_of_a_vector_before_listing_them() -> None:
    q = Independent(Bernoulli(logits=torch.zeros(2, 200)), 1)
    with pytest.raises(EstimatorError, match=re.escape(f"has {2**200} states")):
        expectation(lambda z: z.sum(-1), q, Enumerate())


def test_enumerate_counts_the_product_over_nodes() -> None:
    q = {name: OneHotCategorical(logits=torch.zeros(2, 6)) for name in "abc"}
    cost = lambda a, b, c: (a + b + c).square().sum(-1)  # noqa: E731
    with pytest.raises(EstimatorError, match=r"216 states.*max_states=100"):
        expectation(cost, q, Enumerate(max_states=100))
    assert expectation(cost, q, Enumerate(max_states=216)).shape == (2,)


def test_leave_one_out_needs_two_samples() -> None:
    with pytest.raises(EstimatorError, match=r"num_samples=1 must be at least 2, because LeaveOneOut"):
        ScoreFunction(num_samples=1, baseline=LeaveOneOut())
    with pytest.raises(EstimatorError, match=r"LeaveOneOut.*at least 2"):
        expectation(lambda z: z, Bernoulli(logits=LOGITS[0]), ScoreFunction(baseline=LeaveOneOut()), num_samples=1)


@pytest.mark.parametrize("estimator", [Enumerate(), ScoreFunction(baseline=SelfCritic())], ids=["enumerate", "critic"])
def test_estimators_that_do_not_support_joint_samples_are_rejected(estimator: Estimator) -> None:
    with pytest.raises(EstimatorError, match=r"joint samples.*LeaveOneOut"):
        expectation(lambda z: z, {"z": Bernoulli(logits=LOGITS[0])}, estimator, num_samples=3)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (GumbelSoftmax, "temperature"),
        (GumbelRao, "temperature"),
        (ReinMax, "temperature"),
        (MovingAverage, "decay"),
        (ScoreFunction, "lam"),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_rejected_by_name(make: type, name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value} must be finite"):
        make(**{name: value})


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(EstimatorError, match=f"GumbelSoftmax: temperature={temperature} must be positive"):
        GumbelSoftmax(temperature)


@pytest.mark.parametrize("make", [Pathwise, ScoreFunction, GumbelSoftmax, StraightThrough])
def test_number_of_samples_must_be_positive(make: type[Estimator]) -> None:
    with pytest.raises(EstimatorError, match=f"{make.__name__}: num_samples=0 must be at least 1"):
        make(num_samples=0)
    with pytest.raises(EstimatorError, match="max_states=0 must be at least 1"):
        Enumerate(max_states=0)


@pytest.mark.parametrize(
    "estimator", ["pathwise", Pathwise, MovingAverage(), 3], ids=["name", "class", "baseline", "number"]
)
def test_estimator_of_a_wrong_type(estimator: object) -> None:
    with pytest.raises(EstimatorError, match=r"(?s)of node 'z' must be an Estimator or 'auto'"):
        expectation(lambda z: z, {"z": Normal(torch.zeros(3), 1.0)}, estimator)  # type: ignore[arg-type]


def test_self_critic_without_a_mode() -> None:
    from torch.distributions import MixtureSameFamily

    q = MixtureSameFamily(torch.distributions.Categorical(torch.ones(2)), Normal(torch.zeros(2), torch.ones(2)))
    with pytest.raises(EstimatorError, match="SelfCritic: MixtureSameFamily does not have a mode"):
        expectation(lambda z: z, q, ScoreFunction(baseline=SelfCritic()))
