"""Estimators that compare costs of coupled values: their closed forms, their variances, their limits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal, OneHotCategorical

from vaekit import expectation
from vaekit.estimators import ARM, DisARM, Enumerate, Estimator, LeaveOneOut, LocalExpectation, Pathwise, ScoreFunction
from vaekit.exceptions import EstimatorError

_F64 = torch.float64
COUPLED = [ARM, DisARM, LocalExpectation]


def gradients(cost, q: Distribution, logits: Tensor, estimator: Estimator) -> Tensor:
    """Return the gradient of each entry of the batch."""
    return torch.autograd.grad(expectation(cost, q, estimator).sum(), logits, retain_graph=True)[0]


def leaf(logits: list | Tensor, replicates: int) -> Tensor:
    at = torch.as_tensor(logits, dtype=_F64)
    return at.expand(replicates, *at.shape).clone().requires_grad_()


def node(kind: str, logits: Tensor) -> Distribution:
    """Return the distribution with ``[batch, variables]`` or ``[batch, variables, 4]`` logits."""
    family = Bernoulli if kind == "bernoulli" else OneHotCategorical
    return Independent(family(logits=logits), 1)


@pytest.mark.parametrize("phi", [0.0, 1.0, 2.0, -2.0])
def test_variance_of_one_binary_variable_is_the_closed_form(phi: float) -> None:
    """With f(1) - f(0) = d and different values of a pair, ARM is d (u - 1/2) and DisARM is d sigmoid(|phi|) / 2."""
    count, p = 1_000_000, 1 / (1 + math.exp(-phi))
    d, tail = 0.501**2 - 0.499**2, min(p, 1 - p)
    mean = d * p * (1 - p)
    # u lies in [0, tail] or [1 - tail, 1]: twice the integral of (u - 1/2)^2 from 0 to tail
    arm = d**2 * 2 * (0.5**3 - (0.5 - tail) ** 3) / 3 - mean**2
    disarm = d**2 * 2 * tail * ((1 - tail) / 2) ** 2 - mean**2
    known = {0.0: (8.33e-8, 0.0), 1.0: (1.458e-7, 1.328e-7), 2.0: (1.420e-7, 1.409e-7)}[abs(phi)]
    assert (arm, disarm) == pytest.approx(known, rel=6e-3, abs=1e-15)
    logits = leaf(phi, count)
    for estimator, variance in ((ARM(), arm), (DisARM(), disarm)):
        actual = gradients(lambda b: (b - 0.499) ** 2, Bernoulli(logits=logits), logits, estimator)
        assert actual.var().item() == pytest.approx(variance, rel=0.01, abs=1e-16)
        assert abs(actual.mean().item() - mean) <= 4 * (variance / count) ** 0.5 + 1e-12


@pytest.mark.parametrize(("kind", "make"), [("bernoulli", ARM), ("bernoulli", DisARM), ("categorical", DisARM)])
def test_mean_over_all_uniforms_is_exact(kind: str, make: type[Estimator], monkeypatch) -> None:
    """Integrate over the uniforms without sampling: values change at thresholds only, scores are linear in between."""
    torch.manual_seed(1)
    logits = torch.randn((3,) if kind == "bernoulli" else (2, 3), dtype=_F64, requires_grad=True)
    form = torch.randn(logits.numel(), logits.numel(), dtype=_F64)

    def cost(z: Tensor) -> Tensor:
        z = z.flatten(2)
        return torch.sin(((z @ form) * z).sum(-1))

    if kind == "bernoulli":
        questions = logits.detach()
    else:  # log-odds of this category, given that the more probable ones are rejected
        ordered = logits.detach().sort(-1, descending=True).values
        questions = ordered[:, :-1] - ordered.flip(-1).logcumsumexp(-1).flip(-1)[:, 1:]
    edges = [sorted([0.0, p, 1 - p, 1.0]) for p in torch.sigmoid(questions).flatten().tolist()]
    cells = list(itertools.product(*([((a + b) / 2, b - a) for a, b in itertools.pairwise(e)] for e in edges)))
    middle, width = torch.tensor(cells, dtype=_F64).unbind(-1)
    middle = middle.reshape(-1, *questions.shape)
    if kind == "categorical":  # the last category needs no decision
        middle = torch.cat([middle, torch.full_like(middle[..., :1], 0.5)], -1)
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: middle[None])
    total = expectation(cost, node(kind, logits.expand(len(cells), *logits.shape)), make())
    actual = (width.prod(-1) * total).sum()
    exact = expectation(cost, node(kind, logits[None]), Enumerate()).sum()
    torch.testing.assert_close(actual, exact)
    torch.testing.assert_close(torch.autograd.grad(actual, logits), torch.autograd.grad(exact, logits))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("kind", "make"), [("bernoulli", ARM), ("bernoulli", DisARM), ("categorical", DisARM)])
def test_both_members_of_a_pair_have_the_distribution_of_the_node(kind: str, make: type[Estimator], count: int) -> None:
    torch.manual_seed(3)
    replicates = 200_000
    logits = torch.randn((2,) if kind == "bernoulli" else (2, 4), dtype=_F64)
    q = node(kind, logits.expand(replicates, *logits.shape))
    value = make(count).sample(q).value
    assert value.shape[:2] == (2 * count, replicates)
    mean = torch.sigmoid(logits) if kind == "bernoulli" else logits.softmax(-1)
    # single variables and products of two: independent within a member, coupled between members
    first, second = value[:, :, 0], value[:, :, 1]
    product = first * second if kind == "bernoulli" else first * second.roll(1, -1)
    expected = mean[0] * (mean[1] if kind == "bernoulli" else mean[1].roll(1, -1))
    for row in range(2 * count):
        assert ((value[row].mean(0) - mean).abs() < 4.5 * (mean * (1 - mean) / replicates).sqrt()).all()
        assert ((product[row].mean(0) - expected).abs() < 4.5 * (expected / replicates).sqrt()).all()


def test_members_of_a_pair_differ_as_often_as_they_can() -> None:
    logits = leaf([-1.0, 0.5], 100_000)
    first, second = DisARM().sample(node("bernoulli", logits)).value
    p = torch.sigmoid(logits[0].detach())
    expected = 2 * torch.minimum(p, 1 - p)
    assert (((first != second).double().mean(0) - expected).abs() < 0.01).all()


@pytest.mark.parametrize("variables", [1, 3])
@pytest.mark.parametrize("kind", ["bernoulli", "categorical"])
def test_disarm_has_no_more_variance_than_arm_and_leave_one_out(kind: str, variables: int) -> None:
    """Both use two cost evaluations, over several random problems."""
    ratios = []
    for seed in range(12):
        torch.manual_seed(seed)
        shape = (variables,) if kind == "bernoulli" else (variables, 4)
        logits = leaf(torch.randn(shape, dtype=_F64), 20_000)
        slope = torch.randn(shape, dtype=_F64)
        inner = tuple(range(-len(shape), 0))
        cost = lambda z, s=slope, i=inner: ((z * s).sum(i) - 0.4).square() + torch.sin(2 * (z * s).sum(i))  # noqa: E731
        q = node(kind, logits)
        others: list[Estimator] = [ScoreFunction(baseline=LeaveOneOut())] + [ARM()] * (kind == "bernoulli")
        variance = gradients(cost, q, logits, DisARM()).var(0).sum()
        ratios.append([float(variance / gradients(cost, q, logits, e).var(0).sum()) for e in others])
    worst = torch.tensor(ratios)
    if kind == "bernoulli":
        assert (worst < 1.05).all(), worst  # exact up to the error of a variance
    assert (worst.log().mean(0) < -0.02).all(), worst


@pytest.mark.parametrize("dimension", [2, 5])
def test_disarm_of_two_categories_is_that_of_a_binary_variable(dimension: int) -> None:
    """A one-hot variable with two possible categories among impossible ones has the binary variance."""
    replicates, phi = 400_000, 1.0
    row = torch.full((dimension,), -torch.inf, dtype=_F64)
    row[0], row[-1] = 0.0, phi
    logits = leaf(row, replicates)
    q = OneHotCategorical(logits=logits, validate_args=False)
    actual = gradients(lambda z: (z[..., -1] - 0.499) ** 2, q, logits, DisARM())
    assert actual[:, -1].var().item() == pytest.approx(1.328e-7, rel=0.02)
    torch.testing.assert_close(actual[:, 0], -actual[:, -1])
    assert (actual[:, 1:-1] == 0).all()


@pytest.mark.parametrize("kind", ["bernoulli", "categorical"])
def test_variance_falls_with_the_number_of_samples(kind: str) -> None:
    logits = leaf(torch.linspace(-1, 1, 2 if kind == "bernoulli" else 8).reshape(2, -1).squeeze(-1), 20_000)
    q = node(kind, logits)
    cost = lambda z: (z.flatten(2).cumsum(-1).sum(-1) - 1.3) ** 2  # noqa: E731
    for make in COUPLED:
        if make.supports(q):
            one, four = (gradients(cost, q, logits, make(n)).var(0).sum() for n in (1, 4))
            assert 0.22 < float(four / one) < 0.28, make.__name__


@pytest.mark.parametrize("kind", ["bernoulli", "categorical"])
def test_local_expectation_of_a_single_variable_is_exact(kind: str) -> None:
    logits = leaf([0.4] if kind == "bernoulli" else [[0.3, -1.0, 0.8, 0.1]], 50)
    scale = torch.tensor(1.7, dtype=_F64, requires_grad=True)
    actual = []
    for estimator in (LocalExpectation(), Enumerate()):
        cost = lambda z: (scale * z.flatten(2).cumsum(-1).sum(-1) - 0.3).square().exp()  # noqa: E731
        total = expectation(cost, node(kind, logits), estimator)
        actual.append((total, *torch.autograd.grad(total.sum(), [logits, scale])))
    for first, second in zip(*actual, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("kind", ["bernoulli", "categorical"])
def test_local_expectation_of_a_sum_over_variables_has_no_variance(kind: str) -> None:
    logits = leaf(torch.randn((3,) if kind == "bernoulli" else (3, 4)), 50)
    slope = torch.randn(logits.shape[1:], dtype=_F64)
    q = node(kind, logits)
    cost = lambda z: (slope * z).flatten(2).sum(-1)  # noqa: E731
    local, exact = (gradients(cost, q, logits, e) for e in (LocalExpectation(), Enumerate()))
    torch.testing.assert_close(local, exact)


def test_local_expectation_averages_the_value_too() -> None:
    """The value and the gradient of the cost's parameters vary less than with the samples alone."""
    logits = leaf(torch.randn(4, 3), 20_000)
    scale = torch.ones(20_000, dtype=_F64, requires_grad=True)
    slope = torch.randn(4, 3, dtype=_F64)
    cost = lambda z: scale * ((slope * z).sum((-1, -2)) - 0.3).square()  # noqa: E731
    actual = []
    for estimator in (LocalExpectation(), ScoreFunction()):
        total = expectation(cost, Independent(OneHotCategorical(logits=logits), 1), estimator)
        actual.append((total.var(), torch.autograd.grad(total.sum(), scale)[0].var()))
    (value, gradient), (plain_value, plain_gradient) = actual
    assert value < 0.9 * plain_value
    assert gradient < 0.9 * plain_gradient


