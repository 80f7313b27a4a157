"""Second derivatives through an expectation: correct, exactly or on average, or rejected."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian
from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical

import vaekit
from vaekit.estimators import (
    REBAR,
    Enumerate,
    Estimator,
    GumbelSoftmax,
    LeaveOneOut,
    LocalExpectation,
    MeasureValued,
    Pathwise,
    RaoBlackwell,
    ScoreFunction,
    SelfCritic,
    StraightThrough,
    UnorderedSet,
)
from vaekit.exceptions import EstimatorError
from vaekit.graph.expectation import evaluate

from .conformance import TABLE, Row
from .graphs import Graph, above, as_expectation, below, independent, single
from .oracle import expected_cost
from .test_contract import context_of

THRESHOLD, REPLICATES = 4.0, 20_000
DISCRETE = [
    independent("bernoulli", "categorical"),
    below("categorical", "bernoulli"),
    above("bernoulli_vector", "categorical"),
]


def hessian_of(function: Callable[[dict[str, Tensor]], Tensor], graph: Graph) -> Tensor:
    """Return the Hessian of a function of a graph's parameters, as one matrix."""
    parameters = graph.parameters()
    flat = torch.cat([value.flatten() for value in parameters.values()])
    sizes = [value.numel() for value in parameters.values()]

    def unflattened(flat: Tensor) -> Tensor:
        parts = zip(parameters.items(), flat.split(sizes), strict=True)
        return function({name: part.reshape(value.shape) for (name, value), part in parts})

    return hessian(unflattened, flat)


@pytest.mark.parametrize("graph", DISCRETE, ids=lambda graph: graph.name)
@pytest.mark.parametrize(
    "make",
    [Enumerate, lambda: "auto", lambda: RaoBlackwell(num_exact=5, num_samples=5), lambda: UnorderedSet(8)],
    ids=["enumerate", "auto", "rao_blackwell", "unordered_set"],
)
def test_hessian_of_an_exact_sum_is_exact(graph: Graph, make: Callable[[], Estimator | str]) -> None:
    estimator = make()

    def estimated(parameters: dict[str, Tensor]) -> Tensor:
        cost, q = as_expectation(graph, parameters)
        return vaekit.expectation(cost, q, estimator)

    torch.testing.assert_close(
        hessian_of(estimated, graph), hessian_of(lambda parameters: expected_cost(graph, parameters), graph)
    )


