"""Counts against mpmath with 50 digits: values and gradients, at ordinary and at extreme parameters."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Independent, Poisson

from vaekit.distributions import NegativeBinomial, ZeroInflated

COUNTS = (0, 1, 3, 100_000, 1_000_000)
MEANS = (1e-8, 1e-3, 0.7, 40.0, 1e6)
THETAS = (1e-4, 0.3, 5.0, 63.0, 65.0, 1e4, 1e8, 1e20)  # two formulas meet at 64
GATES = (-1000.0, -4.0, 0.5, 40.0)


def exact_nb(count: int, log_mean: mpmath.mpf, log_theta: mpmath.mpf) -> mpmath.mpf:
    mean, theta = mpmath.exp(log_mean), mpmath.exp(log_theta)
    log_factor = mpmath.loggamma(count + theta) - mpmath.loggamma(theta) - mpmath.loggamma(count + 1)
    return log_factor - theta * mpmath.log1p(mean / theta) + count * mpmath.log(mean / (theta + mean))


def exact_zi(count: int, log_mean: mpmath.mpf, log_theta: mpmath.mpf, gate: mpmath.mpf) -> mpmath.mpf:
    pi = 1 / (1 + mpmath.exp(-gate))
    accepted = (1 - pi) * mpmath.exp(exact_nb(count, log_mean, log_theta))
    return mpmath.log(accepted + pi if count == 0 else accepted)


def compare(distribution, exact, cases: list[tuple[float, ...]], dtype: torch.dtype) -> None:
    """Compare values and gradients. A case is a count with the parameters of ``distribution``."""
    count, *parameters = (torch.tensor(column, dtype=dtype) for column in zip(*cases, strict=True))
    leaves = [p.requires_grad_() for p in parameters]
    value = distribution(*leaves).log_prob(count)
    gradients = torch.autograd.grad(value.sum(), leaves)
    assert value.dtype == torch.float64
    assert all(g.dtype == dtype for g in gradients)
    with mpmath.workdps(50):
        for i, case in enumerate(cases):
            at = [mpmath.mpf(p[i].item()) for p in leaves]  # after rounding
            assert value[i].item() == pytest.approx(float(exact(case[0], *at)), rel=1e-10, abs=1e-8), case
            for k, gradient in enumerate(gradients):
                expected = float(mpmath.diff(lambda p, k=k: exact(case[0], *at[:k], p, *at[k + 1 :]), at[k]))  # noqa: B023
                assert gradient[i].item() == pytest.approx(expected, rel=1e-6, abs=1e-5), (case, k)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_negative_binomial_and_its_gradients(dtype):
    cases = [(x, math.log(m), math.log(t)) for x, m, t in itertools.product(COUNTS, MEANS, THETAS)]
    compare(lambda m, t: NegativeBinomial(log_mean=m, log_inverse_dispersion=t), exact_nb, cases, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_zero_inflated_and_its_gradients(dtype):
    cases = [
        (x, math.log(m), math.log(t), gate)
        for x, m, t, gate in itertools.product((0, 1, 100_000), MEANS, (1e-4, 5.0, 1e8), GATES)
    ]
    compare(
        lambda m, t, gate: ZeroInflated(NegativeBinomial(log_mean=m, log_inverse_dispersion=t), gate),
        exact_zi,
        cases,
        dtype,
    )


def test_negative_binomial_is_scipys():
    count = np.arange(60)
    mean, theta = 7.25, 2.125
    q = NegativeBinomial(
        log_mean=torch.tensor(mean).double().log(), log_inverse_dispersion=torch.tensor(theta).double().log()
    )
    log_prob = q.log_prob(torch.from_numpy(count)).numpy()
    np.testing.assert_allclose(log_prob, stats.nbinom.logpmf(count, theta, theta / (theta + mean)), rtol=1e-12)


@pytest.mark.parametrize("mean", [1e-3, 1.0, 200.0])
def test_a_large_inverse_dispersion_is_the_poisson_limit(mean):
    count = np.arange(400)
    q = NegativeBinomial(
        log_mean=torch.tensor(mean).double().log(), log_inverse_dispersion=torch.tensor(1e8).double().log()
    )
    # the first correction is ((x - mu)^2 - x) / (2 theta)
    np.testing.assert_allclose(
        q.log_prob(torch.from_numpy(count)).numpy(), stats.poisson.logpmf(count, mean), rtol=1e-6, atol=1e-3
    )


def two_cells() -> tuple[Tensor, Tensor, Tensor]:
    mean = torch.tensor([[0.2, 3.0, 30.0], [1.0, 0.5, 8.0]]).double()
    return mean.log(), torch.tensor([0.5, 2.0, 50.0]).double().log(), torch.tensor([[-2.0, 0.0, 1.0], [0.3, -1.0, 2.0]])


@pytest.mark.parametrize("inflated", [False, True])
@pytest.mark.parametrize("poisson", [False, True])
def test_moments_and_samples(inflated, poisson):
    torch.manual_seed(0)
    log_mean, log_theta, gate = two_cells()
    q = Poisson(log_mean.exp()) if poisson else NegativeBinomial(log_mean=log_mean, log_inverse_dispersion=log_theta)
    q = ZeroInflated(q, gate) if inflated else q
    support = torch.arange(3000.0).double().reshape(-1, 1, 1)
    probability = q.log_prob(support).exp()
    torch.testing.assert_close(probability.sum(0), torch.ones(2, 3).double(), rtol=0, atol=1e-9)
    mean = (probability * support).sum(0)
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.variance, (probability * (support - mean).square()).sum(0))

    samples = q.sample(torch.Size([100_000]))
    assert samples.shape == (100_000, 2, 3)
    assert samples.eq(samples.round()).all()
    error = (q.variance / len(samples)).sqrt()
    assert ((samples.mean(0) - q.mean) / error).abs().max() < 4.5
    zero = probability[0]
    assert (((samples == 0).double().mean(0) - zero) / (zero * (1 - zero) / len(samples)).sqrt()).abs().max() < 4.5
    assert torch.corrcoef(samples.flatten(1).T).fill_diagonal_(0).abs().max() < 0.02


def test_mean_and_variance_are_scipys():
    log_mean, log_theta, _ = two_cells()
    theta, mean = log_theta.exp(), log_mean.exp()
    expected = stats.nbinom.var(theta.expand(2, 3), theta / (theta + mean))
    np.testing.assert_allclose(
        NegativeBinomial(log_mean=log_mean, log_inverse_dispersion=log_theta).variance.numpy(), expected
    )


def test_a_gate_with_more_entries_than_the_base_samples_each_of_them():
    torch.manual_seed(0)
    q = ZeroInflated(NegativeBinomial(log_mean=torch.zeros(()), log_inverse_dispersion=torch.zeros(())), torch.zeros(4))
    assert q.batch_shape == (4,)
    samples = q.sample(torch.Size([2000]))
    assert samples.shape == (2000, 4)
    assert torch.corrcoef(samples.T).fill_diagonal_(0).abs().max() < 0.1


@pytest.mark.parametrize("inflated", [False, True])
def test_expanding_keeps_the_probabilities(inflated):
    log_mean, log_theta, gate = two_cells()
    q = NegativeBinomial(log_mean=log_mean, log_inverse_dispersion=log_theta)
    q = Independent(ZeroInflated(q, gate) if inflated else q, 1)
    expanded = q.expand(torch.Size([5, 2]))
    assert (expanded.batch_shape, expanded.event_shape) == ((5, 2), (3,))
    count = torch.tensor([0.0, 2.0, 40.0]).expand(5, 2, 3)
    torch.testing.assert_close(expanded.log_prob(count)[3], q.log_prob(count[0]))
