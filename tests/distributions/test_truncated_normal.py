"""Truncated normal variables: far tails, narrow intervals, gradients by the interval, divergences."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Normal, kl_divergence

from vaekit.distributions import TruncatedNormal
from vaekit.distributions.normal_interval import FAR, log_mass, velocity

INF = math.inf
INTERVALS = [
    (10.0, INF),
    (-INF, -10.0),
    (10.0, 10.5),
    (-10.5, -10.0),
    (100.0, INF),
    (-INF, INF),
    (-1.0, 2.0),
    (3, 3.001),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_extremes(low, high, dtype):
    loc = torch.zeros(20_000, dtype=dtype, requires_grad=True)
    scale = torch.ones(20_000, dtype=dtype, requires_grad=True)
    ends = [torch.full((20_000,), x, dtype=dtype, requires_grad=True) for x in (low, high)]
    q = TruncatedNormal(loc, scale, *ends)
    samples = q.rsample()
    low, high = (end[0].item() for end in ends)  # after rounding
    assert samples.dtype == dtype
    assert ((samples >= low) & (samples <= high)).all()
    if dtype == torch.float64:
        exact = stats.truncnorm(low, high)
        reference = lambda z: q.cdf(torch.from_numpy(z)).detach().numpy() if abs(low) == 100 else exact.cdf(z)  # noqa: E731
        assert stats.kstest(samples.detach().numpy(), reference).pvalue > 1e-4
        assert q.mean[0].item() == pytest.approx(exact.mean(), rel=1e-9, abs=1e-12)
    parameters = (loc, scale, *ends)
    first = torch.autograd.grad(samples.square().sum(), parameters, create_graph=True)
    for output in (*(g.sum() for g in first), q.log_prob(samples.detach()).sum(), q.entropy().sum(), q.variance.sum()):
        for gradient in (output, *torch.autograd.grad(output, parameters, retain_graph=True)):
            assert gradient.isfinite().all()


@pytest.mark.parametrize(("a", "b"), [(-1, 2), (10, FAR), (10, 10.5), (0.5, 0.509), (0.5, 0.5001), (-3, 30), (-8, 8)])
def test_velocity_and_its_derivatives_agree_with_mpmath(a, b):
    def mass(a, b):
        return (mpmath.erfc(a / mpmath.sqrt(2)) - mpmath.erfc(b / mpmath.sqrt(2))) / 2

    def exact(x, a, b):
        return mass(x, b) / mass(a, b) * mpmath.exp((x - a) * (x + a) / 2)

    with mpmath.workdps(150):
        for weight in (0.1, 0.5, 0.9):
            at = (a + weight * min(b - a, 3), a, b)
            x, low, high = leaves = [torch.tensor(float(t), dtype=torch.float64, requires_grad=True) for t in at]
            actual = velocity(*leaves)[0]
            at = [mpmath.mpf(t.item()) for t in leaves]
            assert log_mass(low, high).item() == pytest.approx(float(mpmath.log(mass(*at[1:]))), rel=1e-10, abs=1e-15)
            assert actual.item() == pytest.approx(float(exact(*at)), rel=1e-9, abs=1e-15)
            for k, gradient in enumerate(torch.autograd.grad(actual, leaves)):
                expected = mpmath.diff(lambda t, k=k: exact(*at[:k], t, *at[k + 1 :]), at[k], h=mpmath.mpf(10) ** -40)  # noqa: B023
                assert gradient.item() == pytest.approx(float(expected), rel=1e-7, abs=1e-12)
        del x


def test_gradients_by_the_ends_agree_with_quadrature():
    low, high = (torch.full((100_000,), x, dtype=torch.float64, requires_grad=True) for x in (-0.5, 1.2))
    z = TruncatedNormal(torch.zeros(100_000).double(), torch.ones(100_000).double(), low, high).rsample()
    actual = torch.stack(torch.autograd.grad(z.exp().sum(), (low, high)), -1)

    def mean(a, b):
        return integrate.quad(lambda t: math.exp(t) * stats.norm.pdf(t), a, b)[0] / (
            stats.norm.cdf(b) - stats.norm.cdf(a)
        )

    expected = (
        torch.tensor([mean(-0.499, 1.2) - mean(-0.501, 1.2), mean(-0.5, 1.201) - mean(-0.5, 1.199)]).double() / 2e-3
    )
    error = actual.std(0) / len(actual) ** 0.5
    assert (error < 0.01 * expected.norm()).all()
    assert ((actual.mean(0) - expected).abs() / error).max() < 4


def test_log_prob_outside_and_validation():
    q = TruncatedNormal(torch.tensor(0.0), torch.tensor(1.0), -1.0, 1.0, validate_args=False)
    assert q.log_prob(torch.tensor(1.5)) == -INF
    q = TruncatedNormal(torch.tensor(0.0), torch.tensor(1.0), -1.0, 1.0, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        q.log_prob(torch.tensor(1.5))
    with pytest.raises(ValueError, match="must be below high"):
        TruncatedNormal(torch.tensor(0.0), torch.tensor(1.0), 1.0, -1.0, validate_args=True)


def test_divergences_agree_with_quadrature():
    one = lambda *x: [torch.tensor(float(t), dtype=torch.float64) for t in x]  # noqa: E731
    p = TruncatedNormal(*one(0.3, 0.8, -0.5, 1.0))
    for q in (
        Normal(*one(-0.2, 1.3)),
        TruncatedNormal(*one(0.5, 1.1, -0.7, 1.0)),
        TruncatedNormal(*one(2, 1.1, -1, INF)),
    ):
        exact = integrate.quad(
            lambda t, q=q: (p.log_prob(one(t)[0]).exp() * (p.log_prob(one(t)[0]) - q.log_prob(one(t)[0]))).item(),
            -0.5,
            1.0,
        )[0]
        assert kl_divergence(p, q).item() == pytest.approx(exact, rel=1e-9)
    assert kl_divergence(p, TruncatedNormal(*one(0.3, 0.8, -0.4, 1.0))) == INF
