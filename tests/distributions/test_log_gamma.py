"""Log-gamma and log-Dirichlet variables: small concentrations, velocities, divergences, base measure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Dirichlet, Gamma, kl_divergence

from vaekit.distributions import LogDirichlet, LogGamma


@pytest.mark.parametrize("alpha", [1e-4, 0.01, 0.999, 1.0, 10.0, 1000.0, 1e6])
def test_float32_extremes(alpha):
    concentration = torch.full((50_000,), alpha, requires_grad=True)
    q = LogGamma(concentration)
    samples = q.rsample()
    assert samples.dtype == torch.float32
    assert samples.isfinite().all()
    assert (
        stats.kstest(
            samples.detach().double().numpy(),
            lambda y: q.expand((50_000,)).cdf(torch.from_numpy(y)).detach().double().numpy(),
        ).pvalue
        > 1e-4
    )
    (first,) = torch.autograd.grad(samples.sum(), concentration, create_graph=True)
    assert first.isfinite().all()
    (second,) = torch.autograd.grad(first.sum(), concentration)
    assert second.isfinite().all()
    # E[y] = digamma(alpha)
    for actual, order in ((samples, 0), (first, 1), (second, 2)):
        actual = actual.detach().double()
        expected = torch.special.polygamma(order, torch.tensor(alpha, dtype=torch.float32).double())
        assert ((actual.mean() - expected) / (actual.std() / len(actual) ** 0.5 + 1e-6 * expected.abs())).abs() < 4


def test_small_concentrations_do_not_underflow_where_torchs_do():
    alpha = torch.full((50_000,), 0.01)
    torchs = Gamma(alpha, torch.ones_like(alpha)).sample()
    assert (torchs <= torch.finfo(torch.float32).tiny).float().mean() > 0.3
    samples = LogGamma(alpha).sample()
    assert samples.unique().numel() > 0.9 * samples.numel()
    exact = stats.loggamma.cdf(samples.double().numpy(), 0.01)
    np.testing.assert_allclose(LogGamma(alpha).cdf(samples).numpy(), exact, atol=1e-5)
    np.testing.assert_allclose(
        LogGamma(alpha).log_prob(samples), stats.loggamma.logpdf(samples.double(), 0.01), rtol=1e-5
    )


def test_divergences_are_those_of_gamma_and_dirichlet():
    a, b = torch.tensor([0.3, 2.0, 5.0]).double(), torch.tensor([1.2, 0.4, 7.0]).double()
    torch.testing.assert_close(kl_divergence(LogGamma(a, b), LogGamma(b, a)), kl_divergence(Gamma(a, b), Gamma(b, a)))
    torch.testing.assert_close(
        kl_divergence(LogDirichlet(a), LogDirichlet(b)), kl_divergence(Dirichlet(a), Dirichlet(b))
    )
    y = LogDirichlet(a).sample(torch.Size([200_000]))
    ratio = LogDirichlet(a).log_prob(y) - LogDirichlet(b).log_prob(y)
    error = ratio.std() / len(ratio) ** 0.5
    assert (ratio.mean() - kl_divergence(LogDirichlet(a), LogDirichlet(b))).abs() < 4 * error


def test_the_cdf_of_gamma_rejects_a_gradient_by_the_concentration():
    alpha = torch.tensor(2.0, requires_grad=True)
    with pytest.raises((RuntimeError, NotImplementedError), match="not implemented"):
        LogGamma(alpha).cdf(torch.tensor(0.5)).backward()


def test_log_dirichlet_integrates_to_one_over_log_ratios():
    alpha = torch.tensor([0.7, 1.5, 2.2]).double()
    grid = torch.linspace(-60, 60, 1601, dtype=torch.float64)
    step = grid[1] - grid[0]
    ratios = torch.cartesian_prod(grid, grid)
    for last in range(3):  # for any order of the components
        logits = torch.zeros(len(ratios), 3).double()
        logits[:, [k for k in range(3) if k != last]] = ratios
        log_prob = LogDirichlet(alpha, validate_args=False).log_prob(logits.log_softmax(-1))
        assert (log_prob.exp().sum() * step**2).item() == pytest.approx(1, rel=1e-6)
    entropy = -(log_prob.exp() * log_prob).sum() * step**2
    assert LogDirichlet(alpha).entropy().item() == pytest.approx(entropy.item(), rel=1e-6)


def test_log_dirichlet_of_two_is_a_beta():
    alpha = torch.tensor([0.6, 2.3]).double()
    samples = LogDirichlet(alpha).sample(torch.Size([20_000]))
    assert stats.kstest(samples[:, 0].exp().numpy(), stats.beta(0.6, 2.3).cdf).pvalue > 1e-4
    x = samples[:5].exp()
    expected = torch.from_numpy(stats.beta(0.6, 2.3).logpdf(x[:, 0])) + samples[:5].sum(-1)  # the Jacobian: prod x
    torch.testing.assert_close(LogDirichlet(alpha).log_prob(samples[:5]), expected)


def test_log_dirichlet_derivatives_are_those_of_the_closed_form():
    at = torch.tensor([0.4, 1.7, 3.0]).double()

    def exact(a):  # E[(y_1 - y_2)^2 + y_3]
        ratio = a[0].digamma() - a[1].digamma()
        return ratio**2 + torch.polygamma(1, a[:2]).sum() + a[2].digamma() - a.sum().digamma()

    gradient, hessian = torch.func.grad(exact)(at), torch.func.hessian(exact)(at)
    alpha = at.expand(100_000, 3).clone().requires_grad_()
    y = LogDirichlet(alpha).rsample()
    (first,) = torch.autograd.grad(((y[:, 0] - y[:, 1]) ** 2 + y[:, 2]).sum(), alpha, create_graph=True)
    second = torch.stack([torch.autograd.grad(first[:, k].sum(), alpha, retain_graph=True)[0] for k in range(3)], 1)
    for actual, expected in ((first.detach(), gradient), (second, hessian)):
        error = actual.std(0) / len(actual) ** 0.5
        assert (error <= 0.02 * expected.norm()).all()
        assert ((actual.mean(0) - expected).abs() / (error + 1e-9)).max() < 4


def test_log_dirichlet_shapes_moments_and_extremes():
    alpha = torch.tensor([[1e-3, 1e-3, 0.01], [0.5, 1.0, 1e5]], requires_grad=True)
    q = LogDirichlet(alpha)
    assert (q.batch_shape, q.event_shape) == ((2,), (3,))
    y = q.expand(torch.Size([4, 2])).rsample(torch.Size([5000]))
    assert y.shape == (5000, 4, 2, 3)
    assert y.isfinite().all()
    torch.testing.assert_close(y.logsumexp(-1), torch.zeros(5000, 4, 2), rtol=0, atol=1e-6)
    for output in (y.sum(), q.log_prob(y.detach()).sum()):
        assert torch.autograd.grad(output, alpha)[0].isfinite().all()
    y = y.detach().flatten(0, 1).double()
    assert ((y.mean(0) - q.mean) / (q.variance / len(y)).sqrt()).abs().max() < 4
    with pytest.raises(ValueError, match="support"):
        LogDirichlet(torch.ones(2), validate_args=True).log_prob(torch.tensor([math.log(0.5), math.log(0.6)]))
    with pytest.raises(ValueError, match="scalar"):
        LogDirichlet(torch.tensor(1.0))
