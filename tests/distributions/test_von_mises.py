"""The von Mises distribution at extreme parameters."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence

from vaekit.distributions import VonMises
from vaekit.distributions.implicit import reparameterize
from vaekit.distributions.von_mises import _velocity

CONCENTRATIONS = (1e-3, 0.1, 1.0, 30.0, 1e3, 1e4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kappa", CONCENTRATIONS)
def test_extremes(kappa, dtype):
    concentration = torch.full((20_000,), kappa, dtype=dtype, requires_grad=True)
    loc = torch.full_like(concentration, 3.0).detach().requires_grad_()
    q = VonMises(loc, concentration)
    samples = q.rsample()
    assert samples.dtype == dtype
    assert (samples.abs() <= math.pi + 1e-6).all()
    centred = stats.vonmises(concentration[0].item())
    distance = ((samples - loc).detach().double() + math.pi) % (2 * math.pi) - math.pi
    assert stats.kstest(distance.numpy(), centred.cdf).pvalue > 1e-4
    torch.testing.assert_close(
        q.log_prob(samples).detach().double(), torch.from_numpy(centred.logpdf(distance)), rtol=1e-5, atol=1e-4
    )
    first = torch.autograd.grad(samples.square().sum(), (loc, concentration), create_graph=True)
    assert all(g.isfinite().all() for g in first)
    assert torch.autograd.grad(first[1].sum(), concentration)[0].isfinite().all()


@pytest.mark.parametrize("kappa", CONCENTRATIONS)
def test_velocity_and_its_derivatives_agree_with_mpmath(kappa):
    with mpmath.workdps(40):
        for weight in (0.02, 0.3, 0.8):
            at = mpmath.mpf(weight * min(3.1, 5 / kappa**0.5))

            def velocity(z, k):
                mean = mpmath.besseli(1, k) / mpmath.besseli(0, k)
                integrand = lambda t: (mpmath.cos(t) - mean) * mpmath.exp(k * (mpmath.cos(t) - mpmath.cos(z)))  # noqa: E731
                return -mpmath.quad(integrand, mpmath.linspace(0, z, 5))

            step = mpmath.mpf(10) ** -10
            exact = [
                velocity(at, mpmath.mpf(kappa)),
                (velocity(at + step, kappa) - velocity(at - step, kappa)) / (2 * step),
                (velocity(at, kappa * (1 + step)) - velocity(at, kappa * (1 - step))) / (2 * kappa * step),
            ]
            z, k = (torch.tensor(float(x), dtype=torch.float64, requires_grad=True) for x in (at, kappa))
            (actual,) = _velocity(z, k)
            for value, expected in zip((actual, *torch.autograd.grad(actual, (z, k))), exact, strict=True):
                assert value.item() == pytest.approx(float(expected), rel=1e-9, abs=1e-13)


def test_kl_divergence_agrees_with_quadrature():
    z = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 * 2 * math.pi - math.pi
    for first, second in [((0.3, 2.0), (1.4, 0.7)), ((3.0, 0.01), (-3.0, 9.0)), ((0.0, 50.0), (0.2, 40.0))]:
        p, q = (VonMises(*torch.tensor(x, dtype=torch.float64)) for x in (first, second))
        exact = (p.log_prob(z).exp() * (p.log_prob(z) - q.log_prob(z))).sum() * 2 * math.pi / 2000
        torch.testing.assert_close(kl_divergence(p, q), exact)
    assert kl_divergence(p, p) == 0


def test_cdf_of_a_wrapped_angle_is_that_of_the_samples():
    q = VonMises(torch.tensor(2.9).double(), torch.tensor(3.0).double())
    assert q.cdf(torch.tensor(-math.pi, dtype=torch.float64)) == 0
    assert q.cdf(torch.tensor(math.pi, dtype=torch.float64)).item() == pytest.approx(1)
    samples = q.sample(torch.Size([20_000]))
    assert (samples < 0).double().mean() > 0.1  # some are wrapped
    assert (
        stats.kstest(samples.numpy(), lambda z: q.cdf(torch.from_numpy(np.clip(z, -np.pi, np.pi))).numpy()).pvalue
        > 1e-4
    )


def test_a_reparameterized_value_under_vmap():
    kappa, z = torch.tensor([0.5, 2.0]).double(), torch.tensor([0.3, -1.0]).double()

    def moved(kappa, z):
        return reparameterize(z, _velocity, kappa)

    actual = torch.vmap(torch.func.grad(moved))(kappa, z)
    torch.testing.assert_close(actual, _velocity(z, kappa)[0])


def test_arguments_are_validated():
    with pytest.raises(ValueError, match="concentration"):
        VonMises(torch.tensor(0.0), torch.tensor(-1.0))
