"""Expectations inside torch.compile: the same results and the same checks as without it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Normal

import vaekit
from vaekit.estimators import REBAR, DisARM, Estimator, LeaveOneOut, MuProp, Pathwise, ScoreFunction
from vaekit.graph.dependencies import NodeFunction

pytestmark = pytest.mark.usefixtures("no_checks_of_parameters")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def at() -> Tensor:
    return torch.full((4,), 0.3, requires_grad=True)


def square(value: Tensor) -> Tensor:
    return (value - 0.45) ** 2


def sign(value: Tensor) -> Tensor:
    return (value - 0.45).sign()


def normal(t: Tensor) -> Distribution:
    return Normal(t, 1.0)


def bernoulli(t: Tensor) -> Distribution:
    return Bernoulli(logits=t)


CASES: dict[str, tuple[Callable[[Tensor], Distribution], Callable[[], Estimator | str], Callable]] = {
    "auto, normal": (normal, lambda: "auto", square),
    "auto, normal, step": (normal, lambda: "auto", sign),
    "auto, bernoulli": (bernoulli, lambda: "auto", square),
    "pathwise": (normal, Pathwise, square),
    "score": (normal, lambda: ScoreFunction(baseline=LeaveOneOut()), sign),
    "disarm": (bernoulli, DisARM, sign),
    "muprop": (bernoulli, lambda: MuProp(2), square),
    "rebar": (bernoulli, REBAR, square),
}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(("q", "make", "cost"), CASES.values(), ids=CASES)
def test_compiled_agrees_with_eager(q: Callable, make: Callable, cost: Callable, backend: str) -> None:
    estimator, actual = make(), []

    def step(t: Tensor, estimator: Estimator | str) -> Tensor:
        return 2 * vaekit.expectation(lambda z: cost(z), q(1 * t), estimator)

    for function in (step, torch.compile(step, backend=backend)):
        t, own = at(), copy.deepcopy(estimator)
        torch.manual_seed(0)
        total = function(t, own)
        total.sum().backward()
        actual.append((total.detach(), t.grad))
    torch.testing.assert_close(actual[0], actual[1])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_cost_without_a_path_is_not_a_silent_zero(named: bool, fullgraph: bool, backend: str) -> None:
    estimator = Pathwise(3)
    cost = NodeFunction(sign, ("value",)) if named else sign

    def step(t: Tensor) -> Tensor:
        return 2 * vaekit.expectation(cost, normal(t), estimator)

    message = "no gradient path" if named or not fullgraph else "outside the compiled graph"
    with pytest.raises(Exception, match=message):
        torch.compile(step, backend=backend, fullgraph=fullgraph)(at())


def test_a_full_graph_with_automatic_estimators_is_rejected_with_the_reason() -> None:
    step = torch.compile(lambda t: vaekit.expectation(square, normal(t)), backend="eager", fullgraph=True)
    with pytest.raises(
        Exception, match=r"outside the compiled graph.*Give functions as NodeFunction and estimators by class"
    ):
        step(at())


def test_importance_weighted_bound_compiles() -> None:
    def bound(t: Tensor) -> Tensor:
        return vaekit.importance_weighted_bound(lambda z: -(z**2), normal(t), num_samples=3)

    actual = []
    for function in (bound, torch.compile(bound, backend="aot_eager")):
        t = at()
        torch.manual_seed(0)
        actual.append(torch.autograd.grad(function(t).sum(), t)[0])
    torch.testing.assert_close(actual[0], actual[1])
