"""The fold: axes, credit by name, joint trajectories, the ways to write a cost, and the errors of a graph."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal, OneHotCategorical

from vaekit import expectation
from vaekit.estimators import Draw, Enumerate, LeaveOneOut, MovingAverage, Pathwise, ScoreFunction, SelfCritic
from vaekit.exceptions import EstimatorError
from vaekit.stochastic_graph import Named, evaluate

SCORE = {
    "score": ScoreFunction,
    "leave_one_out": lambda: ScoreFunction(num_samples=3, baseline=LeaveOneOut()),
    "self_critic": lambda: ScoreFunction(baseline=SelfCritic()),
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def bernoulli(*shape: int) -> tuple[Tensor, Bernoulli]:
    logits = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    return logits, Bernoulli(logits=logits)


class TestAxes:
    def test_independent_nodes_do_not_share_an_axis(self) -> None:
        """With 4 and 1 samples, a shared axis would broadcast the one against the four (38 instead of 10)."""
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

    def test_new_axes_lead(self) -> None:
        q = {
            "a": Bernoulli(logits=torch.zeros(5)),
            "b": lambda a: Bernoulli(logits=a),
            "c": lambda a: Bernoulli(logits=a),
            "d": Bernoulli(logits=torch.zeros(5)),
        }
        estimators = {n: ScoreFunction(num_samples=s) for n, s in zip("abcd", (2, 3, 4, 6), strict=True)}
        shapes = {n: d.value.shape for n, d in evaluate(lambda a, b, c, d: a + b + c + d, q, estimators).draws.items()}
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
                share = (p if i else 1 - p) * (r if j else 1 - r)
                weights = np.array([1 + i, 1 + j, 2]) / (4 + i + j)
                total += share * (i * (weights @ np.array([1, 4, 9])) + j)
            expected.append(total)
        torch.testing.assert_close(result.total, torch.tensor(expected, dtype=torch.float64))
        assert result.draws["a"].value.shape == (4, 2, 2)
        assert result.draws["k"].value.shape == (3, 4, 2)


class TestCredit:
    """A term enters the correction of a node only where the node can influence it."""

    @staticmethod
    def variance(cost: dict[str, Callable[..., Tensor]], estimator: str, joint: bool = False) -> Tensor:
        """Return the variance of the gradient at each of two independent nodes and a child of the first."""
        logits = torch.zeros(3, 5000, dtype=torch.float64, requires_grad=True)
        q = {
            "y": Bernoulli(logits=logits[0]),
            "other": Bernoulli(logits=logits[1]),
            "child": lambda y: Bernoulli(logits=logits[2] + y),
        }
        total = expectation(cost, q, SCORE[estimator](), num_samples=3 if joint else None)
        return torch.autograd.grad(total.sum(), logits)[0].var(1)

    @pytest.mark.parametrize("estimator", SCORE)
    def test_unrelated_term_leaves_the_variance_alone(self, estimator: str) -> None:
        terms = {"y": lambda y: y, "child": lambda child: 3 * child, "other": lambda other: other}
        torch.manual_seed(1)
        plain = self.variance(terms, estimator)
        torch.manual_seed(1)
        huge = self.variance({**terms, "huge": lambda other: 1e4 * other}, estimator)
        torch.testing.assert_close(huge[[0, 2]], plain[[0, 2]])
        assert huge[1] > 100 * plain[1]

    def test_unrelated_term_leaves_it_alone_in_joint_trajectories(self) -> None:
        terms = {"y": lambda y: y, "child": lambda child: 3 * child, "other": lambda other: other}
        torch.manual_seed(1)
        plain = self.variance(terms, "score", joint=True)
        torch.manual_seed(1)
        huge = self.variance({**terms, "huge": lambda other: 1e4 * other}, "score", joint=True)
        torch.testing.assert_close(huge[[0, 2]], plain[[0, 2]])

    def test_term_of_a_child_is_credited_to_its_ancestors(self) -> None:
        logits, y = bernoulli(100_000)
        q = {"y": y, "child": lambda y: Bernoulli(logits=4 * y)}
        total = expectation({"y": lambda y: y, "child": lambda child: child}, q, ScoreFunction(num_samples=1))
        gradient = torch.autograd.grad(total.sum(), logits)[0]
        exact = 0.25 * (1 + torch.sigmoid(torch.tensor(4.0)).item() - 0.5)
        assert abs(gradient.mean() - exact) < 4 * gradient.std() / 100_000**0.5

    def test_parent_is_not_charged_to_its_child(self) -> None:
        """A y-only term has no business in the gradient of z given y, though z's axis comes after y's."""
        logits = torch.zeros(5000, dtype=torch.float64, requires_grad=True)
        y = Bernoulli(logits=torch.zeros(5000, dtype=torch.float64))

        def variance(scale: float) -> Tensor:
            torch.manual_seed(1)
            terms = {"y": lambda y: scale * y, "z": lambda z: z}
            total = expectation(terms, {"y": y, "z": lambda y: Bernoulli(logits=logits + y)}, ScoreFunction())
            return torch.autograd.grad(total.sum(), logits)[0].var()

        torch.testing.assert_close(variance(1e4), variance(0.0))

    def test_term_of_one_node_has_axes_of_another_too(self) -> None:
        """z depends on y, so a z-only term has y's axis: credit goes by name, not by counting axes."""
        logits = torch.zeros(5000, dtype=torch.float64, requires_grad=True)
        y = Bernoulli(logits=torch.zeros(5000, dtype=torch.float64))
        q = {"y": y, "w": Bernoulli(logits=logits), "z": lambda y: Bernoulli(logits=y)}

        def variance(scale: float) -> Tensor:
            torch.manual_seed(1)
            total = expectation({"z": lambda z: scale * z, "w": lambda w: w}, q, ScoreFunction())
            return torch.autograd.grad(total.sum(), logits)[0].var()

        torch.testing.assert_close(variance(1e4), variance(0.0))

    def test_correction_sees_the_gradient_of_the_corrections_below(self) -> None:
        """What a control variate above would differentiate is the whole fold so far, not the bare cost."""
        seen = {}

        class Spy(ScoreFunction):
            def correction(self, draw: Draw, cost: Tensor) -> Tensor:
                seen["cost"] = cost
                return super().correction(draw, cost)

        logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        q = {"y": Bernoulli(logits=torch.zeros(3)), "z": lambda y: Bernoulli(logits=logits + y)}
        result = evaluate({"y": lambda y: 5 * y, "z": lambda z: z + 2}, q, {"y": Spy(), "z": ScoreFunction()})
        z, y = result.draws["z"].value[0, 0], result.draws["y"].value[0]
        gradient = torch.autograd.grad(seen["cost"].sum(), logits, retain_graph=True)[0]
        torch.testing.assert_close(gradient, ((z + 2) * (z - torch.sigmoid(y))).double())
        torch.testing.assert_close(seen["cost"][0].detach(), (5 * y + z + 2).double())

    def test_terms_are_reported_and_add_up(self) -> None:
        result = evaluate(
            {"a": lambda y: 3 * y, "b": lambda y, z: y * z, "c": lambda: torch.ones(4)},
            {"y": Bernoulli(logits=torch.zeros(4)), "z": lambda y: Bernoulli(logits=y)},
            Enumerate(),
        )
        assert {name: tuple(term.shape) for name, term in result.terms.items()} == {
            "a": (4,),
            "b": (4,),
            "c": (4,),
        }
        torch.testing.assert_close(sum(result.terms.values()), result.total)
        torch.testing.assert_close(result.terms["a"], torch.full((4,), 1.5))
        assert not any(term.requires_grad for term in result.terms.values())

    def test_weights_count_in_the_reported_terms(self) -> None:
        q = {"y": Bernoulli(logits=torch.full((4,), -30.0)), "z": lambda y: Bernoulli(logits=y)}
        estimators = {"y": ScoreFunction(num_samples=2, baseline=SelfCritic()), "z": Enumerate()}
        terms = evaluate({"a": lambda y: 7 + y, "b": lambda z: z}, q, estimators).terms
        torch.testing.assert_close(terms["a"], torch.full((4,), 7.0))
        torch.testing.assert_close(terms["b"], torch.full((4,), 0.5))


