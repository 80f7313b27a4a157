"""Dispersion by gene, by gene and batch, by cell; and genes that were not observed."""

from __future__ import annotations

import pytest
import torch
from models.tiny import COUNT_LIKELIHOODS, FEATURES, counts
from scipy.stats import chi2
from torch import Tensor

from vaekit.batch import Batch, DataStatistics
from vaekit.exceptions import ConfigError
from vaekit.likelihoods import Likelihood, NegativeBinomial, ZeroInflatedNegativeBinomial

WIDTH, CELLS = 3, 1500
DISPERSIONS = ("gene", "gene-batch", "gene-cell")
KINDS = (NegativeBinomial, ZeroInflatedNegativeBinomial)


def built(kind: type, dispersion: str) -> Likelihood:
    likelihood = kind(dispersion)
    likelihood.build(WIDTH, FEATURES, covariates=3)
    likelihood.init_from_data(DataStatistics(torch.rand(FEATURES) + 0.2, num_batches=2))
    return likelihood


def cells(rows: int = CELLS) -> Batch:
    """Cells of two batches, with a continuous covariate."""
    covariates = torch.cat([torch.eye(2)[torch.arange(rows) % 2], torch.randn(rows, 1)], 1)
    return counts(rows)._replace(size_factor=torch.full((rows, 1), 40.0), covariates=covariates)


def dispersions(likelihood: Likelihood) -> list[Tensor]:
    return [p for name, p in likelihood.named_parameters() if "dispersion" in name]


def simulated(kind: type, dispersion: str) -> tuple[Likelihood, Tensor, Batch]:
    """Return a likelihood with random dispersions, decoder features, and cells drawn from it."""
    truth, h, batch = built(kind, dispersion), torch.randn(CELLS, WIDTH), cells()
    with torch.no_grad():
        for parameter in dispersions(truth):
            parameter.normal_()
        return truth, h, batch._replace(x=truth(h, batch).sample().float())


def fitted(likelihood: Likelihood, h: Tensor, batch: Batch) -> float:
    """Return the log-likelihood at the dispersions that maximize it."""
    parameters = dispersions(likelihood)
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
    optimizer = torch.optim.LBFGS(parameters, max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -likelihood.log_prob(h, batch).mean()
        value.backward()
        return value

    optimizer.step(loss)
    return likelihood.log_prob(h, batch).double().sum().item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dispersion", DISPERSIONS)
def test_dispersions_are_recovered(kind, dispersion):
    """By the likelihood ratio to the truth, chi-squared in large samples: a false alarm in 0.01 %."""
    truth, h, batch = simulated(kind, dispersion)
    best = truth.log_prob(h, batch).double().sum().item()
    found = fitted(truth, h, batch)
    free = {"gene": FEATURES, "gene-batch": 2 * FEATURES, "gene-cell": (WIDTH + 1) * FEATURES}[dispersion]
    assert -0.05 <= 2 * (found - best) < chi2.ppf(0.9999, free)
    if dispersion != "gene":  # the cells differ enough: one dispersion per gene fits far worse
        plain = built(kind, "gene")
        plain.load_state_dict(truth.state_dict(), strict=False)
        assert best - fitted(plain, h, batch) > 50


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dispersion", DISPERSIONS)
def test_log_prob_is_that_of_the_distribution(kind, dispersion):
    likelihood, _, batch = simulated(kind, dispersion)
    h = torch.randn(2, CELLS, WIDTH, requires_grad=True)
    found, wanted = likelihood.log_prob(h, batch), likelihood(h, batch).log_prob(batch.x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, check_dtype=False, rtol=1e-5, atol=1e-4)
    names, parameters = zip(("h", h), *likelihood.named_parameters(), strict=True)
    gradients = [torch.autograd.grad(value.sum(), parameters) for value in (found, wanted.float())]
    for name, one, other in zip(names, *gradients, strict=True):
        assert (one != 0).any(), name
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * other.abs().max().item())


