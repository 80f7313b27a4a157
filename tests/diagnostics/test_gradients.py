"""Gradient report: closed forms, test of unbiasedness, replicates, and failing estimators."""

from __future__ import annotations

import math
import re
import time

import numpy as np
import pytest
import torch
from estimators.graphs import THREE, as_expectation, below, single
from estimators.oracle import exact
from strength import strengths
from torch.distributions import Bernoulli, Categorical, Independent, Normal, OneHotCategorical

import vaekit
from vaekit.diagnostics import (
    compatible_estimators,
    gradient_report,
    is_unbiased,
)
from vaekit.diagnostics.gradients.target import ExpectationTarget
from vaekit.estimators import (
    Enumerate,
    GumbelSoftmax,
    LearnedBaseline,
    LeaveOneOut,
    MovingAverage,
    Pathwise,
    ScoreFunction,
    StraightThrough,
)
from vaekit.exceptions import EstimatorError
from vaekit.plotting import plot_gradient_report

LOO = "ScoreFunction(LeaveOneOut)"


def toy(phi: float, estimators, **kwargs):
    """Report on E[(b - 0.499)^2], b ~ Bernoulli(sigmoid(phi))."""
    leaf = torch.tensor(phi, dtype=torch.float64, requires_grad=True)
    report = gradient_report(
        lambda b: (b - 0.499) ** 2, lambda: Bernoulli(logits=leaf), estimators, leaf, progress=False, **kwargs
    )
    return report.set_index("estimator"), report.attrs


@pytest.mark.parametrize(
    ("phi", "gradient", "score", "leave_one_out"),
    [(0.0, 5.000e-4, 1.563e-2, 2.50e-7), (1.0, 3.932e-4, 1.224e-2, 2.386e-7), (2.0, 2.100e-4, 6.522e-3, 1.659e-7)],
)
def test_closed_form(phi, gradient, score, leave_one_out):
    estimators = [ScoreFunction(), ScoreFunction(baseline=LeaveOneOut()), Enumerate()]
    report, attrs = toy(phi, estimators, num_estimates=40_000, timings=3)
    assert attrs["norm"] == pytest.approx(gradient, rel=1e-3)
    assert attrs["reference"] == "exact, by enumeration"
    assert report.variance["ScoreFunction"] == pytest.approx(score, rel=0.05)
    assert report.variance[LOO] == pytest.approx(leave_one_out, rel=0.05)
    assert report.variance["Enumerate"] == 0
    assert report.relative_bias["Enumerate"] < 1e-9
    assert report.cosine["Enumerate"] == pytest.approx(1)
    assert list(report.evaluations) == [1, 2, 2]
    assert (report.z.abs() < 4).all()
    np.testing.assert_allclose(report.relative_std, np.sqrt(report.variance) / attrs["norm"])
    np.testing.assert_allclose(report.variance_x_time, report.variance * report.milliseconds)
    noise = np.sqrt(report.variance / report.num_estimates.astype(float)) / attrs["norm"]
    np.testing.assert_allclose(report.bias_noise, noise)
    assert attrs["best_unbiased"] == attrs["best"] == "Enumerate"


@strengths
def test_exported_estimators_are_classified_correctly(fraction):
    graph = single("categorical_vector")
    leaves = {n: p.requires_grad_() for n, p in graph.parameters().items()}
    cost, q = as_expectation(graph, leaves)
    estimators, omitted = compatible_estimators(q["x"])
    assert {"Enumerate", "GumbelSoftmax(hard)", LOO, "ScoreFunction(SelfCritic)", "DisARM"} <= set(estimators)
    assert "Pathwise" not in estimators
    assert "network" in omitted["ScoreFunction(LearnedBaseline)"]
    report = gradient_report(cost, q, estimators, leaves, int(40_000 * fraction), timings=1, progress=False)
    assert not report.error.any()
    assert (report.z[~report.unbiased] > 10 * fraction**0.5).all(), report[["estimator", "z"]]
    assert (report.z[report.unbiased] < 4).all(), report[["estimator", "z"]]
    assert list(report.unbiased) == [is_unbiased(e) for e in estimators.values()]
    assert not report.unbiased[report.estimator.str.startswith(("Gumbel", "Straight", "ReinMax"))].any()
    assert report.mse_x_time[~report.unbiased].gt(report.variance_x_time[~report.unbiased]).all()


