"""Forms of costs and graphs, and the errors of both."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal

from vaekit import expectation
from vaekit.estimators import Enumerate, LeaveOneOut, MovingAverage, Pathwise, ScoreFunction
from vaekit.exceptions import EstimatorError
from vaekit.graph.dependencies import NodeFunction


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def bernoulli(*shape: int) -> tuple[Tensor, Bernoulli]:
    logits = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    return logits, Bernoulli(logits=logits)


class TestCost:
    def test_numpy_cost(self) -> None:
        logits, q = bernoulli(50)

        def simulator(z: Tensor) -> np.ndarray:
            return np.where(z.numpy() > 0.5, 3.0, -1.0)

        for estimator in (Enumerate(), ScoreFunction(num_samples=2, baseline=LeaveOneOut())):
            gradient = torch.autograd.grad(expectation(simulator, q, estimator).sum(), logits)[0]
            assert gradient.dtype == torch.float64
            if isinstance(estimator, Enumerate):
                torch.testing.assert_close(gradient, torch.full((50,), 1.0, dtype=torch.float64))
        assert gradient.abs().sum() > 0

    @pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32], ids=str)
    @pytest.mark.parametrize(
        "estimator",
        [
            Enumerate(),
            ScoreFunction(),
            ScoreFunction(baseline=LeaveOneOut()),
            ScoreFunction(baseline=MovingAverage()),
        ],
        ids=["enumerate", "score", "leave_one_out", "moving_average"],
    )
    def test_step_function_may_return_any_type(self, estimator, dtype: torch.dtype) -> None:
        logits, q = bernoulli(50)
        total = expectation(lambda z: (z > 0.5).to(dtype), q, estimator)
        assert total.shape == (50,)
        total.sum().backward()
        assert logits.grad.isfinite().all()

    def test_cost_may_be_a_number(self) -> None:
        assert expectation(lambda: 2.5, Normal(torch.zeros(()), 1.0)).item() == 2.5

    def test_keywords_receive_every_node(self) -> None:
        q = {name: Bernoulli(logits=torch.full((3,), value)) for name, value in {"a": 0.0, "b": 1.0}.items()}
        terms = {"all": lambda **nodes: nodes["a"] + nodes["b"], "one": lambda a, **_: a}
        torch.testing.assert_close(
            expectation(terms, q, Enumerate()), expectation(lambda a, b: 2 * a + b, q, Enumerate())
        )

    def test_defaults_that_are_not_nodes_are_kept(self) -> None:
        q = {"a": Bernoulli(logits=torch.zeros(3))}
        total = expectation(lambda a, scale=4.0, *_: scale * a, q, Enumerate())
        torch.testing.assert_close(total, torch.full((3,), 2.0))

    def test_parameter_of_a_single_node_may_have_any_name(self) -> None:
        q = Bernoulli(logits=torch.zeros(3))
        for cost in (
            lambda anything: 2 * anything,
            NodeFunction(lambda value: 2 * value, ("value",)),
            {"t": lambda x: 2 * x},
        ):
            torch.testing.assert_close(expectation(cost, q, Enumerate()), torch.ones(3))
        vector = Independent(Normal(torch.zeros(3, 2), 1.0), 1)
        assert expectation(torch.nn.Flatten(0, -1), Normal(torch.zeros(()), 1.0), Pathwise()).shape == ()
        assert expectation(lambda z: torch.sum(z, -1), vector, Pathwise()).shape == (3,)

    def test_modules_as_cost_and_as_conditional(self) -> None:
        class Conditional(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.slope = nn.Parameter(torch.tensor(2.0))

            def forward(self, y: Tensor) -> Normal:
                return Normal(self.slope * y, 1.0)

        class Cost(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.tensor(3.0))

            def forward(self, y: Tensor, z: Tensor) -> Tensor:
                return self.weight * (z + y)

        conditional, cost = Conditional(), Cost()
        q = {"y": Bernoulli(logits=torch.zeros(4000)), "z": conditional}
        expectation(cost, q, {"y": Enumerate(), "z": Pathwise()}).mean().backward()
        torch.testing.assert_close(conditional.slope.grad, torch.tensor(1.5))  # 3 E[y]
        torch.testing.assert_close(cost.weight.grad, torch.tensor(1.5), atol=0.1, rtol=0)  # E[2 y + y]

    def test_arguments_are_unchanged(self) -> None:
        q = {"y": Bernoulli(logits=torch.zeros(3)), "z": lambda y: Normal(y, 1.0)}
        cost, estimators = {"a": lambda y: y, "b": lambda z: z**2}, {"y": ScoreFunction()}
        context = torch.ones(3, 2)
        before = dict(q), dict(cost), dict(estimators), context.clone()
        expectation(cost, q, estimators, context=context)
        assert (q, cost, estimators) == before[:3]
        assert torch.equal(context, before[3])
        assert q["y"].batch_shape == (3,)

    def test_array_of_a_simulator_is_unchanged(self) -> None:
        table = np.array([1.0, np.inf, 3.0])
        total = expectation(lambda z: table, Bernoulli(logits=torch.zeros(3)), ScoreFunction())
        total.sum()
        assert table.tolist() == [1.0, np.inf, 3.0]


class TestErrors:
    Q = {"latent": Bernoulli(logits=torch.zeros(3)), "label": lambda latent: Bernoulli(logits=latent)}  # noqa: RUF012

    def test_unknown_name_in_the_cost(self) -> None:
        with pytest.raises(EstimatorError, match=r"^cost: node 'latnet' not found.*Did you mean 'latent'\?"):
            expectation(lambda latnet: latnet, self.Q)

    def test_unknown_name_in_a_term(self) -> None:
        with pytest.raises(EstimatorError, match=r"^cost\['kl'\]: node 'labels' not found.*Did you mean 'label'\?"):
            expectation({"kl": lambda labels: labels}, self.Q)

    def test_unknown_name_in_the_estimators(self) -> None:
        with pytest.raises(EstimatorError, match=r"estimator: node 'lable' not found.*Did you mean 'label'\?"):
            expectation(lambda label: label, self.Q, {"lable": Enumerate()})

    def test_unknown_parent(self) -> None:
        q = {"latent": self.Q["latent"], "label": lambda laten: Bernoulli(logits=laten)}
        with pytest.raises(EstimatorError, match=r"^q\['label'\]: node 'laten' not found.*Did you mean 'latent'\?"):
            expectation(lambda label: label, q)

    def test_cycle(self) -> None:
        q = {
            "root": Bernoulli(logits=torch.zeros(3)),
            "a": lambda root, b: Bernoulli(logits=b),
            "b": lambda a: Bernoulli(logits=a),
        }
        with pytest.raises(EstimatorError, match=r"cycle among \['a', 'b'\]"):
            expectation(lambda a: a, q)
        with pytest.raises(EstimatorError, match=r"cycle among \['a'\]"):
            expectation(lambda a: a, {"a": lambda a: Bernoulli(logits=a)})

    def test_no_nodes(self) -> None:
        with pytest.raises(EstimatorError, match="no nodes"):
            expectation(lambda: 0.0, {})

    def test_node_that_is_not_a_distribution(self) -> None:
        with pytest.raises(EstimatorError, match=r"q\['a'\] is a Tensor"):
            expectation(lambda a: a, {"a": torch.zeros(3)})
        with pytest.raises(EstimatorError, match=r"q\['b'\] returned a Tensor"):
            expectation(lambda b: b, {"a": Normal(0.0, 1.0), "b": lambda a: a})

    def test_named_cost_of_a_single_node_with_a_wrong_name(self) -> None:
        with pytest.raises(EstimatorError, match="'z'"):
            expectation(NodeFunction(lambda z: z, ("z",)), Normal(torch.zeros(2), 1.0))


def test_only_auto_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    expectation(lambda z: z, Normal(torch.zeros(2), 1.0), Pathwise())
    assert not caplog.records
