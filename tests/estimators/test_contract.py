"""The contract of every estimator, biased or not: one property per test, for all rows of the table."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vaekit._core.components import from_config
from vaekit.estimators import RELAX, Estimator, LearnedBaseline, NodeSample, ScoreFunction
from vaekit.exceptions import EstimatorError
from vaekit.graph.dependencies import NodeFunction
from vaekit.graph.expectation import expectation
from vaekit.networks import MLP

from .conformance import CONTEXT_FEATURES, KINDS, TABLE, Row
from .graphs import SUMMARY, Graph, as_expectation, below, distribution, single, summary

PAIRS = [(row, kind) for row in TABLE for kind in row.kinds]
by_pair = pytest.mark.parametrize(("row", "kind"), PAIRS, ids=[f"{row.name}-{kind}" for row, kind in PAIRS])
by_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)


def leaves(graph: Graph, batch: tuple[int, ...], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {n: p.expand((*batch, *p.shape)).to(dtype).clone().requires_grad_() for n, p in graph.parameters().items()}


def context_of(batch: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(-1, 1, CONTEXT_FEATURES, dtype=dtype).expand((*batch, CONTEXT_FEATURES))


def sample_of(estimator: Estimator, kind: str, batch: tuple[int, ...] = (5,)) -> NodeSample:
    graph = single(kind)
    sample = estimator.sample(distribution(graph, graph.nodes[0], leaves(graph, batch), {}))
    return sample._replace(context=context_of(batch))


def run(estimators: dict[str, Estimator], graph: Graph, batch: tuple[int, ...], dtype: torch.dtype = torch.float64):
    """Return the expectation, and the gradient of its sum with respect to each leaf."""
    parameters = leaves(graph, batch, dtype)
    cost, q = as_expectation(graph, parameters)
    total = expectation(cost, q, estimators, context=context_of(batch, dtype))
    gradients = torch.autograd.grad(total.sum(), list(parameters.values()))
    return total.detach(), dict(zip(parameters, gradients, strict=True))


@by_pair
@pytest.mark.parametrize("batch", [(), (5,), (2, 5)], ids=["rank_0", "rank_1", "rank_2"])
def test_sample_has_the_promised_shapes(row: Row, kind: str, batch: tuple[int, ...]) -> None:
    estimator = row.make()
    sample = sample_of(estimator, kind, batch)
    rows = estimator.num_evaluations(sample.q)
    assert sample.value.shape == (rows, *batch, *SUMMARY[kind].shape)
    assert sample.weight.shape[0] == rows
    weight = sample.weight.expand(rows, *batch)
    torch.testing.assert_close(weight.sum(0), torch.ones(batch, dtype=torch.float64))
    assert sample.log_prob is None or sample.log_prob.shape == (rows, *batch)
    if estimator.stick_the_landing:  # its correction subtracts the score from the gradient of the value
        assert sample.log_prob is not None
        assert sample.value.requires_grad
    else:
        one = (sample.log_prob is None) == sample.value.requires_grad
        assert one, "a gradient comes from the value or from the score"


@by_pair
def test_correction_has_the_value_zero(row: Row, kind: str) -> None:
    estimator = row.make()
    sample = sample_of(estimator, kind)
    for _ in range(3):  # the state of a baseline changes with its use
        cost = 1e3 * torch.randn(len(sample.value), 5, dtype=torch.float64)
        before = cost.clone()
        assert (estimator.correction(sample, cost) == 0).all()
        assert torch.equal(cost, before)


@by_pair
def test_sampling_changes_neither_the_distribution_nor_the_estimator(row: Row, kind: str) -> None:
    estimator, graph = row.make(), single(kind)
    parameters = leaves(graph, (5,))
    before = {name: value.detach().clone() for name, value in parameters.items()}
    state = copy.deepcopy(estimator.state_dict())
    estimator.sample(distribution(graph, graph.nodes[0], parameters, {}))
    assert all(torch.equal(parameters[name], before[name]) for name in before)
    assert all(p.grad is None for p in parameters.values())
    assert all(torch.equal(value, state[name]) for name, value in estimator.state_dict().items())


@by_row
def test_supports_agrees_with_the_table(row: Row) -> None:
    for kind in KINDS:
        graph = single(kind)
        q = distribution(graph, graph.nodes[0], graph.parameters(), {})
        assert type(row.make()).supports(q) == (kind in row.kinds), kind


@by_pair
@pytest.mark.parametrize(("batch", "flat"), [((), (1,)), ((2, 3), (6,))], ids=["rank_0", "rank_2"])
def test_batch_of_another_rank_gives_the_same_numbers(
    row: Row, kind: str, batch: tuple[int, ...], flat: tuple[int, ...]
) -> None:
    actual = []
    for shape in (batch, flat):
        torch.manual_seed(1)
        estimators = {"x": row.make(), "w": ScoreFunction()}
        actual.append(run(estimators, below(kind, "normal"), shape))
    (total, gradients), (flat_total, flat_gradients) = actual
    assert total.shape == batch
    torch.testing.assert_close(total.flatten(), flat_total)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient.reshape(flat_gradients[name].shape), flat_gradients[name])


@by_pair
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_the_parameters(row: Row, kind: str, dtype: torch.dtype) -> None:
    total, gradients = run({"x": row.make().to(dtype)}, single(kind), (4,), dtype)
    assert total.dtype == dtype
    assert {g.dtype for g in gradients.values()} == {dtype}


@by_row
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["deepcopy", "pickle"])
def test_copies_continue_alike(row: Row, copier) -> None:
    estimator, graph = row.make(), single(row.kinds[0])
    for _ in range(3):
        run({"x": estimator}, graph, (4,))
    alike(estimator, copier(estimator), graph)


@by_row
def test_state_dict_contains_the_learned_state(row: Row) -> None:
    estimator, graph = row.make(), single(row.kinds[0])
    for _ in range(3):
        run({"x": estimator}, graph, (4,))
    restored = row.make()
    restored.load_state_dict(estimator.state_dict())
    alike(estimator, restored, graph)


def alike(first: Estimator, second: Estimator, graph: Graph) -> None:
    """Assert that two estimators agree from one seed, and that the use of one does not change the other."""
    actual = []
    for estimator in (first, second):
        torch.manual_seed(1)
        actual.append([run({"x": estimator}, graph, (4,)) for _ in range(2)])
    for (total, gradients), (other_total, other) in zip(*actual, strict=True):
        assert torch.equal(total, other_total)
        assert all(torch.equal(gradients[name], other[name]) for name in gradients)


def with_network(make: Callable[[MLP], Estimator]) -> Callable[[], Estimator]:
    """Return a constructor of an estimator with a configurable network, built for ``categorical`` nodes."""

    def result() -> Estimator:
        estimator = make(MLP([4]))
        estimator.build(CONTEXT_FEATURES, SUMMARY["categorical"].numel())
        return estimator.double()

    return result


# The networks of these rows are plain torch modules, which a configuration cannot contain.
NETWORKS = {
    "score_learned": with_network(lambda network: ScoreFunction(baseline=LearnedBaseline(network))),
    "relax": with_network(RELAX),
    "relax_black_box": with_network(lambda network: RELAX(network, temperature=None)),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_config_recreates_one_with_a_network(make: Callable[[], Estimator]) -> None:
    estimator = make()
    again = from_config(estimator.config)
    again.build(CONTEXT_FEATURES, SUMMARY["categorical"].numel())
    again = again.double()
    assert again.config == estimator.config
    again.load_state_dict(estimator.state_dict())
    alike(estimator, again, single("categorical"))


@pytest.mark.parametrize("row", [row for row in TABLE if row.name not in NETWORKS], ids=lambda row: row.name)
def test_config_recreates_it(row: Row) -> None:
    estimator = row.make()
    again = from_config(estimator.config)
    assert type(again) is type(estimator)
    assert again.config == estimator.config
    alike(estimator, again, single(row.kinds[0]))


@by_row
def test_joint_samples_are_supported_or_rejected(row: Row) -> None:
    graph = single(row.kinds[0])
    cost, q = as_expectation(graph, leaves(graph, (4,)))
    if row.joint:
        assert expectation(cost, q, row.make(), num_samples=3, context=context_of((4,))).shape == (4,)
    else:
        with pytest.raises(EstimatorError, match="joint samples"):
            expectation(cost, q, row.make(), num_samples=3)


@by_row
def test_works_without_gradients_and_in_eval_mode(row: Row) -> None:
    estimator, graph = row.make().eval(), single(row.kinds[0])
    cost, q = as_expectation(graph, leaves(graph, (4,)))
    with torch.no_grad():
        total = expectation(cost, q, estimator, context=context_of((4,)))
    assert not total.requires_grad
    assert total.isfinite().all()


@pytest.mark.usefixtures("no_checks_of_parameters")
@by_row
def test_step_compiles_in_one_graph(row: Row) -> None:
    """Costs are a ``NodeFunction``, because torch.compile cannot read signatures."""
    estimator, kind = row.make(), row.kinds[-1]
    graph = single(kind)
    node = graph.nodes[0]

    def step(at: Tensor, context: Tensor) -> Tensor:
        parameters = {**fixed, "x.location": at}
        q = distribution(graph, node, parameters, {})
        return expectation(
            NodeFunction(lambda x: (summary(kind, x) - 0.3) ** 2, ("x",)), {"x": q}, estimator, context=context
        )

    fixed = leaves(graph, (4,))
    at, context = fixed.pop("x.location"), context_of((4,))
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    if row.graph_break:
        with pytest.raises(torch._dynamo.exc.Unsupported, match=row.graph_break):
            compiled(at, context)
        return
    results = []
    other = copy.deepcopy(estimator)
    for function in (compiled, step):
        torch.manual_seed(1)
        total = function(at, context)
        results.append((total.detach(), torch.autograd.grad(total.sum(), at)[0]))
        estimator = other  # with the same initial state
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_names_of_the_table_are_unique_and_cover_the_catalog() -> None:
    import vaekit.estimators as package

    assert len({row.name for row in TABLE}) == len(TABLE)
    exported = {getattr(package, name) for name in package.__all__}
    estimators = {c for c in exported if isinstance(c, type) and issubclass(c, Estimator) and c is not Estimator}
    assert estimators == {type(row.make()) for row in TABLE}


@by_row
def test_unbiased_agrees_with_the_table(row: Row) -> None:
    assert row.make().unbiased == row.unbiased