def test_local_expectation_ignores_impossible_values() -> None:
    """A neighbor of probability 0 may have an infinite cost or NaN."""
    row = [[0.0, -torch.inf, 1.0], [0.5, 0.0, 0.2]]
    for bad in (torch.inf, torch.nan):
        table = torch.tensor([[1.0, bad, 3.0], [0.5, 2.0, 1.0]], dtype=_F64)
        logits = leaf(row, 100)
        q = Independent(OneHotCategorical(logits=logits, validate_args=False), 1, validate_args=False)
        actual = []
        for estimator in (LocalExpectation(), Enumerate()):
            total = expectation(lambda z, t=table: torch.where(z > 0, t, 0).sum(-1).prod(-1), q, estimator)
            actual.append(torch.autograd.grad(total.sum(), logits, retain_graph=True)[0])
            assert total.isfinite().all()
        assert actual[0].isfinite().all()
        assert (actual[0][:, 0, 1] == 0).all()


@pytest.mark.parametrize(
    ("make", "kind"),
    [(make, kind) for make in COUPLED for kind in ("bernoulli", "categorical") if (make, kind) != (ARM, "categorical")],
)
@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_extreme_logits_stay_finite(make: type[Estimator], kind: str, scale: float) -> None:
    logits = (torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, 1.0]]) * scale).repeat(1000, 1).requires_grad_()
    q = Independent(Bernoulli(logits=logits), 1) if kind == "bernoulli" else OneHotCategorical(logits=logits)
    total = expectation(lambda z: (z * torch.arange(1.0, 4.0)).sum(-1), q, make())
    (gradient,) = torch.autograd.grad(total.sum(), logits)
    assert total.isfinite().all()
    assert gradient.isfinite().all()
    sample = make().sample(q)
    assert (sample.log_prob[sample.weight.expand(sample.log_prob.shape) > 0] > -scale / 2).all(), "what cannot happen"


