"""Sampling of the nodes: sample dimensions, joint samples, batch shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from vaekit import expectation
from vaekit.estimators import Enumerate, LeaveOneOut, Pathwise, ScoreFunction
from vaekit.exceptions import EstimatorError
from vaekit.graph.dependencies import NodeFunction
from vaekit.graph.expectation import evaluate


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class TestSampleDimensions:
    def test_independent_nodes_do_not_share_a_dimension(self) -> None:
        """With 4 and 1 samples, a shared dimension would broadcast the one against the four (38 instead of 10)."""
        logits = torch.zeros(2, 20_000, dtype=torch.float64, requires_grad=True)
        q = {"y": Bernoulli(logits=logits[0]), "z": Bernoulli(logits=logits[1])}
        shapes = []

        def cost(y: Tensor, z: Tensor) -> Tensor:
            shapes.append((y.shape, z.shape))
            return 4 * y + 8 * z

        estimators = {
            "y": ScoreFunction(num_samples=4, baseline=LeaveOneOut()),
            "z": ScoreFunction(num_samples=1),
        }
        total = expectation(cost, q, estimators)
        gradient = torch.autograd.grad(total.sum(), logits)[0]
        assert shapes == [((4, 20_000), (1, 1, 20_000))]
        error = gradient.std(1) / 20_000**0.5
        assert ((gradient.mean(1) - torch.tensor([1.0, 2.0])).abs() < 4 * error).all()

    def test_new_dimensions_lead(self) -> None:
        q = {
            "a": Bernoulli(logits=torch.zeros(5)),
            "b": lambda a: Bernoulli(logits=a),
            "c": lambda a: Bernoulli(logits=a),
            "d": Bernoulli(logits=torch.zeros(5)),
        }
        estimators = {n: ScoreFunction(num_samples=s) for n, s in zip("abcd", (2, 3, 4, 6), strict=True)}
        shapes = {
            n: d.value.shape for n, d in evaluate(lambda a, b, c, d: a + b + c + d, q, estimators).samples.items()
        }
        assert shapes == {"a": (2, 5), "b": (3, 2, 5), "c": (4, 1, 2, 5), "d": (6, 1, 1, 1, 5)}

    def test_declared_order_does_not_matter(self) -> None:
        nodes = {
            "c": lambda a, b: Bernoulli(logits=a - b),
            "b": lambda a: Bernoulli(logits=2 * a - 1),
            "a": Bernoulli(logits=torch.tensor([0.3])),
        }
        totals = [
            expectation(lambda a, b, c: a + 2 * b + 4 * c * a, {name: nodes[name] for name in order}, Enumerate())
            for order in ("cba", "abc", "bca")
        ]
        torch.testing.assert_close(totals[0], totals[1])
        torch.testing.assert_close(totals[0], totals[2])

    def test_enumerate_sums_over_a_product_of_nodes_and_variables(self) -> None:
        probs = torch.tensor([[0.2, 0.7], [0.5, 0.9]], dtype=torch.float64)
        q = {
            "a": Independent(Bernoulli(probs=probs), 1),
            "k": lambda a: Categorical(probs=torch.stack([1 + a[..., 0], 1 + a[..., 1], 2 + 0 * a[..., 0]], -1)),
        }
        result = evaluate(lambda a, k: a[..., 0] * (k + 1) ** 2 + a[..., 1], q, Enumerate())
        expected = []
        for p, r in probs.tolist():
            total = 0.0
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                probability = (p if i else 1 - p) * (r if j else 1 - r)
                weights = np.array([1 + i, 1 + j, 2]) / (4 + i + j)
                total += probability * (i * (weights @ np.array([1, 4, 9])) + j)
            expected.append(total)
        torch.testing.assert_close(result.total, torch.tensor(expected, dtype=torch.float64))
        assert result.samples["a"].value.shape == (4, 2, 2)
        assert result.samples["k"].value.shape == (3, 4, 2)


class TestJointSamples:
    @pytest.mark.parametrize("num_samples", [1, 2, 5])
    def test_chain_of_twelve_nodes_costs_one_evaluation_per_sample(self, num_samples: int) -> None:
        logits = torch.zeros(7, dtype=torch.float64, requires_grad=True)
        q: dict = {"n0": Bernoulli(logits=logits)}
        for i in range(1, 12):
            q[f"n{i}"] = NodeFunction(
                lambda i=i, **parent: Bernoulli(logits=parent[f"n{i - 1}"] + logits), (f"n{i - 1}",)
            )
        shapes = set()

        def cost(**nodes: Tensor) -> Tensor:
            shapes.update(value.shape for value in nodes.values())
            return sum(nodes.values())

        total = expectation(cost, q, ScoreFunction(), num_samples=num_samples)
        assert shapes == {(num_samples, 7)}
        assert torch.autograd.grad(total.sum(), logits)[0].isfinite().all()

    def test_pathwise_nodes_are_supported(self) -> None:
        location = torch.zeros(2, 6, requires_grad=True)
        q = {"a": Normal(location[0], 1.0), "b": lambda a: Normal(a + location[1], 1.0)}
        total = expectation(lambda a, b: 2 * a + 3 * b, q, Pathwise(num_samples=9), num_samples=4)
        gradient = torch.autograd.grad(total.sum(), location)[0]
        torch.testing.assert_close(gradient, torch.tensor([[5.0], [3.0]]).expand(2, 6))

    def test_joint_samples_are_independent(self) -> None:
        samples = evaluate(lambda a: a, {"a": Normal(torch.zeros(3), 1.0)}, Pathwise(), num_samples=50).samples
        assert samples["a"].value.unique().numel() == 150

    @pytest.mark.parametrize("num_samples", [0, -3])
    def test_number_must_be_positive(self, num_samples: int) -> None:
        with pytest.raises(EstimatorError, match=f"num_samples={num_samples}"):
            expectation(lambda z: z, Normal(torch.zeros(3), 1.0), num_samples=num_samples)


class TestBatch:
    @pytest.mark.parametrize("shape", [(), (2, 3)])
    def test_mixed_ranks_of_the_batch(self, shape: tuple[int, ...]) -> None:
        q = {"a": Normal(torch.zeros(3), 1.0), "b": Normal(torch.zeros(shape), 1.0)}
        with pytest.raises(EstimatorError, match=r"node 'b'.*the same number of batch dimensions"):
            expectation(lambda a, b: a + b, q)

    def test_conditional_that_drops_the_batch(self) -> None:
        q = {"a": Normal(torch.zeros(3), 1.0), "b": lambda a: Normal(a.mean(), 1.0)}
        with pytest.raises(EstimatorError, match=r"node 'b'.*batch shape"):
            expectation(lambda a, b: a + b, q)

    @pytest.mark.parametrize("num_samples", [None, 2])
    def test_node_without_a_batch_whose_child_has_one(self, num_samples: int | None) -> None:
        """Broadcasting would confuse the child's batch with samples of its parent: rejected if the sizes differ."""
        q = {"a": Normal(torch.zeros(()), 1.0), "b": lambda a: Normal(a.mean() + torch.zeros(5), 1.0)}
        with pytest.raises(EstimatorError, match=r"node 'b'.*batch shape \[5\].*shares has batch size 1"):
            expectation(lambda a, b: a + b, q, num_samples=num_samples)

    def test_node_shared_by_a_batch_has_size_1_there(self) -> None:
        q = {"a": Normal(torch.zeros(1), 1.0), "b": lambda a: Normal(a + torch.zeros(5), 1.0)}
        samples = evaluate(lambda a, b: a + b, q, Pathwise(num_samples=2)).samples
        assert samples["a"].value.shape == (2, 1)
        assert samples["b"].value.shape == (2, 2, 5)

    def test_context_reaches_the_samples(self) -> None:
        context = torch.randn(3, 2)
        q = {"y": Bernoulli(logits=torch.zeros(3)), "z": lambda y: Normal(y, 1.0)}
        samples = evaluate(lambda y, z: y + z, q, context=context).samples
        assert all(sample.context is context for sample in samples.values())


def test_same_seed_gives_the_same_bits() -> None:
    def run() -> Tensor:
        torch.manual_seed(7)
        logits = torch.zeros(20, requires_grad=True)
        q = {"y": Bernoulli(logits=logits), "z": lambda y: Normal(y, 1.0)}
        total = expectation(lambda y, z: (y + z) ** 2, q, {"y": ScoreFunction(), "z": Pathwise()})
        return torch.autograd.grad(total.sum(), logits)[0]

    assert torch.equal(run(), run())