@pytest.mark.parametrize("estimator", [Enumerate(), LocalExpectation(), "auto"], ids=str)
def test_hessian_of_a_cost_in_terms_by_every_method(estimator: Estimator | str) -> None:
    """``LocalExpectation`` also sums a single variable exactly. Each term depends on one node."""

    def terms(t: Tensor) -> Tensor:
        q = {"a": Bernoulli(logits=t[0]), "b": lambda a: Bernoulli(logits=t[1] * (a - t[0]))}
        costs = {"first": lambda a: (a - t[1]) ** 2, "second": lambda b: (b - 0.4) ** 3}
        return vaekit.expectation(costs, q, estimator)

    def exact(t: Tensor) -> Tensor:
        total = torch.zeros((), dtype=t.dtype)
        for a in (0.0, 1.0):
            one = (t[1] * (a - t[0])).sigmoid()
            weight = t[0].sigmoid() if a else (-t[0]).sigmoid()
            total = total + weight * ((a - t[1]) ** 2 + one * 0.6**3 - (1 - one) * 0.4**3)
        return total

    t = torch.tensor([0.3, -0.7], dtype=torch.float64)
    expected = hessian(exact, t)
    ways = {
        "hessian": lambda: hessian(terms, t),
        "reverse": lambda: torch.func.jacrev(torch.func.jacrev(terms))(t),
    }
    if not isinstance(estimator, LocalExpectation):
        ways["torch.func.hessian"] = lambda: torch.func.hessian(terms)(t)
    for name, way in ways.items():
        torch.testing.assert_close(way(), expected, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(
        torch.func.jacrev(torch.func.jacrev(torch.func.jacrev(terms)))(t),
        torch.func.jacrev(torch.func.jacrev(torch.func.jacrev(exact)))(t),
    )


RANDOM = {
    "score": (ScoreFunction, ("normal", "categorical_vector")),
    "score_loo_3": (lambda: ScoreFunction(3, LeaveOneOut()), ("normal", "categorical")),
    "score_critic": (lambda: ScoreFunction(baseline=SelfCritic()), ("bernoulli_vector",)),
    "rao_blackwell": (RaoBlackwell, ("categorical_vector",)),
    "rao_blackwell_2_2": (lambda: RaoBlackwell(2, 2), ("categorical_vector",)),
    "unordered_set": (UnorderedSet, ("categorical_vector",)),
    "unordered_set_3": (lambda: UnorderedSet(3), ("bernoulli_vector",)),
    "local_expectation": (LocalExpectation, ("bernoulli_vector", "categorical_vector")),
    "pathwise": (Pathwise, ("normal",)),
    "pathwise_stl": (lambda: Pathwise(stick_the_landing=True), ("normal",)),
}
GRAPHS = [
    (make, graph)
    for make, kinds in RANDOM.values()
    for kind in kinds
    for graph in (single(kind), below(kind, "normal"), above(kind, "bernoulli"))
]
NAMES = [
    f"{name}-{graph}" for name, (_, kinds) in RANDOM.items() for kind in kinds for graph in ("alone", "below", "above")
]


@pytest.mark.parametrize(("make", "graph"), GRAPHS, ids=NAMES)
def test_second_derivatives_by_sampling_have_the_right_mean(
    make: Callable[[], Estimator], graph: Graph, request: pytest.FixtureRequest
) -> None:
    """Hessian times a fixed direction, one replicate per entry of the batch; other nodes have the score function."""
    torch.manual_seed(zlib.crc32(request.node.name.encode()))
    parameters = graph.parameters()
    direction = {
        name: torch.cos(torch.arange(p.numel()) + len(name)).reshape(p.shape) for name, p in parameters.items()
    }

    def product(leaves: dict[str, Tensor], total: Tensor) -> Tensor:
        gradients = torch.autograd.grad(total.sum(), list(leaves.values()), create_graph=True)
        along = sum((g * direction[name]).sum() for name, g in zip(leaves, gradients, strict=True))
        second = torch.autograd.grad(along, list(leaves.values()))
        return torch.cat([g.reshape(*total.shape, -1) for g in second], -1)

    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    exact = product(leaves, expected_cost(graph, leaves))
    many = {name: p.expand(REPLICATES, *p.shape).clone().requires_grad_() for name, p in parameters.items()}
    cost, q = as_expectation(graph, many)
    estimators = {node.name: ScoreFunction() if node.name == "w" else make() for node in graph.nodes}
    actual = product(many, vaekit.expectation(cost, q, estimators))
    error = actual.std(0) / REPLICATES**0.5
    assert ((actual.mean(0) - exact).abs() / (error + 1e-6 * exact.norm())).max() < THRESHOLD
    assert (error < 0.2 * exact.norm()).all(), "too few replicates to see a missing part"


FIRST_ORDER = [row for row in TABLE if not row.make().higher_order]


def test_the_table_has_estimators_of_both_sorts() -> None:
    assert 0 < len(FIRST_ORDER) < len(TABLE)


@pytest.mark.parametrize("row", FIRST_ORDER, ids=lambda row: row.name)
@pytest.mark.parametrize("way", ["nodes", "mixed", "mixed, cost first", "through the parent"])
def test_first_order_estimators_reject_second_derivatives(row: Row, way: str) -> None:
    kind = row.kinds[-1]
    graph = below(kind, "normal") if way == "through the parent" else single(kind)
    leaves = {name: p.requires_grad_() for name, p in graph.parameters().items()}
    cost, q = as_expectation(graph, leaves)
    estimators = {"w": Pathwise(), "x": row.make()} if "w" in q else row.make()
    total = vaekit.expectation(cost, q, estimators, context=context_of(()))
    node = "w.location" if way == "through the parent" else "x.location"
    first, second = {
        "nodes": (node, node), "mixed": (node, "cost.offset"), "mixed, cost first": ("cost.offset", node),
        "through the parent": (node, node),
    }[way]  # fmt: skip
    (gradient,) = torch.autograd.grad(total, leaves[first], create_graph=True)
    straight = row.name.startswith(("straight", "gumbel", "reinmax"))
    if straight and way == "mixed":  # the straight-through gradient of a derivative of the cost is of first order
        assert torch.autograd.grad(gradient.sum(), leaves[second])[0].isfinite().all()
        return
    with pytest.raises(EstimatorError, match=r"second derivative.*Use Enumerate"):
        torch.autograd.grad(gradient.sum(), leaves[second])


@pytest.mark.parametrize("row", FIRST_ORDER, ids=lambda row: row.name)
def test_second_derivatives_by_the_parameters_of_the_cost_are_allowed(row: Row) -> None:
    graph = single(row.kinds[-1])
    leaves = {name: p.requires_grad_() for name, p in graph.parameters().items()}
    cost, q = as_expectation(graph, leaves)
    total = vaekit.expectation(cost, q, row.make(), context=context_of(()))
    (gradient,) = torch.autograd.grad(total, leaves["cost.offset"], create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(gradient, leaves["cost.offset"])[0], torch.ones_like(gradient))


@pytest.mark.parametrize("transform", [torch.func.jacrev, lambda f: torch.func.jacfwd(f, randomness="same")])
@pytest.mark.parametrize("estimator", [StraightThrough(), MeasureValued(), GumbelSoftmax(hard=True)], ids=str)
def test_functional_transforms_reject_it_too(estimator: Estimator, transform: Callable) -> None:
    t = torch.tensor([0.3, -0.2])

    def value(t: Tensor) -> Tensor:
        return vaekit.expectation(lambda b: (b.sum(-1) - 0.4) ** 2, Independent(Bernoulli(logits=t), 1), estimator)

    assert transform(value)(t).isfinite().all()
    for other in (torch.func.jacrev, lambda f: torch.func.jacfwd(f, randomness="same")):
        with pytest.raises(EstimatorError, match="second derivative"):
            other(transform(value))(t)


def test_a_learned_control_variate_above_them_is_trained() -> None:
    """REBAR differentiates its own estimate, in which deeper nodes are correct to first order only."""
    estimator = REBAR()
    logits = torch.zeros(50, requires_grad=True)
    q = {"a": Bernoulli(logits=logits), "b": lambda a: Bernoulli(logits=a - 0.3)}
    total = evaluate(lambda a, b: (a + b - 0.4) ** 2, q, {"a": estimator, "b": MeasureValued()}).total
    total.mean().backward()
    assert estimator.scale.grad is not None
    assert estimator.scale.grad.abs() > 0


@pytest.mark.parametrize("estimator", [Pathwise(), ScoreFunction(baseline=LeaveOneOut())], ids=["dreg", "vimco"])
def test_importance_weighted_bound_rejects_second_derivatives(estimator: Estimator) -> None:
    loc, offset = torch.tensor(0.4, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    bound = vaekit.importance_weighted_bound(
        lambda z: Normal(0.0, 1.0).log_prob(z) + Normal(z, 1.0).log_prob(offset), Normal(loc, 1.0), estimator,
        num_samples=3,
    )  # fmt: skip
    for first, second in ((loc, loc), (loc, offset), (offset, loc)):
        (gradient,) = torch.autograd.grad(bound, first, create_graph=True)
        with pytest.raises(EstimatorError, match="second derivative"):
            torch.autograd.grad(gradient, second, retain_graph=True)


def test_impossible_states_have_second_derivatives_without_nan() -> None:
    logits = torch.tensor([0.3, -torch.inf, -0.4], dtype=torch.float64)
    free = torch.zeros(3, dtype=torch.float64)

    def value(t: Tensor) -> Tensor:
        q = OneHotCategorical(logits=logits + t, validate_args=False)
        return vaekit.expectation(lambda z: (z @ torch.arange(3.0, dtype=z.dtype) - 0.4) ** 2, q, Enumerate())

    actual = hessian(value, free)
    assert actual.isfinite().all()
    rest = hessian(lambda t: value(torch.stack([t[0], t.new_zeros(()), t[1]])), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(actual[0, 0], rest[0, 0])
    assert actual[0, 0] != 0
