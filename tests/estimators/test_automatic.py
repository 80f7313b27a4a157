"""``estimator="auto"``: its choices, its budget, its log line, its replacement for a cost that is a step function."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Distribution,
    Independent,
    Normal,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
    Poisson,
)

from vaekit.estimators.automatic import ENUMERATION_BUDGET, choose_estimator
from vaekit.exceptions import EstimatorError
from vaekit.graph.expectation import evaluate, expectation


@pytest.mark.parametrize(
    ("q", "differentiable", "rows", "name"),
    [
        (OneHotCategorical(logits=torch.zeros(10)), True, 1, "Enumerate"),
        (OneHotCategorical(logits=torch.zeros(10)), False, 1, "Enumerate"),
        (OneHotCategorical(logits=torch.zeros(ENUMERATION_BUDGET)), True, 1, "Enumerate"),
        (OneHotCategorical(logits=torch.zeros(ENUMERATION_BUDGET + 1)), True, 1, "ScoreFunction"),
        (Independent(Bernoulli(logits=torch.zeros(2, 6)), 1), True, 1, "Enumerate"),
        (Independent(Bernoulli(logits=torch.zeros(2, 7)), 1), True, 1, "DisARM"),
        (Independent(Bernoulli(logits=torch.zeros(2, 7)), 1), False, 1, "DisARM"),
        (Bernoulli(logits=torch.zeros(2)), True, ENUMERATION_BUDGET // 2, "Enumerate"),
        (Bernoulli(logits=torch.zeros(2)), True, ENUMERATION_BUDGET // 2 + 1, "DisARM"),
        (OneHotCategoricalStraightThrough(logits=torch.zeros(2, 100)), True, 1, "ScoreFunction"),
        (Normal(0.0, 1.0), True, 1, "Pathwise"),
        (Normal(0.0, 1.0), False, 1, "ScoreFunction"),
        (Poisson(torch.ones(2)), True, 1, "ScoreFunction"),
    ],
)
def test_choice(q: Distribution, differentiable: bool, rows: int, name: str) -> None:
    estimator = choose_estimator(q, differentiable, rows)
    assert type(estimator).__name__ == name
    if name == "ScoreFunction":
        assert type(estimator.baseline).__name__ == "LeaveOneOut"
        assert estimator.num_samples >= 2


def test_log_line_names_node_distribution_and_estimator(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vaekit")
    q = {"only_here": Bernoulli(logits=torch.zeros(3))}
    for _ in range(3):
        expectation(lambda only_here: only_here, q)
    lines = [r.getMessage() for r in caplog.records if "only_here" in r.getMessage()]
    assert lines == ["auto: selected Enumerate for node 'only_here' (Bernoulli)"]


def test_step_function_falls_back_to_the_score_function() -> None:
    """E[sign(z)] = 2 Phi(mu) - 1 for z ~ N(mu, 1), whose derivative at 0.3 is 2 phi(0.3)."""
    location = torch.full((200_000,), 0.3, requires_grad=True)
    total = expectation(lambda z: z.sign(), {"z": Normal(location, 1.0)})
    (gradient,) = torch.autograd.grad(total.sum(), location)
    error = gradient.std() / len(gradient) ** 0.5
    exact = 2 * Normal(0.0, 1.0).log_prob(torch.tensor(0.3)).exp()
    assert error < 0.01 * exact
    assert (gradient.mean() - exact).abs() < 4 * error


@pytest.mark.parametrize(
    "step", [lambda z: z // 1, lambda z: torch.heaviside(z, torch.ones(())), lambda z: (z > 0).float()]
)
def test_any_step_function_can_be_differentiated(step) -> None:
    location = torch.zeros(100, requires_grad=True)
    expectation(lambda z: step(z), {"z": Normal(location, 1.0)}).sum().backward()
    assert location.grad.abs().sum() > 0


def test_only_the_node_without_a_path_falls_back() -> None:
    location = torch.zeros(2, 5, requires_grad=True)
    q = {"smooth": Normal(location[0], 1.0), "step": Normal(location[1], 1.0)}
    result = evaluate(lambda smooth, step: smooth**2 + step.sign(), q)
    assert result.samples["smooth"].value.requires_grad
    assert not result.samples["step"].value.requires_grad
    assert len(result.samples["step"].value) == 2


def test_budget_counts_the_nodes_before() -> None:
    q = {name: OneHotCategorical(logits=torch.zeros(2, 8)) for name in ("a", "b", "c")}
    samples = evaluate(lambda a, b, c: (a + b + c).square().sum(-1), q).samples
    assert {name: len(sample.value) for name, sample in samples.items()} == {"a": 8, "b": 8, "c": 2}


def test_missing_entries_are_automatic() -> None:
    from vaekit.estimators import ScoreFunction

    q = {name: Bernoulli(logits=torch.zeros(2)) for name in "ab"}
    samples = evaluate(lambda a, b: a + b, q, {"a": ScoreFunction(num_samples=3)}).samples
    assert len(samples["a"].value) == 3
    assert len(samples["b"].value) == 2


def test_never_chooses_an_estimator_over_its_budget() -> None:
    """A later node with many samples must not lead to an error of the chosen estimator."""
    from vaekit.estimators import ScoreFunction

    q = {"y": OneHotCategorical(logits=torch.zeros(3, 60)), "z": Normal(torch.zeros(3), 1.0)}
    total = expectation(lambda y, z: y.sum(-1) + z, q, {"z": ScoreFunction(num_samples=1000)})
    assert total.shape == (3,)


JOINT = {
    "small support": OneHotCategorical(logits=torch.zeros(5, 10)),
    "large support": OneHotCategorical(logits=torch.zeros(5, 100)),
    "large support of bits": Independent(Bernoulli(logits=torch.zeros(5, 20)), 1),
    "no finite support": Independent(Poisson(torch.ones(5, 2)), 1),
}


@pytest.mark.parametrize("q", JOINT.values(), ids=JOINT)
def test_joint_samples_are_compared_with_each_other(q: Distribution) -> None:
    """With a constant cost, the gradient is zero with leave-one-out but not with a plain score function."""
    shift = torch.zeros(5, 1, requires_grad=True)
    if isinstance(q, OneHotCategorical):
        at = OneHotCategorical(logits=q.logits + shift * torch.eye(1, q.event_shape[0]))
    elif isinstance(q.base_dist, Bernoulli):
        at = Independent(Bernoulli(logits=q.base_dist.logits + shift), 1)
    else:
        at = Independent(Poisson(torch.ones(5, 2) * shift.exp()), 1)
    total = expectation(lambda z: 5 + 0 * z.sum(-1), at, num_samples=4)
    (gradient,) = torch.autograd.grad(total.sum(), shift)
    torch.testing.assert_close(gradient, torch.zeros(5, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("q", JOINT.values(), ids=JOINT)
def test_one_joint_sample_is_enough(q: Distribution) -> None:
    assert expectation(lambda z: z.sum(-1), q, num_samples=1).shape == (5,)


def test_an_explicit_choice_does_not_fall_back() -> None:
    from vaekit.estimators import Pathwise

    location: Tensor = torch.zeros(5, requires_grad=True)
    with pytest.raises(EstimatorError, match="no gradient path"):
        expectation(lambda z: z.sign(), {"z": Normal(location, 1.0)}, {"z": Pathwise()})


def test_large_straight_through_variable_gets_the_score_function() -> None:
    """Its ``rsample`` is biased, so ``Pathwise`` does not support it."""
    logits = torch.zeros(2, 100, requires_grad=True)
    q = OneHotCategoricalStraightThrough(logits=logits)
    expectation(lambda z: (z * torch.arange(100.0)).sum(-1), q).sum().backward()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("num_samples", [None, 3])
def test_long_vector_of_bits_is_unbiased(num_samples: int | None) -> None:
    """E[(sum of D fair bits)^2] has the derivative (2 m + 1 - 2 p) p (1 - p) with the others' mean m = (D - 1) / 2."""
    logits = torch.zeros(20_000, 8, dtype=torch.float64, requires_grad=True)
    q = Independent(Bernoulli(logits=logits), 1)
    result = evaluate(lambda z: z.sum(-1).square(), q, num_samples=num_samples)
    assert result.samples["value"].value.shape[0] == (2 if num_samples is None else 3)
    gradient = torch.autograd.grad(result.total.sum(), logits)[0].mean(1)
    error = gradient.std() / len(gradient) ** 0.5
    assert error < 0.01 * 2.0
    assert (gradient.mean() - (2 * 3.5 + 1) / 4).abs() < 4 * error