@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize("make", COUPLED)
def test_certain_variables_are_sampled_exactly(make: type[Estimator], probability: float) -> None:
    logits = torch.full((5000, 2), torch.inf if probability else -torch.inf, requires_grad=True)
    sample = make().sample(Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False))
    live = sample.weight.expand(sample.value.shape[:2]) > 0
    assert (sample.value[live] == probability).all()
    correction = make().correction(sample, torch.randn(sample.value.shape[:2]))
    assert (correction == 0).all()
    if correction.requires_grad:
        assert torch.autograd.grad(correction.sum(), logits)[0].isfinite().all()


def test_impossible_categories_are_not_sampled_by_disarm() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0]).expand(20_000, 4).clone().requires_grad_()
    q = OneHotCategorical(logits=logits, validate_args=False)
    assert (DisARM(2).sample(q).value[..., [0, 2]] == 0).all()
    total = expectation(lambda z: (z * torch.arange(4.0)).sum(-1), q, DisARM(2))
    (gradient,) = torch.autograd.grad(total.sum(), logits)
    assert gradient.isfinite().all()
    assert (gradient[:, [0, 2]] == 0).all()


@pytest.mark.parametrize("make", COUPLED)
def test_cost_need_not_be_differentiable(make: type[Estimator]) -> None:
    logits = leaf([0.3, -0.2], 40_000)
    q = node("bernoulli", logits)
    cost = lambda z: (z.numpy().sum(-1) > 0) * 2.0  # noqa: E731
    actual = gradients(cost, q, logits, make())
    exact = gradients(cost, q, logits, Enumerate())[0]
    assert ((actual.mean(0) - exact).abs() < 4 * actual.std(0) / len(actual) ** 0.5).all()