@pytest.mark.parametrize("reference", ["auto", ScoreFunction(baseline=LeaveOneOut())], ids=["exact", "Monte Carlo"])
def test_z_is_standard_without_a_bias(reference):
    leaf = torch.linspace(-1, 1, 12, dtype=torch.float64, requires_grad=True)
    z_scores = [
        gradient_report(
            lambda b: (b.sum(-1) - 3.2).square(), Independent(Bernoulli(logits=leaf), 1),
            [ScoreFunction(baseline=LeaveOneOut())], leaf, 200, reference, seed=2 * seed, timings=0,
            reference_draws=400, max_states=5000, progress=False,
        ).z[0]
        for seed in range(60)
    ]  # fmt: skip
    assert abs(np.mean(z_scores)) < 4 / math.sqrt(60)
    assert 0.65 < np.std(z_scores) < 1.45


@pytest.mark.parametrize("graph", [*THREE, below("normal", "categorical")], ids=lambda graph: graph.name)
def test_graphs_with_parameters_in_cost_and_children(graph):
    _, gradient = exact(graph)
    leaves = {n: p.requires_grad_() for n, p in graph.parameters().items()}
    cost, q = as_expectation(graph, leaves)
    mixed = {n.name: Pathwise() if n.kind.startswith("normal") else Enumerate() for n in graph.nodes}
    estimators = {"mixed": mixed, "score": ScoreFunction(2, LeaveOneOut())}
    assert ExpectationTarget(cost, q, list(leaves.values()))._are_replicates_independent(mixed)
    report = gradient_report(cost, q, estimators, leaves, 1500, gradient, timings=1, progress=False)
    assert (report.z.abs() < 4).all()
    assert (report.relative_bias < 6 * report.bias_noise).all()
    assert report.attrs["norm"] == pytest.approx(torch.cat([g.flatten() for g in gradient.values()]).norm().item())


@pytest.mark.exhaustive
def test_vectorized_and_separate_estimates_agree():
    graph = below("categorical", "bernoulli")
    leaves = {n: p.requires_grad_() for n, p in graph.parameters().items()}
    cost, q = as_expectation(graph, leaves)
    estimators = [ScoreFunction(baseline=LeaveOneOut()), StraightThrough()]
    one, many = (
        gradient_report(cost, q, estimators, leaves, 3000, timings=1, vectorize=v, progress=False)
        for v in (False, True)
    )
    np.testing.assert_allclose(one.variance, many.variance, rtol=0.15)
    np.testing.assert_allclose(one.cosine, many.cosine, atol=0.05)


@pytest.mark.parametrize(
    "cost",
    [
        lambda b: b.flatten(1).sum(1) ** 2,  # sums over the dimension of replicates
        lambda b: (b.sum(-1) - torch.arange(b.dim() - 1.0).sum()) ** 2,
        lambda b: (b.sum(-1) + 0.1 * torch.randn(b.shape[:-1])) ** 2,
    ],
    ids=["mixing", "depending on the number of dimensions", "random"],
)
def test_costs_that_cannot_be_replicated(cost):
    leaf = torch.zeros(3, requires_grad=True)
    q = Independent(Bernoulli(logits=leaf), 1)
    assert not ExpectationTarget(cost, q, [leaf])._are_replicates_independent(ScoreFunction())
    report = gradient_report(cost, q, [ScoreFunction()], leaf, 300, None, timings=1, progress=False)
    assert report.variance[0] > 0
    assert report.z.isna().all()
    assert report.attrs["reference"] == "none"
    assert report.attrs["best"] == "ScoreFunction"


def test_numpy_cost_and_batches():
    leaf = torch.zeros(5, 4, dtype=torch.float64, requires_grad=True)
    target = np.linspace(0, 1, 5)

    def simulator(y):
        return (y.numpy() @ np.arange(4.0) - target) ** 2

    report = gradient_report(
        simulator, OneHotCategorical(logits=leaf), [ScoreFunction(), GumbelSoftmax(), Enumerate()], leaf, 2000,
        timings=1, progress=False,
    )  # fmt: skip
    assert list(report.error != "") == [False, True, False]
    assert report.z.abs().max() < 4


