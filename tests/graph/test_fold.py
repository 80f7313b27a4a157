"""The fold: credit by name, samples of weight 0, shapes of costs and gradient paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical

from vaekit import expectation
from vaekit.estimators import (
    REBAR,
    RELAX,
    Critic,
    Enumerate,
    Estimator,
    LearnedBaseline,
    LeaveOneOut,
    MeasureValued,
    MovingAverage,
    MuProp,
    NodeSample,
    Pathwise,
    ScoreFunction,
    SelfCritic,
)
from vaekit.exceptions import EstimatorError
from vaekit.graph.expectation import evaluate

SCORE = {
    "score": ScoreFunction,
    "leave_one_out": lambda: ScoreFunction(num_samples=3, baseline=LeaveOneOut()),
    "self_critic": lambda: ScoreFunction(baseline=SelfCritic()),
}


class Sum(torch.nn.Module):
    """A control variate: the bounded sum of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[...]`` from ``[..., size]``."""
        return self.weight * torch.tanh(inputs).sum(-1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


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
    def test_unrelated_term_does_not_change_the_variance(self, estimator: str) -> None:
        terms = {"y": lambda y: y, "child": lambda child: 3 * child, "other": lambda other: other}
        torch.manual_seed(1)
        plain = self.variance(terms, estimator)
        torch.manual_seed(1)
        huge = self.variance({**terms, "huge": lambda other: 1e4 * other}, estimator)
        torch.testing.assert_close(huge[[0, 2]], plain[[0, 2]])
        assert huge[1] > 100 * plain[1]

    def test_unrelated_term_does_not_change_it_with_joint_samples(self) -> None:
        terms = {"y": lambda y: y, "child": lambda child: 3 * child, "other": lambda other: other}
        torch.manual_seed(1)
        plain = self.variance(terms, "score", joint=True)
        torch.manual_seed(1)
        huge = self.variance({**terms, "huge": lambda other: 1e4 * other}, "score", joint=True)
        torch.testing.assert_close(huge[[0, 2]], plain[[0, 2]])

    def test_term_of_a_child_is_credited_to_its_ancestors(self) -> None:
        logits = torch.zeros(100_000, dtype=torch.float64, requires_grad=True)
        q = {"y": Bernoulli(logits=logits), "child": lambda y: Bernoulli(logits=4 * y)}
        total = expectation({"y": lambda y: y, "child": lambda child: child}, q, ScoreFunction(num_samples=1))
        gradient = torch.autograd.grad(total.sum(), logits)[0]
        exact = 0.25 * (1 + torch.sigmoid(torch.tensor(4.0)).item() - 0.5)
        assert abs(gradient.mean() - exact) < 4 * gradient.std() / 100_000**0.5

    def test_term_of_a_parent_is_not_credited_to_its_child(self) -> None:
        """A term of y must not enter the gradient of z given y, although the sample dimension of z comes after."""
        logits = torch.zeros(5000, dtype=torch.float64, requires_grad=True)
        y = Bernoulli(logits=torch.zeros(5000, dtype=torch.float64))

        def variance(scale: float) -> Tensor:
            torch.manual_seed(1)
            terms = {"y": lambda y: scale * y, "z": lambda z: z}
            total = expectation(terms, {"y": y, "z": lambda y: Bernoulli(logits=logits + y)}, ScoreFunction())
            return torch.autograd.grad(total.sum(), logits)[0].var()

        torch.testing.assert_close(variance(1e4), variance(0.0))

    def test_term_of_one_node_has_sample_dimensions_of_another(self) -> None:
        """z depends on y, so a term of z has y's sample dimension: credit goes by name, not by dimensions."""
        logits = torch.zeros(5000, dtype=torch.float64, requires_grad=True)
        y = Bernoulli(logits=torch.zeros(5000, dtype=torch.float64))
        q = {"y": y, "w": Bernoulli(logits=logits), "z": lambda y: Bernoulli(logits=y)}

        def variance(scale: float) -> Tensor:
            torch.manual_seed(1)
            total = expectation({"z": lambda z: scale * z, "w": lambda w: w}, q, ScoreFunction())
            return torch.autograd.grad(total.sum(), logits)[0].var()

        torch.testing.assert_close(variance(1e4), variance(0.0))

    def test_correction_sees_the_gradient_of_the_corrections_below(self) -> None:
        """The correction of a parent receives the gradient of the whole fold so far, not only of the cost."""
        seen = {}

        class Spy(ScoreFunction):
            def correction(self, sample: NodeSample, cost: Tensor) -> Tensor:
                seen["cost"] = cost
                return super().correction(sample, cost)

        logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        q = {"y": Bernoulli(logits=torch.zeros(3)), "z": lambda y: Bernoulli(logits=logits + y)}
        result = evaluate({"y": lambda y: 5 * y, "z": lambda z: z + 2}, q, {"y": Spy(), "z": ScoreFunction()})
        z, y = result.samples["z"].value[0, 0], result.samples["y"].value[0]
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


