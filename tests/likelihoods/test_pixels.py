"""Likelihoods of pixels: against quadrature and scipy, in float32 at extremes, with dense and with pixelwise heads."""

from __future__ import annotations

import functools

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import ContinuousBernoulli as TorchContinuousBernoulli
from torch.distributions import constraints

from vaekit.batch import Batch, DataStatistics
from vaekit.distributions import ContinuousBernoulli as ContinuousBernoulliDistribution
from vaekit.exceptions import ConfigError, DataError
from vaekit.likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Gaussian
from vaekit.likelihoods.levels import DiscretizedLevels
from vaekit.likelihoods.pixels import PixelwiseLinear

FEATURES, WIDTH = 6, 12  # two maps a feature
KINDS = {
    "Bernoulli": Bernoulli,
    "ContinuousBernoulli": ContinuousBernoulli,
    "Gaussian": Gaussian,
    "Categorical": lambda pixelwise: Categorical(5, pixelwise),
}
LOGITS = [-1e4, -300.0, -30.0, -3.0, -1.1, -0.99, -0.1, -1e-3, -1e-6, 0.0, 1e-6, 1e-3, 0.1, 0.99, 1.1, 3.0, 30.0, 1e4]


def built(name, pixelwise=False):
    likelihood = KINDS[name](pixelwise=pixelwise)
    likelihood.build(WIDTH, FEATURES)
    return likelihood


def grey(rows=4):
    return Batch(torch.randint(0, 5, (rows, FEATURES)) / 4)


@pytest.mark.parametrize("pixelwise", [False, True], ids=["dense", "pixelwise"])
@pytest.mark.parametrize("name", KINDS)
def test_axes_gradients_and_draws(name, pixelwise):
    likelihood, batch = built(name, pixelwise), grey()
    h = torch.randn(3, 2, 4, WIDTH, requires_grad=True)
    p = likelihood(h, batch)
    assert (p.batch_shape, p.event_shape, p.mean.shape) == ((3, 2, 4), (FEATURES,), (3, 2, 4, FEATURES))
    torch.testing.assert_close(likelihood(h[1, 0], batch).log_prob(batch.x), p.log_prob(batch.x)[1, 0])
    assert likelihood.log_prob(h, batch).equal(p.log_prob(batch.x))
    assert p.sample((7,)).shape == (7, 3, 2, 4, FEATURES)
    p.log_prob(batch.x).sum().backward()
    for parameter, value in [("h", h), *likelihood.named_parameters()]:
        assert value.grad.isfinite().all(), parameter
        assert (value.grad != 0).any(), parameter