def test_a_step_function_fails_with_the_pathwise_estimator_only():
    leaf = torch.tensor(0.3, requires_grad=True)
    estimators = {"path": Pathwise(), "score": ScoreFunction(), "wrong": Enumerate(), "number": 3}
    report = gradient_report(
        lambda z: (z > 0).float(), Normal(leaf, 1.0), estimators, leaf, 4000, torch.tensor(0.3814), progress=False
    ).set_index("estimator")  # density of N(0, 1) at 0.3
    assert "no gradient path" in report.error["path"]
    assert "does not support Normal" in report.error["wrong"]
    assert report.loc["path", ["variance", "z", "milliseconds", "mse_x_time", "num_estimates"]].isna().all()
    assert report.error["score"] == ""
    assert abs(report.z["score"]) < 4
    assert report.attrs == {
        "best_unbiased": "score",
        "best": "score",
        "reference": "given",
        "norm": report.attrs["norm"],
    }


def test_rng_state_is_restored_and_seeds_repeat():
    torch.manual_seed(7)
    np.random.seed(7)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(7)
    np.random.seed(7)
    first, _ = toy(1.0, [ScoreFunction(), StraightThrough()], num_estimates=100)
    for actual, desired in zip((torch.rand(3), np.random.rand(3)), expected, strict=True):
        np.testing.assert_array_equal(actual, desired)
    again, _ = toy(1.0, [StraightThrough(), ScoreFunction()], num_estimates=100)
    other, _ = toy(1.0, [ScoreFunction()], num_estimates=100, seed=1)
    assert first.variance["ScoreFunction"] == again.variance["ScoreFunction"] != other.variance["ScoreFunction"]


def test_estimators_are_copied_and_learn():
    average = ScoreFunction(baseline=MovingAverage())
    leaf = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    context = torch.randn(4, 2, dtype=torch.float64)
    learned = ScoreFunction(baseline=LearnedBaseline(torch.nn.Linear(2, 1).double()))
    report = gradient_report(
        lambda b: 100 + b, Bernoulli(logits=leaf), {"plain": ScoreFunction(), "average": average, "learned": learned},
        leaf, 500, context=context, timings=1, progress=False,
    ).set_index("estimator")  # fmt: skip
    assert average.baseline.running.seen == 0
    assert report.variance["average"] < report.variance["plain"] / 100
    assert (report.z < 4).all()


def test_joint_samples_and_labels():
    leaf = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    estimators = [
        ScoreFunction(baseline=LeaveOneOut()),
        ScoreFunction(baseline=LeaveOneOut()),
        ScoreFunction(num_samples=3),
    ]
    report = gradient_report(
        lambda y: y.square(), Categorical(logits=leaf), estimators, leaf, 100, None, num_samples=4, progress=False
    )
    assert list(report.estimator) == [LOO, f"{LOO} #2", "ScoreFunction(3)"]
    assert set(report.evaluations) == {4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_estimates": 4}, "num_estimates=4 must be at least 8"),
        ({"params": torch.zeros(1)}, "requires a gradient"),
        ({"params": []}, "requires a gradient"),
        ({"estimators": []}, "estimators is empty"),
        ({"reference": "exact"}, "reference='exact' must be"),
    ],
)
def test_errors(arguments, message):
    leaf = torch.zeros(2, requires_grad=True)
    valid = {"cost": lambda b: b, "q": Bernoulli(logits=leaf), "estimators": [ScoreFunction()], "params": leaf}
    with pytest.raises(EstimatorError, match=message):
        gradient_report(**{**valid, "progress": False, **arguments})


def test_exported_and_plotted():
    assert vaekit.gradient_report is gradient_report
    q = Independent(OneHotCategorical(logits=torch.zeros(2, 3, requires_grad=True)), 1)
    leaf = q.base_dist.logits
    estimators, _ = compatible_estimators(q)
    estimators["never"] = Pathwise()
    report = gradient_report(lambda y: y[..., 0].sum(-1) ** 2, q, estimators, leaf, 50, timings=1, progress=False)
    assert len(report) > 12
    figure = plot_gradient_report(report, "a title")
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert set(names) == set(estimators) - {"never"}
    assert "enumeration" in figure.get_suptitle()
    figure.canvas.draw()
    plot_gradient_report(toy(0.0, [ScoreFunction()], num_estimates=20, reference=None)[0].reset_index()).canvas.draw()


class Slow(ScoreFunction):
    """Is slow per call, not per estimate."""

    def sample(self, *arguments, **named):
        time.sleep(0.06)
        return super().sample(*arguments, **named)


class Broken(ScoreFunction):
    """Always fails, as a custom estimator may."""

    error: Exception = ValueError("shapes (3,) and (4,) not aligned")

    def sample(self, *arguments, **named):
        raise self.error


