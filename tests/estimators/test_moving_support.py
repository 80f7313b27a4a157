"""Supports that move with the parameters: only pathwise gradients are accepted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    CatTransform,
    ComposeTransform,
    Dirichlet,
    Distribution,
    Exponential,
    ExpTransform,
    Gumbel,
    Independent,
    Kumaraswamy,
    LogNormal,
    MixtureSameFamily,
    Normal,
    Pareto,
    Poisson,
    PowerTransform,
    ReshapeTransform,
    SigmoidTransform,
    StickBreakingTransform,
    TanhTransform,
    TransformedDistribution,
    Uniform,
    Weibull,
    constraints,
)
from torch.distributions.transforms import AffineTransform, Transform

import vaekit
from vaekit.distributions import MixtureSameFamily as OwnMixture
from vaekit.distributions import TruncatedNormal, VonMises
from vaekit.estimators import LeaveOneOut, Pathwise, ScoreFunction
from vaekit.estimators.moving_support import support_moves
from vaekit.exceptions import EstimatorError

ONE, ZERO = torch.tensor(1.0), torch.tensor(0.0)
HALVES = torch.tensor([0.5, 0.5])


def shifted(base: Distribution, *transforms: Transform) -> TransformedDistribution:
    return TransformedDistribution(base, list(transforms))


MOVING = {
    "uniform, upper": lambda t: Uniform(ZERO, t),
    "uniform, lower": lambda t: Uniform(t, ONE + 5),
    "uniform, expanded": lambda t: Uniform(ZERO, t).expand([4]),
    "uniform, vector": lambda t: Independent(Uniform(torch.zeros(3), t.expand(3)), 1),
    "uniform, mixture": lambda t: MixtureSameFamily(Categorical(HALVES), Uniform(torch.zeros(2), torch.stack([t, t]))),
    "uniform, base of exp": lambda t: shifted(Uniform(ZERO, t), ExpTransform()),
    "pareto": lambda t: Pareto(t, ONE),
    "truncated, lower": lambda t: TruncatedNormal(ZERO, ONE, t, 10.0),
    "truncated, upper": lambda t: TruncatedNormal(ZERO, ONE, -1.0, t),
    "truncated, mixture": lambda t: OwnMixture(
        Categorical(HALVES), TruncatedNormal(torch.zeros(2), torch.ones(2), t, 10.0)
    ),
    "shift": lambda t: shifted(Exponential(ONE), AffineTransform(t, ONE)),
    "shift, vector": lambda t: Independent(shifted(Exponential(torch.ones(3)), AffineTransform(t, 1.0)), 1),
    "shift, mixture": lambda t: MixtureSameFamily(
        Categorical(HALVES), shifted(Exponential(torch.ones(2)), AffineTransform(t, 1.0))
    ),
    "shift, nested": lambda t: shifted(shifted(Exponential(ONE), AffineTransform(t, ONE)), AffineTransform(0.0, 2.0)),
    "shift, composed": lambda t: shifted(
        Exponential(ONE), ComposeTransform([AffineTransform(0.0, t), AffineTransform(t, 1.0)])
    ),
    "shift of a log-normal": lambda t: shifted(Normal(ZERO, ONE), ExpTransform(), AffineTransform(t, 1.0)),
    "scale of an interval": lambda t: shifted(Uniform(ONE, ONE + 1), AffineTransform(0.0, t)),
    "scale of tanh": lambda t: shifted(Normal(ZERO, ONE), TanhTransform(), AffineTransform(0.0, t)),
    "scale of a simplex": lambda t: shifted(
        Dirichlet(torch.ones(3)), AffineTransform(0.0, 2.0), AffineTransform(0.0, t)
    ),
    "scale of stick-breaking": lambda t: shifted(
        Normal(torch.zeros(3), 1.0), StickBreakingTransform(), AffineTransform(0.0, t, event_dim=1)
    ),
    "lattice": lambda t: shifted(Poisson(ONE), AffineTransform(0.0, t)),
    "two points": lambda t: shifted(Bernoulli(HALVES), AffineTransform(0.0, t)),
    "power of an interval": lambda t: shifted(Uniform(ONE, ONE + 1), PowerTransform(t)),
    "scale of reshaped intervals": lambda t: shifted(
        Beta(torch.ones(4), 1.0), ReshapeTransform((4,), (2, 2)), AffineTransform(0.0, t, event_dim=2)
    ),
    "scale of one of two": lambda t: shifted(
        Beta(torch.ones(2), 1.0), CatTransform([ExpTransform(), AffineTransform(0.0, t)], dim=-1)
    ),
}
FIXED = {
    "uniform": lambda t: Uniform(ZERO, ONE),
    "normal": lambda t: Normal(t, t),
    "pareto, exponent": lambda t: Pareto(ONE, t),
    "scale of an exponential": lambda t: shifted(Exponential(t), AffineTransform(0.0, t)),
    "logits of a simplex": lambda t: shifted(
        Dirichlet(t.expand(3)), StickBreakingTransform().inv, AffineTransform(t, t)
    ),
    "fixed scale of a simplex": lambda t: shifted(Dirichlet(t.expand(3)), AffineTransform(0.0, 2.0)),
    "gumbel": lambda t: Gumbel(t, t),
    "kumaraswamy": lambda t: Kumaraswamy(t, t),
    "kumaraswamy by hand": lambda t: shifted(
        Uniform(ZERO, ONE), PowerTransform(1 / t), AffineTransform(1.0, -1.0), PowerTransform(1 / t)
    ),
    "weibull": lambda t: Weibull(t, t),
    "log-normal": lambda t: LogNormal(t, t),
    "logistic": lambda t: shifted(Uniform(ZERO, ONE), SigmoidTransform().inv, AffineTransform(t, t)),
    "squashed": lambda t: shifted(Normal(t, t), TanhTransform(), AffineTransform(1.0, 2.0)),
    "stick-breaking": lambda t: shifted(
        Independent(Normal(torch.stack([t, t]), torch.ones(2)), 1), StickBreakingTransform()
    ),
    "truncated": lambda t: TruncatedNormal(t, t, -1.0, 2.0),
    "stick-breaking of intervals": lambda t: shifted(Beta(t.expand(3), 1.0), StickBreakingTransform()),
    "each of two": lambda t: shifted(Beta(t.expand(2), 1.0), CatTransform([ExpTransform(), TanhTransform()], dim=-1)),
    "circle": lambda t: VonMises(t, t),
    "mixture": lambda t: MixtureSameFamily(
        Categorical(torch.stack([t, t])), Normal(torch.stack([t, t]), torch.ones(2))
    ),
    "dirichlet": lambda t: Dirichlet(torch.stack([t, t])),
}


def parameter() -> Tensor:
    return torch.tensor(1.5, requires_grad=True)


def step(z: Tensor) -> Tensor:
    z = z if z.dim() < 2 else z.flatten(1).sum(-1)
    return (z > 1).to(z.dtype)


@pytest.mark.parametrize("make", MOVING.values(), ids=MOVING)
@pytest.mark.parametrize("estimator", [ScoreFunction(), ScoreFunction(baseline=LeaveOneOut()), "auto"], ids=str)
def test_score_function_is_rejected_by_name(make, estimator) -> None:
    q = make(parameter())
    cost = step if q.event_shape or not q.batch_shape else lambda z: (z > 1).to(z.dtype)
    with pytest.raises(
        EstimatorError, match=r"ScoreFunction needs a support .* moves .*(Pathwise\(\)|within the cost)"
    ):
        vaekit.expectation(cost, q, estimator)


@pytest.mark.parametrize("make", MOVING.values(), ids=MOVING)
def test_the_same_is_accepted_without_a_gradient(make) -> None:
    q = make(parameter())
    with torch.no_grad():
        total = vaekit.expectation(lambda z: z.reshape(len(z), *q.batch_shape, -1).sum(-1), q, ScoreFunction())
    assert total.isfinite().all()
    assert not support_moves(make(torch.tensor(1.5)))


@pytest.mark.parametrize("make", FIXED.values(), ids=FIXED)
def test_fixed_supports_are_accepted(make) -> None:
    q = make(parameter())
    assert not support_moves(q)
    assert ScoreFunction.supports(q)


class Broken(Transform):
    """A transform with an error of its author."""

    domain = codomain = constraints.real
    bijective, sign = True, 1

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def _call(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("value"), NotImplementedError("call")], ids=repr)
def test_an_error_of_a_transform_is_not_silenced(error: Exception) -> None:
    q = shifted(Uniform(ZERO, parameter()), Broken(error))
    with pytest.raises(type(error), match=str(error)):
        support_moves(q)


def test_pathwise_gradient_of_a_moving_support_is_right() -> None:
    t = torch.full((40_000,), 1.5, requires_grad=True)
    torch.manual_seed(0)
    for estimator in (Pathwise(), "auto"):
        total = vaekit.expectation(lambda z: z**2, Uniform(torch.zeros_like(t), t), estimator)
        (actual,) = torch.autograd.grad(total.sum(), t)
        assert abs(actual.mean() - 2 * 1.5 / 3) < 4 * actual.std() / 200  # E z^2 = t^2 / 3


def test_sticking_the_landing_is_rejected() -> None:
    with pytest.raises(EstimatorError, match="support"):
        vaekit.expectation(lambda z: z**2, Uniform(ZERO, parameter()), Pathwise(stick_the_landing=True))


def test_importance_weighted_gradient_is_the_plain_one() -> None:
    """DReG does not have a term for the ends. The exact gradient of the bound is a finite difference."""

    def bound(t: Tensor) -> Tensor:
        torch.manual_seed(0)
        return vaekit.importance_weighted_bound(
            lambda z: -0.5 * (z - 0.3) ** 2, Uniform(torch.zeros_like(t), t), Pathwise(), num_samples=3
        )

    t = torch.full((2000,), 1.5, dtype=torch.float64, requires_grad=True)
    (actual,) = torch.autograd.grad(bound(t).sum(), t)
    with torch.no_grad():
        expected = (bound(t + 1e-5) - bound(t - 1e-5)) / 2e-5
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_report_does_not_call_it_unbiased() -> None:
    t = torch.tensor(1.5, requires_grad=True)
    report = vaekit.gradient_report(
        lambda z: z**2, lambda: Uniform(ZERO, t), [ScoreFunction(), Pathwise()], t, num_estimates=64, progress=False
    )
    assert list(report.unbiased) == [False, True]
    assert "support" in report.error[0]
    assert report.attrs["best_unbiased"] == "Pathwise"