@pytest.mark.parametrize("pixelwise", [False, True], ids=["dense", "pixelwise"])
@pytest.mark.parametrize("name", KINDS)
def test_starts_at_the_mean_picture(name, pixelwise):
    likelihood = built(name, pixelwise)
    mean = torch.tensor([0.1, 0.5, 0.0, 1.0, 0.7, 0.499])
    likelihood.init_from_data(DataStatistics(mean))
    p = likelihood(torch.zeros(3, WIDTH), grey(3))
    expected = mean if p.base_dist.support is constraints.real else mean.clamp(0.01, 0.99)
    torch.testing.assert_close(p.mean, expected.expand(3, -1), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["Bernoulli", "ContinuousBernoulli", "Categorical"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_values_outside_the_unit_interval_are_refused(name, value):
    batch = grey()
    batch.x[0, 0] = value
    with pytest.raises(DataError, match=f"likelihood {name} needs values in 0..1"):
        built(name).check(batch)
    built(name).check(grey())


def test_a_local_head_is_one_map_for_all_places():
    pixelwise = PixelwiseLinear(WIDTH, FEATURES, 3)
    h = torch.randn(2, WIDTH)
    found = pixelwise(h).reshape(2, FEATURES, 3)
    with torch.no_grad():
        pixelwise.bias.normal_()
    shifted = pixelwise(h).reshape(2, FEATURES, 3) - found
    torch.testing.assert_close(shifted, pixelwise.bias.reshape(FEATURES, 3).expand(2, -1, -1))
    for feature in range(FEATURES):
        torch.testing.assert_close(found[:, feature], h[:, 2 * feature : 2 * feature + 2] @ pixelwise.mix.weight.T)


def test_a_local_head_needs_features_of_each_place():
    with pytest.raises(
        ConfigError, match="pixelwise=True needs a decoder with the same number of features for each of the 6 values"
    ):
        Bernoulli(pixelwise=True).build(WIDTH + 1, FEATURES)


def test_too_few_levels():
    with pytest.raises(ConfigError, match="levels=1 "):
        Categorical(1)


class TestContinuousBernoulli:
    @pytest.mark.parametrize("logit", [x for x in LOGITS if abs(x) <= 300])
    def test_against_quadrature(self, logit):
        p = ContinuousBernoulliDistribution(logits=torch.tensor(logit, dtype=torch.float64), validate_args=False)

        def density(x):
            return p.log_prob(torch.tensor(x, dtype=torch.float64)).exp().item()

        points = [0.01, 0.99]
        total = integrate.quad(density, 0, 1, points=points, epsabs=1e-12)[0]
        mean = integrate.quad(lambda x: x * density(x), 0, 1, points=points, epsabs=1e-12)[0]
        assert total == pytest.approx(1, abs=1e-9)
        assert p.mean.item() == pytest.approx(mean, abs=1e-9)

    @pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
    def test_float32_is_as_good_as_float64(self, x):
        single, double = (torch.tensor(LOGITS, dtype=d, requires_grad=True) for d in (torch.float32, torch.float64))
        found, exact = (
            ContinuousBernoulliDistribution(logits=logits, validate_args=False).log_prob(logits.new_tensor(x))
            for logits in (single, double)
        )
        torch.testing.assert_close(found.double(), exact, rtol=3e-7, atol=3e-7)
        found.sum().backward()
        exact.sum().backward()
        torch.testing.assert_close(single.grad.double(), double.grad, rtol=1e-6, atol=3e-7)

    def test_the_derivative_of_the_normalizer_is_the_mean(self):
        logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
        p = ContinuousBernoulliDistribution(logits=logits, validate_args=False)
        (slope,) = torch.autograd.grad(p.log_prob(torch.zeros_like(logits)).sum(), logits)
        torch.testing.assert_close(-slope, p.mean)

    def test_gradients_by_differences(self):
        grid = torch.linspace(-3.1, 3.1, 25, dtype=torch.float64).requires_grad_()
        x = torch.tensor(0.3, dtype=torch.float64)
        assert torch.autograd.gradcheck(
            lambda logits: ContinuousBernoulliDistribution(logits=logits, validate_args=False).log_prob(x), grid
        )

    def test_what_torch_gives_in_float32(self):
        """The reasons for formulas of our own."""
        far = torch.tensor(30.0)
        assert TorchContinuousBernoulli(logits=far).log_prob(torch.tensor(1.0)).sub(np.log(30)).abs() > 0.5
        assert ContinuousBernoulliDistribution(logits=far).log_prob(torch.tensor(1.0)).sub(np.log(30)).abs() < 1e-6
        near = torch.linspace(4.1e-3, 4.5e-3, 50)  # probabilities just beyond torch's own series
        errors = []
        for kind in (TorchContinuousBernoulli, ContinuousBernoulliDistribution):
            logits = near.clone().requires_grad_()
            (slope,) = torch.autograd.grad(kind(logits=logits).log_prob(torch.tensor(0.5)).sum(), logits)
            errors.append((slope + near / 12).abs().max().item())
        assert errors[0] > 1e-3
        assert errors[1] < 1e-6

    @pytest.mark.parametrize("logit", [0.0, 0.1, 2.5, -40.0, 300.0])
    def test_draws_have_the_density(self, logit):
        p = ContinuousBernoulliDistribution(logits=torch.tensor(logit))
        drawn = p.sample((20_000,)).double().numpy()

        def cdf(x):
            return np.expm1(logit * x) / np.expm1(logit) if logit else x

        assert stats.kstest(drawn, cdf).pvalue > 1e-4  # one false alarm in 10,000

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("logit", LOGITS)
    def test_moments_and_quantiles_against_mpmath(self, logit, dtype):
        logits = torch.tensor(logit, dtype=dtype, requires_grad=True)
        p = ContinuousBernoulliDistribution(logits=logits, validate_args=False)
        near = {"rel": 1e-6, "abs": 1e-6} if dtype == torch.float32 else {"rel": 1e-9, "abs": 1e-9}
        with mpmath.workdps(60):
            exact = mpmath.mpf(logits.item())
            half = exact / 2
            variance = (1 / half**2 - 1 / mpmath.sinh(half) ** 2) / 4 if exact else mpmath.mpf(1) / 12
            mean = (1 + mpmath.coth(half) - 1 / half) / 2 if exact else mpmath.mpf(1) / 2
            entropy = mpmath.log(mpmath.expm1(exact) / exact) - exact * mean if exact else 0
            assert p.variance.item() == pytest.approx(float(variance), rel=near["rel"])
            assert p.entropy().item() == pytest.approx(float(entropy), **near)
            for share in (1e-6, 0.3, 0.77, 0.999):
                u = torch.tensor(share, dtype=dtype)

                def quantile(logit, u):
                    return mpmath.log1p(u * mpmath.expm1(logit)) / logit if logit else u

                x = p.icdf(u)
                (slope,) = torch.autograd.grad(x, logits)
                at = mpmath.mpf(u.item())
                wanted = mpmath.diff(functools.partial(quantile, u=at), exact) if exact else share * (1 - share) / 2
                assert x.item() == pytest.approx(float(quantile(exact, at)), **near)
                assert slope.item() == pytest.approx(float(wanted), abs=3e-6 if dtype == torch.float32 else 3e-8)
                assert p.cdf(x).item() == pytest.approx(share, abs=3e-3 if dtype == torch.float32 else 1e-6)


class TestLevels:
    def test_against_enumeration(self):
        logits = torch.randn(3, FEATURES, 5, dtype=torch.float64)
        p, grid = DiscretizedLevels(logits), torch.linspace(0, 1, 5, dtype=torch.float64)
        probabilities = torch.stack([p.log_prob(level.expand(3, FEATURES)).exp() for level in grid], -1)
        torch.testing.assert_close(probabilities, logits.softmax(-1))
        torch.testing.assert_close(p.mean, probabilities @ grid)
        drawn = p.sample((4000,))
        assert set(drawn.unique().tolist()) == set(grid.tolist())
        z = (drawn.mean(0) - p.mean) / (drawn.std(0) / 4000**0.5)
        assert z.abs().max() < 4.5  # 18 z-scores: one false alarm in 8,000

    def test_every_byte_is_a_level(self):
        bytes_ = torch.arange(256)
        x = torch.from_numpy(np.divide(bytes_.numpy(), 255, dtype=np.float32))  # as the data set makes them
        p = DiscretizedLevels(torch.eye(256).mul(100.0))
        assert p.log_prob(x).abs().max() < 1e-6

    def test_values_belong_to_the_nearest_level(self):
        p = DiscretizedLevels(torch.tensor([[0.0, 1.0, 2.0]]).expand(4, -1))
        logs = torch.tensor([0.0, 1.0, 2.0]).log_softmax(-1)
        torch.testing.assert_close(p.log_prob(torch.tensor([0.2, 0.3, 0.74, 0.76])), logs[[0, 1, 1, 2]])

    def test_extreme_logits_are_finite(self):
        logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
        log_prob = DiscretizedLevels(logits).log_prob(torch.tensor([1.0]))
        log_prob.sum().backward()
        assert log_prob.isfinite().all()
        assert logits.grad.isfinite().all()
