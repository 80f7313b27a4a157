"""Parameters in half precision: samples, values and gradients equal those in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Cauchy,
    Dirichlet,
    Distribution,
    Exponential,
    Gamma,
    Geometric,
    Gumbel,
    Independent,
    Kumaraswamy,
    Laplace,
    LogNormal,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    Pareto,
    Poisson,
    StudentT,
    Uniform,
    Weibull,
)

from vaekit import distributions, expectation
from vaekit.estimators import ARM, DisARM, Estimator, MeasureValued, Pathwise, ScoreFunction, StraightThrough

from .conformance import CONTEXT_FEATURES, TABLE, Row

HALF = [torch.bfloat16, torch.float16]
BATCH = 50


def columns(dtype: torch.dtype, *values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.bfloat16).to(dtype).expand(BATCH, len(values)).clone().requires_grad_()


KINDS: dict[str, Callable[[Tensor], Distribution]] = {
    "normal": lambda t: Normal(t[..., 0], t[..., 2]),
    "normal_vector": lambda t: Independent(Normal(t, 1.0), 1),
    "bernoulli": lambda t: Bernoulli(logits=t[..., 0]),
    "bernoulli_probs": lambda t: Bernoulli(t[..., 0].abs() / 4),
    "bernoulli_vector": lambda t: Independent(Bernoulli(logits=t), 1),
    "categorical": lambda t: distributions.OneHotCategorical(logits=t),
    "categorical_vector": lambda t: Independent(distributions.OneHotCategorical(logits=t[..., None, :]), 1),
}
CASES = [(row, kind) for row in TABLE for kind in KINDS if kind.removesuffix("_probs") in row.kinds]


def same(estimator: Callable[[], Estimator], make: Callable[[Tensor], Distribution], dtype: torch.dtype) -> None:
    actual = []
    for of in (dtype, torch.float32):
        torch.manual_seed(0)
        t = columns(of, -3.0, -1.4375, 0.33203125)
        q = make(t)
        event, instance = len(q.event_shape), estimator().to(torch.float32)

        def cost(z: Tensor, event: int = event) -> Tensor:
            assert z.dtype != dtype
            return (z - 0.45).square().sum(tuple(range(-event, 0))) if event else (z - 0.45).square()

        total = expectation(cost, q, instance, context=torch.zeros(BATCH, CONTEXT_FEATURES))
        total.sum().backward()
        actual.append((total.detach(), t.grad))
    (value, gradient), (expected, wanted_gradient) = actual
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)
    # the gradient has the type of the leaf
    scale = wanted_gradient.abs().max().item()
    torch.testing.assert_close(
        gradient.float(),
        wanted_gradient,
        rtol=3 * torch.finfo(dtype).eps,
        atol=2 * torch.finfo(dtype).eps * scale + 1e-6,
    )


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(("row", "kind"), CASES, ids=lambda x: getattr(x, "name", x))
def test_every_estimator(row: Row, kind: str, dtype: torch.dtype) -> None:
    same(row.make, KINDS[kind], dtype)


FAMILIES: dict[str, Callable[[Tensor], Distribution]] = {
    "beta": lambda t: Beta(t[..., 0].exp(), t[..., 1].exp()),
    "binomial": lambda t: Binomial(3, logits=t[..., 0]),
    "categorical_probs": lambda t: Categorical(t.abs()),
    "cauchy": lambda t: Cauchy(t[..., 0], 0.5),
    "continuous_bernoulli": lambda t: distributions.ContinuousBernoulli(logits=t[..., 0]),
    "dirichlet": lambda t: Dirichlet(t.exp()),
    "exponential": lambda t: Exponential(t[..., 0].exp()),
    "gamma": lambda t: Gamma(t[..., 2].exp(), t[..., 1].exp()),
    "geometric": lambda t: Geometric(logits=t[..., 2]),
    "gumbel": lambda t: Gumbel(t[..., 0], 1.5),
    "kumaraswamy": lambda t: Kumaraswamy(t[..., 2].exp(), t[..., 2].exp()),
    "laplace": lambda t: Laplace(t[..., 0], 1.5),
    "log_dirichlet": lambda t: distributions.LogDirichlet(t.exp()),
    "log_gamma": lambda t: distributions.LogGamma(t[..., 0].exp(), 1.0),
    "log_normal": lambda t: LogNormal(t[..., 0], 0.25),
    "mixture": lambda t: distributions.MixtureSameFamily(Categorical(logits=t.detach() * 0), Normal(t, 1.0)),
    "multivariate": lambda t: MultivariateNormal(t, scale_tril=torch.eye(3, dtype=t.dtype)),
    "negative_binomial": lambda t: NegativeBinomial(3.0, logits=t[..., 1]),
    "pareto": lambda t: Pareto(t[..., 2].exp().detach(), 3 + t[..., 2]),
    "poisson": lambda t: Poisson(t[..., 2].exp()),
    "student_t": lambda t: StudentT(5.0, t[..., 0], 1.5),
    "truncated_normal": lambda t: distributions.TruncatedNormal(t[..., 0], t[..., 1].exp(), 0.0, 1.0),
    "uniform": lambda t: Uniform(t[..., 0], t[..., 2]),
    "von_mises": lambda t: distributions.VonMises(t[..., 0], t[..., 2].exp()),
    "weibull": lambda t: Weibull(t[..., 2].exp(), t[..., 2].exp()),
}


def in_float32(q: Distribution) -> Distribution:
    """Return a distribution created again from its arguments, in float32."""
    names = [
        name for name in q.arg_constraints if name not in ("probs", "logits", "covariance_matrix", "precision_matrix")
    ]
    names += [name for name in ("probs", "logits") if name in vars(q)]
    arguments = {name: getattr(q, name).float() for name in names}
    return type(q)(**arguments)


PLAIN = [name for name in FAMILIES if name != "mixture"]


@pytest.mark.parametrize("name", PLAIN)
def test_every_distribution(name: str) -> None:
    """The samples equal those of the same distribution in float32."""
    dtype = torch.bfloat16
    q = FAMILIES[name](columns(dtype, -3.0, -1.4375, 0.33203125))
    fits = [
        e
        for e in (ScoreFunction, Pathwise, MeasureValued)
        if e.supports(q) and not (name == "pareto" and e is ScoreFunction)
    ]
    for estimator in fits:
        samples = []
        for of in (q, in_float32(q)):
            torch.manual_seed(0)
            sample = estimator(num_samples=20).sample(of)
            samples.append(sample)
        first, second = samples
        assert first.value.dtype == second.value.dtype != dtype
        torch.testing.assert_close(first.value, second.value)
        if first.log_prob is not None:
            assert first.log_prob.dtype == torch.float32
            torch.testing.assert_close(first.log_prob, second.log_prob)


def test_mixture() -> None:
    q = FAMILIES["mixture"](columns(torch.bfloat16, -3.0, -1.4375, 0.33203125))
    value = Pathwise(1000).sample(q).value
    assert value.dtype == torch.float32
    assert value.unique().numel() > 0.99 * value.numel()


@pytest.mark.parametrize("make", [lambda: ARM(100), lambda: DisARM(100), lambda: ScoreFunction(100)])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_rare_binary_value(make: Callable[[], Estimator], dtype: torch.dtype) -> None:
    """Uniform variables in steps of 1 / 256 would change the probability at a logit of -7 by half: |z| < 4."""
    p = torch.tensor(-7.0).double().sigmoid()
    t = torch.full((20_000,), -7.0, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    total = expectation(lambda b: 1000 * b, Bernoulli(logits=t), make())
    gradient = torch.autograd.grad(total.sum(), t)[0].double()
    for actual, expected in ((total.double(), 1000 * p), (gradient, 1000 * p * (1 - p))):
        assert ((actual.mean() - expected) / (actual.std() / len(actual) ** 0.5)).abs() < 4


@pytest.mark.parametrize("make", [ScoreFunction, StraightThrough])
@pytest.mark.parametrize("family", [OneHotCategorical, distributions.OneHotCategorical])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_many_categories_are_all_sampled(make: Callable[..., Estimator], family: type, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    seen = make(10_000).sample(family(logits=torch.zeros(500, dtype=dtype))).value.sum(0)
    assert stats.chisquare(seen.detach().double()).pvalue > 1e-5


@pytest.mark.parametrize("make", [ScoreFunction, DisARM, Pathwise])
def test_under_autocast(make: Callable[[], Estimator]) -> None:
    """Parameters from a layer in half precision or in float32, with samples that use a matrix product."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        t = layer(torch.ones(BATCH, 3))
        assert t.dtype == torch.bfloat16
        if make is Pathwise:
            q = MultivariateNormal(t.float(), scale_tril=torch.eye(4) + 0.1 * torch.ones(4, 4).tril())
        else:
            q = Independent(Bernoulli(logits=t), 1)
        sample = make().sample(q)
        assert sample.value.dtype == torch.float32
        if make is Pathwise:
            torch.manual_seed(1)
            inside = make().sample(q).value
        total = expectation(lambda z: z.square().sum(-1), q, make())
    if make is Pathwise:
        torch.manual_seed(1)
        torch.testing.assert_close(inside, make().sample(q).value, rtol=0, atol=0)
    total.sum().backward()
    assert total.dtype == layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()