def test_variance_is_that_of_gene_and_batch():
    likelihood, h, batch = simulated(NegativeBinomial, "gene-batch")
    p = likelihood(h, batch)
    for number in (0, 1):
        rows = batch.covariates[:, number] == 1
        theta = (likelihood.log_inverse_dispersion + likelihood.dispersion_shift[number]).exp()
        mean = p.mean[rows]
        torch.testing.assert_close(p.variance[rows], mean + mean**2 / theta, check_dtype=False)
    other = batch._replace(covariates=batch.covariates + torch.tensor([0, 0, 7.0]))  # no batch
    torch.testing.assert_close(likelihood(h, other).variance, p.variance)


@pytest.mark.parametrize("dispersion", DISPERSIONS)
def test_extreme_dispersions_are_finite(dispersion):
    likelihood, h, batch = simulated(ZeroInflatedNegativeBinomial, dispersion)
    for value in (-30.0, 30.0):
        with torch.no_grad():
            for parameter in dispersions(likelihood):
                parameter.fill_(value)
        log_prob = likelihood.log_prob(h.requires_grad_(), batch)
        gradient = torch.autograd.grad(log_prob.sum(), [h, *dispersions(likelihood)])
        assert log_prob.isfinite().all()
        assert all(g.isfinite().all() for g in gradient)


def test_errors():
    with pytest.raises(ConfigError, match=r"dispersion='gene-bach' not found. Did you mean 'gene-batch"):
        NegativeBinomial("gene-bach")
    with pytest.raises(ConfigError, match=r"dispersion='gene-batch' needs batches, but the data have 0"):
        ZeroInflatedNegativeBinomial("gene-batch").build(WIDTH, FEATURES)
    likelihood = NegativeBinomial("gene-batch", gene_shift=False)
    likelihood.build(WIDTH, FEATURES, covariates=2)
    with pytest.raises(ConfigError, match="needs batches"):
        likelihood.init_from_data(DataStatistics(torch.ones(FEATURES), num_batches=0))
    with pytest.raises(ConfigError, match="needs batches"):
        likelihood.log_prob(torch.zeros(CELLS, WIDTH), cells()._replace(covariates=None))


@pytest.mark.parametrize("kind", COUNT_LIKELIHOODS)
def test_unobserved_genes_are_left_out(kind):
    likelihood, batch = kind(), counts()
    likelihood.build(WIDTH, FEATURES)
    h = torch.randn(2, len(batch.x), WIDTH)
    observed = torch.tensor([True, False, True, True, False])
    found = likelihood.log_prob(h, batch._replace(observed=observed.expand_as(batch.x)))
    each = likelihood(h, batch).base_dist.log_prob(batch.x)
    torch.testing.assert_close(found, each[..., observed].sum(-1), check_dtype=False)
    assert not found.allclose(likelihood.log_prob(h, batch))
    every = batch._replace(observed=torch.ones_like(batch.x, dtype=torch.bool))
    torch.testing.assert_close(likelihood.log_prob(h, every), likelihood.log_prob(h, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", COUNT_LIKELIHOODS)
def test_encoder_sees_what_it_would_expect_of_unobserved_genes(kind):
    """The mean over all choices of three genes of five equals the input with all five."""
    likelihood, batch = kind(), counts()
    likelihood.build(WIDTH, FEATURES)
    likelihood.init_from_data(DataStatistics(batch.x.mean(0), batch.x.log1p().mean(0)))
    seen = []
    for genes in torch.combinations(torch.arange(FEATURES), 3):
        observed = torch.zeros(FEATURES, dtype=torch.bool).index_fill(0, genes, True).expand_as(batch.x)
        x = torch.where(observed, batch.x, 0)
        seen.append(likelihood.encoder_input(batch._replace(x=x, observed=observed)))
        missing = seen[-1][~observed].view(len(x), 2)
        torch.testing.assert_close(missing, batch.x.log1p().mean(0)[~observed[0]].expand(len(x), 2))
    torch.testing.assert_close(torch.stack(seen).mean(0), likelihood.encoder_input(batch))