class TestWeightZero:
    """A state of probability 0 in float32 with infinite cost does not affect the other states."""

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


class TestShapeOfTheCost:
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

    def test_cost_that_sums_over_the_samples(self) -> None:
        """Without a batch, ``z.square().sum()`` drops the sample dimension: 1000 times the value, silently."""
        q = {"z": Normal(torch.zeros((), requires_grad=True), 1.0)}
        with pytest.raises(EstimatorError, match="1000 samples"):
            expectation(lambda z: z.square().sum(), q, Pathwise(num_samples=1000))


class TestCostsThatAreNotFinite:
    """An estimator that uses the cost of a sample of weight 0 must propagate that it is not finite."""

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    @pytest.mark.parametrize("estimator", [REBAR, MuProp, lambda: RELAX(Sum())], ids=["rebar", "muprop", "relax"])
    def test_at_a_value_between_the_discrete_ones(self, estimator: Callable[[], Estimator], bad: float) -> None:
        logits = torch.zeros(6, dtype=torch.float64, requires_grad=True)

        def cost(z: Tensor) -> Tensor:
            return torch.where((z == 0) | (z == 1), z, bad * (1 + z))

        total = expectation(cost, Bernoulli(logits=logits), estimator())
        assert not torch.autograd.grad(total.sum(), logits)[0].isfinite().any()

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_at_a_perturbed_value(self, bad: float) -> None:
        logits = torch.tensor([0.3], dtype=torch.float64).expand(50, 1).clone().requires_grad_()
        q = Bernoulli(logits=logits[:, 0])
        total = expectation(lambda z: torch.where(z == 1, bad, z), q, MeasureValued())
        assert not torch.autograd.grad(total.sum(), logits)[0].isfinite().any()

    @pytest.mark.parametrize("logit", [-200.0, -torch.inf])
    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_at_a_perturbed_value_that_cannot_be(self, logit: float, bad: float) -> None:
        logits = torch.tensor([0.0, 0.5, logit]).expand(50, 3).clone().requires_grad_()
        gradients = []
        for estimator in (MeasureValued(), Enumerate()):
            q = OneHotCategorical(logits=logits, validate_args=False)
            total = expectation(lambda z: torch.where(z[..., 2] > 0, bad, z[..., 0]), q, estimator)
            gradients.append(torch.autograd.grad(total.sum(), logits, retain_graph=True)[0])
        torch.testing.assert_close(*gradients)  # the local expectation of one variable is exact

    @pytest.mark.parametrize(
        "estimator",
        [REBAR, MuProp, MeasureValued, lambda: RELAX(Sum())],
        ids=["rebar", "muprop", "measure_valued", "relax"],
    )
    def test_in_a_sample_that_an_earlier_node_excludes(self, estimator: Callable[[], Estimator]) -> None:
        """The impossible state of an earlier node is not an auxiliary sample of this node."""
        logits = torch.tensor([[0.0, 0.5, -200.0]], dtype=torch.float32)
        leaf = torch.zeros(1, requires_grad=True)
        q = {"y": OneHotCategorical(logits=logits), "z": lambda y: Bernoulli(logits=leaf + y[..., 0])}
        cost = lambda y, z: torch.where(y[..., 2] > 0, torch.inf, z.square() + z * y[..., 0])  # noqa: E731
        total = expectation(cost, q, {"y": Enumerate(), "z": estimator()})
        assert total.isfinite().all()
        assert torch.autograd.grad(total.sum(), leaf)[0].isfinite().all()

    def test_self_critic_works_without_its_baseline(self) -> None:
        logits = torch.tensor([0.3], dtype=torch.float64).expand(50, 1).clone().requires_grad_()
        q = Bernoulli(logits=logits[:, 0])
        total = expectation(lambda z: torch.where(z == 1, torch.inf, z + 2), q, ScoreFunction(baseline=SelfCritic()))
        gradient = torch.autograd.grad(total.sum(), logits)[0][:, 0]
        zeros = total.detach().isfinite()  # the samples of 0
        torch.testing.assert_close(gradient[zeros], -2 * torch.sigmoid(logits.detach()[zeros, 0]))