@pytest.mark.parametrize("error", [ValueError("not aligned"), TypeError("none"), ZeroDivisionError(), MemoryError()])
def test_an_error_of_a_custom_estimator_is_one_row(error):
    broken = Broken()
    broken.error = error
    report, attrs = toy(0.3, {"broken": broken, "score": ScoreFunction()}, num_estimates=200)
    assert report.error["broken"].startswith(type(error).__name__)
    assert report.loc["broken", ["variance", "z", "milliseconds", "num_estimates"]].isna().all()
    assert not report.unbiased["broken"]
    assert report.error["score"] == ""
    assert attrs["best"] == "score"


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_gradients_that_are_not_finite_are_one_row(odd):
    """The cost is not finite at the relaxed values of one estimator only."""
    leaf = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def cost(b):
        return torch.where((b > 0) & (b < 1), odd * b, (b - 0.499) ** 2)

    estimators = {"relaxed": GumbelSoftmax(), "score": ScoreFunction()}
    report = gradient_report(cost, Bernoulli(logits=leaf), estimators, leaf, 200, progress=False).set_index("estimator")
    assert "not finite" in report.error["relaxed"]
    assert report.error["score"] == ""
    assert report.attrs["best"] == "score"


def test_a_slow_estimator_fails_within_its_time():
    started = time.perf_counter()
    report, _ = toy(0.3, {"slow": Slow(), "score": ScoreFunction()}, num_estimates=10**6, max_seconds=0.05, timings=2)
    assert time.perf_counter() - started < 30
    assert re.search(r"max_seconds=0\.05 is too short for (one gradient|8 gradients) \(.* s\)", report.error["slow"])


@pytest.mark.parametrize("seconds", [0.001, 0.02])
def test_max_seconds_limits_the_total_time(seconds, monkeypatch):
    """It limits warm-up, estimates and timing of each estimator together, and four times as much of the reference."""
    leaf, now = torch.tensor(0.3, requires_grad=True), [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def cost(b):
        now[0] += seconds  # a fake clock: the outcome does not depend on the machine
        return (b - 0.499) ** 2

    q, estimators = Bernoulli(logits=leaf), {f"score {i}": ScoreFunction() for i in range(3)}
    report = gradient_report(cost, q, estimators, leaf, 10**6, ScoreFunction(), max_seconds=0.5, vectorize=False,
                             progress=False)  # fmt: skip
    assert now[0] < 2 + 3 * 0.5 + 20 * seconds  # the last evaluation of each may exceed the limit
    assert (report.error == "").all()
    assert report.num_estimates.between(8, 0.5 / seconds).all()  # of a million


def test_each_row_has_its_error_if_all_fail():
    def cost(b):
        time.sleep(0.2)
        return b

    leaf, fixed = torch.zeros(2, requires_grad=True), Bernoulli(logits=torch.zeros(2))
    cases = [
        ("max_seconds=0.1 is too short for one gradient", {"cost": cost, "max_seconds": 0.1}),
        ("no gradient path to any parameter", {"q": fixed}),
        ("Pathwise does not support Bernoulli", {"estimators": [Pathwise()]}),
        ("NameError", {"cost": lambda b: undefined}),  # noqa: F821
    ]
    for reason, arguments in cases:
        common = {"cost": lambda b: b, "q": Bernoulli(logits=leaf), "estimators": [ScoreFunction(), Broken()]}
        report = gradient_report(**{**common, "params": leaf, "progress": False, **arguments})
        assert report.error.iloc[0].startswith(reason) or reason in report.error.iloc[0]
        assert (report.error != "").all()
        assert not report.unbiased.any()
        assert report.attrs["best"] is report.attrs["best_unbiased"] is None
        assert plot_gradient_report(report).axes


def test_a_failing_reference_is_none():
    report, attrs = toy(0.3, {"score": ScoreFunction()}, num_estimates=200, reference=Broken())
    assert attrs["reference"].startswith("none, because Broken failed: ValueError")
    assert report.variance["score"] > 0
    assert math.isnan(report.z["score"])


@pytest.mark.parametrize(
    ("reference", "message"),
    [(torch.zeros(3), r"tensors of sizes \[3\], but params of \[1\]"), (torch.tensor(math.nan), "must be finite")],
)
def test_invalid_references(reference, message):
    with pytest.raises(EstimatorError, match=message):
        toy(0.3, [ScoreFunction()], reference=reference)
