"""The likelihood modules: shapes, library sizes, the starting point, gradients."""

from __future__ import annotations

import pytest
import torch
from models.tiny import COUNT_LIKELIHOODS, FEATURES, LIKELIHOODS, batch_for, counts, pixels

from vaekit.batch import DataStatistics
from vaekit.distributions import NegativeBinomial as NegativeBinomialDistribution
from vaekit.exceptions import DataError
from vaekit.likelihoods import Bernoulli, Gaussian, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

WIDTH = 4


def built(kind: type):
    likelihood = kind()
    likelihood.build(WIDTH, FEATURES)
    return likelihood


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_axes_of_rows_lead(kind):
    batch, likelihood = batch_for(kind), built(kind)
    h = torch.randn(3, 2, len(batch.x), WIDTH)
    p = likelihood(h, batch)
    assert (p.batch_shape, p.event_shape) == ((3, 2, len(batch.x)), (FEATURES,))
    log_prob = p.log_prob(batch.x)
    assert log_prob.shape == (3, 2, len(batch.x))
    assert log_prob.isfinite().all()
    torch.testing.assert_close(likelihood(h[1, 0], batch).log_prob(batch.x), log_prob[1, 0])
    torch.testing.assert_close(p.mean[2, 1], likelihood(h[2, 1], batch).mean)


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_gradients_reach_every_parameter(kind):
    batch, likelihood = batch_for(kind), built(kind)
    h = torch.randn(len(batch.x), WIDTH, requires_grad=True)
    likelihood(h, batch).log_prob(batch.x).sum().backward()
    for name, value in [("h", h), *likelihood.named_parameters()]:
        assert value.grad.isfinite().all(), name
        assert (value.grad != 0).any(), name


@pytest.mark.parametrize("kind", COUNT_LIKELIHOODS)
def test_expected_counts_add_up_to_the_library_size(kind):
    batch, likelihood = counts(), built(kind)
    p = likelihood(torch.randn(len(batch.x), WIDTH), batch).base_dist
    mean = p.base.mean if kind is ZeroInflatedNegativeBinomial else p.mean
    torch.testing.assert_close(mean.sum(-1, keepdim=True).float(), batch.size_factor)
    assert (batch.x[-1].sum(), batch.size_factor[-1]) == (0, 1)  # an empty cell is one of them


@pytest.mark.parametrize("kind", COUNT_LIKELIHOODS)
def test_no_size_factor_is_an_error(kind):
    with pytest.raises(DataError, match=f"{kind.__name__} needs counts with size factors"):
        built(kind)(torch.zeros(2, WIDTH), pixels(2))


def test_negative_binomial_variance_is_the_genes():
    batch, likelihood = counts(), built(NegativeBinomial)
    with torch.no_grad():
        likelihood.log_inverse_dispersion.copy_(torch.tensor([1e-2, 1.0, 5.0, 1e2, 1e6]).log())
    p = likelihood(torch.randn(len(batch.x), WIDTH), batch)
    theta = likelihood.log_inverse_dispersion.exp()
    torch.testing.assert_close(p.variance, p.mean + p.mean.square() / theta, check_dtype=False)


def test_zero_inflation_only_adds_zeros():
    batch, likelihood = counts(), built(ZeroInflatedNegativeBinomial)
    h = torch.randn(len(batch.x), WIDTH)
    base = NegativeBinomialDistribution(
        log_mean=likelihood.log_mean(h, batch), log_inverse_dispersion=likelihood.log_inverse_dispersion
    )
    gate = likelihood.gate(h).sigmoid().double()
    p = likelihood(h, batch).base_dist
    zero, two = torch.zeros(FEATURES), torch.full((FEATURES,), 2.0)
    torch.testing.assert_close(p.log_prob(zero).exp(), gate + (1 - gate) * base.log_prob(zero).exp())
    torch.testing.assert_close(p.log_prob(two).exp(), (1 - gate) * base.log_prob(two).exp())


@pytest.mark.parametrize("kind", [Poisson, NegativeBinomial])
def test_counts_start_at_the_mean(kind):
    likelihood = built(kind)
    mean = torch.tensor([0.5, 2.0, 0.0, 1.5, 4.0])
    likelihood.init_from_data(DataStatistics(mean))
    batch = counts(3)._replace(size_factor=torch.full((3, 1), 8.0))
    started = likelihood(torch.zeros(3, WIDTH), batch).mean[0].detach()
    positive = mean > 0
    torch.testing.assert_close(  # a gene that no cell has takes half of the smallest mean from all
        started[positive].float(), mean[positive] * 8 / 8.25
    )
    assert started[2] == pytest.approx(0.25 * 8 / 8.25, rel=1e-5)


@pytest.mark.parametrize("kind", COUNT_LIKELIHOODS)
def test_counts_that_are_all_zero_start_uniform(kind):
    likelihood = built(kind)
    likelihood.init_from_data(DataStatistics(torch.zeros(FEATURES)))
    assert likelihood.log_mean(torch.zeros(2, WIDTH), counts(2)).exp().allclose(counts(2).size_factor / FEATURES)


@pytest.mark.parametrize("kind", [Bernoulli, Gaussian])
def test_pixels_start_at_the_mean_picture(kind):
    likelihood = built(kind)
    mean = torch.tensor([0.1, 0.5, 0.0, 1.0, 0.7])
    likelihood.init_from_data(DataStatistics(mean))
    started = likelihood(torch.zeros(3, WIDTH), pixels(3)).mean
    limits = (0.01, 0.99) if kind is Bernoulli else (0, 1)
    torch.testing.assert_close(started, mean.clamp(*limits).expand(3, -1))


def test_a_constant_pixel_cannot_drive_the_density_to_infinity():
    likelihood = built(Gaussian)
    with torch.no_grad():
        likelihood.log_scale.fill_(-1e4)
    log_prob = likelihood(torch.zeros(2, WIDTH), pixels(2)).log_prob(pixels(2).x)
    assert log_prob.isfinite().all()


@pytest.mark.parametrize("kind", COUNT_LIKELIHOODS)
def test_counts_reach_the_encoder_as_logarithms(kind):
    torch.testing.assert_close(built(kind).encoder_input(counts()), counts().x.log1p(), rtol=2e-7, atol=0)


@pytest.mark.parametrize("kind", COUNT_LIKELIHOODS)
def test_huge_cells_are_finite(kind):
    x = torch.tensor([[1e6, 0.0, 1.0, 0.0, 0.0]])
    batch, likelihood = counts(1)._replace(x=x, size_factor=x.sum(1, keepdim=True)), built(kind)
    h = torch.randn(1, WIDTH).mul(30).requires_grad_()  # compositions down to e-50
    log_prob = likelihood(h, batch).log_prob(x)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert all(p.grad.isfinite().all() for p in [h, *likelihood.parameters()])