class TestJointTrajectories:
    @pytest.mark.parametrize("num_samples", [1, 2, 5])
    def test_chain_of_twelve_nodes_costs_one_evaluation_a_trajectory(self, num_samples: int) -> None:
        logits, first = bernoulli(7)
        q: dict = {"n0": first}
        for i in range(1, 12):
            q[f"n{i}"] = Named(lambda i=i, **parent: Bernoulli(logits=parent[f"n{i - 1}"] + logits), (f"n{i - 1}",))
        shapes = set()

        def cost(**nodes: Tensor) -> Tensor:
            shapes.update(value.shape for value in nodes.values())
            return sum(nodes.values())

        total = expectation(cost, q, ScoreFunction(), num_samples=num_samples)
        assert shapes == {(num_samples, 7)}
        assert torch.autograd.grad(total.sum(), logits)[0].isfinite().all()

    def test_pathwise_nodes_go_along(self) -> None:
        location = torch.zeros(2, 6, requires_grad=True)
        q = {"a": Normal(location[0], 1.0), "b": lambda a: Normal(a + location[1], 1.0)}
        total = expectation(lambda a, b: 2 * a + 3 * b, q, Pathwise(num_samples=9), num_samples=4)
        gradient = torch.autograd.grad(total.sum(), location)[0]
        torch.testing.assert_close(gradient, torch.tensor([[5.0], [3.0]]).expand(2, 6))

    def test_trajectories_are_independent(self) -> None:
        draws = evaluate(lambda a: a, {"a": Normal(torch.zeros(3), 1.0)}, Pathwise(), num_samples=50).draws
        assert draws["a"].value.unique().numel() == 150

    @pytest.mark.parametrize("num_samples", [0, -3])
    def test_number_must_be_positive(self, num_samples: int) -> None:
        with pytest.raises(EstimatorError, match=f"num_samples is {num_samples}"):
            expectation(lambda z: z, Normal(torch.zeros(3), 1.0), num_samples=num_samples)


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

    def test_numbers_alone(self) -> None:
        assert expectation(lambda: 2.5, Normal(torch.zeros(()), 1.0)).item() == 2.5

    def test_keywords_take_every_node(self) -> None:
        q = {name: Bernoulli(logits=torch.full((3,), value)) for name, value in {"a": 0.0, "b": 1.0}.items()}
        terms = {"all": lambda **nodes: nodes["a"] + nodes["b"], "one": lambda a, **_: a}
        torch.testing.assert_close(
            expectation(terms, q, Enumerate()), expectation(lambda a, b: 2 * a + b, q, Enumerate())
        )

    def test_defaults_that_are_no_nodes_stay(self) -> None:
        q = {"a": Bernoulli(logits=torch.zeros(3))}
        total = expectation(lambda a, scale=4.0, *_: scale * a, q, Enumerate())
        torch.testing.assert_close(total, torch.full((3,), 2.0))

    def test_parameter_of_a_single_node_may_have_any_name(self) -> None:
        q = Bernoulli(logits=torch.zeros(3))
        for cost in (
            lambda whatever: 2 * whatever,
            Named(lambda value: 2 * value, ("value",)),
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

    def test_nothing_given_is_changed(self) -> None:
        q = {"y": Bernoulli(logits=torch.zeros(3)), "z": lambda y: Normal(y, 1.0)}
        cost, estimators = {"a": lambda y: y, "b": lambda z: z**2}, {"y": ScoreFunction()}
        context = torch.ones(3, 2)
        before = dict(q), dict(cost), dict(estimators), context.clone()
        expectation(cost, q, estimators, context=context)
        assert (q, cost, estimators) == before[:3]
        assert torch.equal(context, before[3])
        assert q["y"].batch_shape == (3,)

    def test_array_of_a_simulator_is_left_alone(self) -> None:
        table = np.array([1.0, np.inf, 3.0])
        total = expectation(lambda z: table, Bernoulli(logits=torch.zeros(3)), ScoreFunction())
        total.sum()
        assert table.tolist() == [1.0, np.inf, 3.0]

    def test_context_reaches_the_draws(self) -> None:
        context = torch.randn(3, 2)
        q = {"y": Bernoulli(logits=torch.zeros(3)), "z": lambda y: Normal(y, 1.0)}
        draws = evaluate(lambda y, z: y + z, q, context=context).draws
        assert all(draw.context is context for draw in draws.values())


class TestRowsOfWeightZero:
    """A state of probability 0, in float32, whose cost is infinite: the others must not notice."""

    LOGITS = ([0.0, 0.5, -200.0], [0.0, 0.5, -torch.inf])

    @pytest.mark.parametrize("logits", LOGITS, ids=["underflow", "impossible"])
    def test_infinite_cost(self, logits: list[float]) -> None:
        leaf = torch.tensor([logits], requires_grad=True)
        scale = torch.ones(1, requires_grad=True)
        q = OneHotCategorical(logits=leaf, validate_args=False)
        total = expectation(lambda y: torch.where(y[..., 2] > 0, torch.inf, scale * y[..., 0]), q, Enumerate())
        p = torch.tensor(logits).softmax(0)
        torch.testing.assert_close(total, p[:1])
        total.sum().backward()
        torch.testing.assert_close(leaf.grad[0, :2], torch.stack([p[0] * (1 - p[0]), -p[0] * p[1]]))
        torch.testing.assert_close(scale.grad, p[:1])

    @pytest.mark.parametrize("baseline", [None, MovingAverage, LeaveOneOut])
    def test_infinite_cost_above_a_score_function(self, baseline) -> None:
        leaf = torch.tensor([self.LOGITS[0]], requires_grad=True)
        location = torch.zeros(1, requires_grad=True)
        q = {"y": OneHotCategorical(logits=leaf), "z": Normal(location, 1.0)}
        estimators = {"y": Enumerate(), "z": ScoreFunction(baseline=baseline() if baseline else None)}
        total = expectation(lambda y, z: torch.where(y[..., 2] > 0, torch.inf, z + y[..., 0]), q, estimators)
        total.sum().backward()
        assert total.isfinite().all()
        assert leaf.grad.isfinite().all()
        assert location.grad.isfinite().all()


class TestErrors:
    Q = {"latent": Bernoulli(logits=torch.zeros(3)), "label": lambda latent: Bernoulli(logits=latent)}  # noqa: RUF012

    def test_unknown_name_in_the_cost(self) -> None:
        with pytest.raises(EstimatorError, match=r"^cost has a parameter 'latnet'.*did you mean 'latent'\?"):
            expectation(lambda latnet: latnet, self.Q)

    def test_unknown_name_in_a_term(self) -> None:
        with pytest.raises(EstimatorError, match=r"^cost\['kl'\] has a parameter 'labels'.*did you mean 'label'\?"):
            expectation({"kl": lambda labels: labels}, self.Q)

    def test_unknown_name_in_the_estimators(self) -> None:
        with pytest.raises(EstimatorError, match=r"estimator names 'lable'.*did you mean 'label'\?"):
            expectation(lambda label: label, self.Q, {"lable": Enumerate()})

    def test_unknown_parent(self) -> None:
        q = {"latent": self.Q["latent"], "label": lambda laten: Bernoulli(logits=laten)}
        with pytest.raises(EstimatorError, match=r"^q\['label'\] has a parameter 'laten'.*did you mean 'latent'\?"):
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

    def test_node_that_is_no_distribution(self) -> None:
        with pytest.raises(EstimatorError, match=r"q\['a'\] is a Tensor"):
            expectation(lambda a: a, {"a": torch.zeros(3)})
        with pytest.raises(EstimatorError, match=r"q\['b'\] returned a Tensor"):
            expectation(lambda b: b, {"a": Normal(0.0, 1.0), "b": lambda a: a})

    @pytest.mark.parametrize(
        "cost",
        [
            lambda z: z,
            lambda z: z.sum(),
            lambda z: z.sum((-1, -2)),
            lambda z: z.sum(-1)[..., :2],
            lambda z: z.sum(-1)[None],
        ],
        ids=["event left", "all summed", "batch summed", "batch cut", "axis too many"],
    )
    def test_cost_of_a_wrong_shape(self, cost: Callable[[Tensor], Tensor]) -> None:
        q = {"z": Independent(Normal(torch.zeros(5, 4), 1.0), 1)}
        with pytest.raises(EstimatorError, match=r"the cost has shape .*expected \[3, 5\].*batch \[5\]"):
            expectation(cost, q, Pathwise(num_samples=3))

    def test_term_of_a_wrong_shape_is_named(self) -> None:
        q = {"z": Independent(Normal(torch.zeros(5, 4), 1.0), 1)}
        with pytest.raises(EstimatorError, match="cost term 'kl' has shape"):
            expectation({"ok": lambda z: z.sum(-1), "kl": lambda z: z}, q, Pathwise(num_samples=3))

    def test_cost_that_sums_over_the_draws(self) -> None:
        """Without a batch, ``z.square().sum()`` drops the axis of draws: 1000 times the value, silently."""
        q = {"z": Normal(torch.zeros((), requires_grad=True), 1.0)}
        with pytest.raises(EstimatorError, match="1000 draws"):
            expectation(lambda z: z.square().sum(), q, Pathwise(num_samples=1000))

    @pytest.mark.parametrize("shape", [(), (2, 3)])
    def test_mixed_ranks_of_the_batch(self, shape: tuple[int, ...]) -> None:
        q = {"a": Normal(torch.zeros(3), 1.0), "b": Normal(torch.zeros(shape), 1.0)}
        with pytest.raises(EstimatorError, match=r"node 'b'.*one number of batch dimensions"):
            expectation(lambda a, b: a + b, q)

    def test_conditional_that_drops_the_batch(self) -> None:
        q = {"a": Normal(torch.zeros(3), 1.0), "b": lambda a: Normal(a.mean(), 1.0)}
        with pytest.raises(EstimatorError, match=r"node 'b'.*batch shape"):
            expectation(lambda a, b: a + b, q)

    def test_named_cost_of_a_single_node_with_a_wrong_name(self) -> None:
        with pytest.raises(EstimatorError, match="'z'"):
            expectation(Named(lambda z: z, ("z",)), Normal(torch.zeros(2), 1.0))


def test_same_seed_gives_the_same_bits() -> None:
    def run() -> Tensor:
        torch.manual_seed(7)
        logits = torch.zeros(20, requires_grad=True)
        q = {"y": Bernoulli(logits=logits), "z": lambda y: Normal(y, 1.0)}
        total = expectation(lambda y, z: (y + z) ** 2, q, {"y": ScoreFunction(), "z": Pathwise()})
        return torch.autograd.grad(total.sum(), logits)[0]

    assert torch.equal(run(), run())


def test_nothing_is_logged_without_auto(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    expectation(lambda z: z, Normal(torch.zeros(2), 1.0), Pathwise())
    assert not caplog.records