@pytest.mark.parametrize("make", COUPLED)
def test_several_declared_dimensions_are_one_vector(make: type[Estimator]) -> None:
    logits = leaf([[0.3, -0.2], [0.8, -1.0]], 40_000)
    q = Independent(Bernoulli(logits=logits), 2)
    cost = lambda z: (z.flatten(-2).cumsum(-1).sum(-1) - 2.0) ** 2  # noqa: E731
    actual, exact = gradients(cost, q, logits, make()), gradients(cost, q, logits, Enumerate())[0]
    assert ((actual.mean(0) - exact).abs() < 4 * actual.std(0) / len(actual) ** 0.5).all()


def test_arm_on_a_categorical_names_disarm() -> None:
    with pytest.raises(EstimatorError, match=r"node 'y': ARM does not support OneHotCategorical\. .* DisARM"):
        expectation(lambda y: y.sum(-1), {"y": OneHotCategorical(logits=torch.zeros(4, 3))}, ARM())


@pytest.mark.parametrize("make", COUPLED)
def test_continuous_nodes_and_joint_samples_are_rejected(make: type[Estimator]) -> None:
    with pytest.raises(EstimatorError, match=f"{make.__name__} does not support Normal.*{Pathwise.__name__}"):
        expectation(lambda z: z, Normal(torch.zeros(3), 1.0), make())
    with pytest.raises(EstimatorError, match=f"{make.__name__}.*does not support joint samples"):
        expectation(lambda z: z, Bernoulli(logits=torch.zeros(3)), make(), num_samples=2)


def test_number_of_samples_must_be_positive() -> None:
    with pytest.raises(EstimatorError, match="DisARM: num_pairs=0 must"):
        DisARM(num_pairs=0)
    for make in (ARM, LocalExpectation):
        with pytest.raises(EstimatorError, match=f"{make.__name__}: num_samples=-1 must"):
            make(num_samples=-1)
