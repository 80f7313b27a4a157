"""Shifts of genes by covariates: their effect on the counts, and their requirements."""

from __future__ import annotations

import pytest
import torch
from models.tiny import COUNT_LIKELIHOODS, FEATURES, counts

from vaekit._core.components import from_config
from vaekit.exceptions import ConfigError

WIDTH = 3


def built(kind, covariates=3):
    likelihood = kind(gene_shift=True)
    likelihood.build(WIDTH, FEATURES, covariates=covariates)
    return likelihood


@pytest.mark.parametrize("kind", COUNT_LIKELIHOODS)
def test_it_adds_to_the_logits(kind):
    likelihood, h = built(kind), torch.randn(2, 12, WIDTH)
    batch = counts()._replace(covariates=torch.randn(12, 3))
    plain = likelihood.log_mean(h, batch)
    torch.testing.assert_close(plain, likelihood.composition(h).log_softmax(-1) + batch.size_factor.log())
    with torch.no_grad():
        likelihood.composition_shift.normal_()
    expected = likelihood.composition(h) + batch.covariates @ likelihood.composition_shift
    torch.testing.assert_close(likelihood.logits(h, batch), expected)
    torch.testing.assert_close(
        likelihood(h, batch).base_dist.mean.float(), _mean(likelihood, h, batch, expected), rtol=1e-4, atol=1e-6
    )
    log_prob = likelihood(h, batch).log_prob(batch.x).float()
    torch.testing.assert_close(likelihood.log_prob(h, batch), log_prob, rtol=1e-5, atol=0)


def _mean(likelihood, h, batch, logits):
    mean = logits.softmax(-1) * batch.size_factor
    return mean * torch.sigmoid(-likelihood.gate(h)) if hasattr(likelihood, "gate") else mean


@pytest.mark.parametrize("kind", COUNT_LIKELIHOODS)
def test_it_needs_covariates(kind):
    with pytest.raises(ConfigError, match=rf"{kind.__name__}: gene_shift=True needs covariates.*batch_key"):
        built(kind, covariates=0)
    with pytest.raises(ConfigError, match="gene_shift"):
        built(kind).log_prob(torch.randn(12, WIDTH), counts())


@pytest.mark.parametrize("kind", COUNT_LIKELIHOODS)
def test_it_is_kept_in_the_configuration(kind):
    assert from_config(kind(gene_shift=True).config).gene_shift is True
    assert not hasattr(_without(kind), "composition_shift")


@pytest.mark.parametrize("kind", COUNT_LIKELIHOODS)
def test_by_default_covariates_decide(kind):
    for covariates in (0, 3):
        likelihood = kind()
        likelihood.build(WIDTH, FEATURES, covariates=covariates)
        assert hasattr(likelihood, "composition_shift") == (covariates > 0)
        assert from_config(likelihood.config).gene_shift is None


def _without(kind):
    likelihood = kind(gene_shift=False)
    likelihood.build(WIDTH, FEATURES, covariates=3)
    return likelihood