class TestWithoutGradients:
    """An evaluation does not change the state that training learns."""

    @staticmethod
    def make(name: str) -> Estimator:
        linear = torch.nn.Linear(2, 1, dtype=torch.float64)
        return {
            "moving": lambda: ScoreFunction(baseline=MovingAverage()),
            "learned": lambda: ScoreFunction(baseline=LearnedBaseline(linear)),
            "critic": lambda: ScoreFunction(critic=Critic(linear)),
            "muprop": lambda: MuProp(baseline=MovingAverage()),
        }[name]()

    @pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
    @pytest.mark.parametrize("name", ["moving", "learned", "critic", "muprop"])
    def test_averages_change_only_in_training(self, name: str, without: Callable[[], Any]) -> None:
        estimator, q = self.make(name), Bernoulli(logits=torch.zeros(5, dtype=torch.float64, requires_grad=True))
        context = torch.ones(5, 2, dtype=torch.float64)
        before = {key: value.clone() for key, value in estimator.state_dict().items()}
        with without():
            expectation(lambda z: 7 + z, q, estimator, context=context)
        torch.testing.assert_close(dict(estimator.state_dict()), before, rtol=0, atol=0)
        expectation(lambda z: 7 + z.square(), q, estimator, context=context)
        moved = [key for key, value in estimator.state_dict().items() if not torch.equal(value, before[key])]
        assert any("seen" in key for key in moved)


class TestPaths:
    """Cost terms with and without a gradient path to a node that needs one."""

    Y = Bernoulli(logits=torch.zeros(3))

    @staticmethod
    def z() -> Normal:
        return Normal(torch.full((3,), 0.5, requires_grad=True), 1.0)

    def test_term_of_all_values_may_ignore_some(self) -> None:
        location = torch.full((100_000,), 0.5, dtype=torch.float64, requires_grad=True)
        q = {"y": Bernoulli(logits=torch.zeros_like(location)), "z": Normal(location, 1.0)}
        terms = {"a": lambda **v: 2 * v["y"], "b": lambda z: z**2}
        gradient = torch.autograd.grad(expectation(terms, q, {"y": Enumerate(), "z": Pathwise()}).sum(), location)[0]
        assert (gradient.mean() - 1).abs() < 4 * gradient.std() / len(gradient) ** 0.5

    def test_term_that_names_the_node_must(self) -> None:
        terms = {"a": lambda y, z: 2 * y * z.sign(), "b": lambda **v: v["z"] ** 2}
        with pytest.raises(EstimatorError, match=r"node 'z'.*no gradient path"):
            expectation(terms, {"y": self.Y, "z": self.z()}, {"y": Enumerate(), "z": Pathwise()})

    def test_some_term_must(self) -> None:
        terms = {"a": lambda **v: 2 * v["y"] * v["z"].round(), "b": lambda y: y}
        with pytest.raises(EstimatorError, match=r"node 'z'.*no gradient path"):
            expectation(terms, {"y": self.Y, "z": self.z()}, {"y": Enumerate(), "z": Pathwise()})

    def test_child_of_the_node_may_have_one_instead(self) -> None:
        q = {"z": self.z(), "w": lambda z: Bernoulli(logits=z)}
        total = expectation({"a": lambda **v: v["w"]}, q, {"z": Pathwise(), "w": Enumerate()})
        assert total.requires_grad
