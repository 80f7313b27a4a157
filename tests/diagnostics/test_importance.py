"""ELBO and marginal likelihood against quadrature and enumeration, by z-score.

Each case has 12 observations and |z| < 4.5, and fails by chance with a probability of 0.01 %.
"""

from __future__ import annotations

import math

import pytest
import torch
from models.tiny import LIKELIHOODS, MODELS, batch_for, broaden, counts, repeated, sharpen

from vaekit import DiscreteVAE, GaussianVAE, MixedVAE, SequentialVAE
from vaekit._core import memory_budget
from vaekit.diagnostics import importance, importance_sampled_log_likelihood
from vaekit.exceptions import VaekitError
from vaekit.latents import Bernoulli, Categorical, Gaussian
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE

from . import oracle

FEATURES = 3
LIMIT = 4.5


def batch_of(kind: type):
    batch = batch_for(kind)
    x = batch.x[:, :FEATURES]
    return batch._replace(x=x, size_factor=None if batch.size_factor is None else x.sum(1, keepdim=True).clamp_min(1))


def gaussian(kind: type = NegativeBinomial) -> VAE:
    return GaussianVAE(FEATURES, kind(), latent_dim=1, hidden=[6], dropout=0.3)


def mixture(kind: type = NegativeBinomial) -> VAE:
    latents = {"y": Categorical(3, learned_prior=True), "z": Gaussian(1, parents=["y"])}
    return MixedVAE(FEATURES, kind(), latents=latents, hidden=[6], dropout=0.3)


def summed(kind: type = NegativeBinomial) -> VAE:
    return DiscreteVAE(FEATURES, kind(), variables=2, categories=3, hidden=[6])


def sampled(kind: type = NegativeBinomial) -> VAE:
    """81 codes: too many for a sum."""
    return DiscreteVAE(FEATURES, kind(), variables=4, categories=3, hidden=[6])


def summed_sequence(kind: type = NegativeBinomial) -> VAE:
    return SequentialVAE(FEATURES, kind(), categories=[3, 2, 4], hidden=[6])


def sampled_sequence(kind: type = NegativeBinomial) -> VAE:
    """96 paths: too many for a sum, but the first two latents alone have few."""
    return SequentialVAE(FEATURES, kind(), categories=[4, 6, 4], hidden=[6])


CASES = {
    gaussian: oracle.gaussian,
    mixture: oracle.mixture,
    summed: oracle.discrete,
    sampled: oracle.discrete,
    summed_sequence: oracle.sequential,
    sampled_sequence: oracle.sequential,
}


@pytest.mark.parametrize("kind", LIKELIHOODS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("make", CASES)
def test_likelihood_and_elbo_are_exact(make, kind):
    batch, model = batch_of(kind), broaden(sharpen(make(kind), 1.5))
    estimate = importance_sampled_log_likelihood(model, [batch], 4000)
    assert model.training  # restored
    exact = CASES[make](model.eval(), batch)
    assert (exact.elbo < exact.log_likelihood).all()
    error = (1 / estimate.ess - 1 / 4000).clamp_min(0).sqrt()
    assert estimate.ess.min() > 50  # otherwise the delta method is inaccurate
    assert ((estimate.log_likelihood - exact.log_likelihood).abs() < LIMIT * error + 1e-5).all()
    # the error of the ELBO: its integrand has the spread of the log-weights
    elbos = torch.stack([importance_sampled_log_likelihood(model, [batch], 500).elbo for _ in range(20)])
    spread = elbos.std(0) / math.sqrt(len(elbos)) + 1e-5
    assert ((elbos.mean(0) - exact.elbo).abs() < LIMIT * spread).all()


@pytest.mark.parametrize("make", CASES)
def test_loss_of_the_model_is_exact_in_expectation(make):
    model = broaden(sharpen(make(), 1.5)).eval()
    exact = CASES[make](model, batch_of(NegativeBinomial))
    for row in (0, 1, 11):
        replicates = repeated(batch_of(NegativeBinomial), row, 20_000)
        with torch.no_grad():
            result = model.loss(replicates)
        elbos = -result.total.double()
        assert abs(elbos.mean() - exact.elbo[row]) < LIMIT * elbos.std() / math.sqrt(len(elbos)) + 1e-5
        torch.testing.assert_close(sum(result.terms.values()), result.total, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "listed"), [("discrete_score", oracle.discrete), ("sequential_auto", oracle.sequential)]
)
@pytest.mark.parametrize("samples", [1, 7])
def test_few_codes_are_summed_exactly(samples, name, listed):
    batch, model = counts(), sharpen(MODELS[name](NegativeBinomial()))
    estimate = importance_sampled_log_likelihood(model, [batch], samples)
    exact = listed(model, batch)
    torch.testing.assert_close(estimate.log_likelihood, exact.log_likelihood, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(estimate.elbo, exact.elbo, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(estimate.ess, torch.full((12,), float(samples)).double())
    assert estimate.monte_carlo_error() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_evaluated(name):
    batch, model = counts(), broaden(sharpen(MODELS[name](NegativeBinomial()), 1.2))
    estimate = importance_sampled_log_likelihood(model, [batch, repeated(batch, 0, 3)], 200)
    assert estimate.log_likelihood.shape == estimate.elbo.shape == estimate.ess.shape == (15,)
    assert (estimate.ess >= 1 - 1e-9).all()
    assert (estimate.ess <= 200 + 1e-6).all()
    assert (estimate.elbo <= estimate.log_likelihood + 0.5).all()
    other = importance_sampled_log_likelihood(model, [batch], 5000)
    error = (1 / estimate.ess[:12] + 1 / other.ess).sqrt()
    assert ((estimate.log_likelihood[:12] - other.log_likelihood).abs() < 5 * error).all()


def test_summed_and_sampled_codes_agree(monkeypatch):
    latents = {"b": Bernoulli(2), "y": Categorical(3), "z": Gaussian(1)}
    model = broaden(sharpen(MixedVAE(FEATURES, NegativeBinomial(), latents=latents, hidden=[6]), 1.5))
    batch = batch_of(NegativeBinomial)
    exactly = importance_sampled_log_likelihood(model, [batch], 4000)
    monkeypatch.setattr(importance, "MAX_SUMMED_STATES", 0)
    sampling = importance_sampled_log_likelihood(model, [batch], 8000)
    error = (1 / exactly.ess + 1 / sampling.ess).sqrt()
    assert ((exactly.log_likelihood - sampling.log_likelihood).abs() < LIMIT * error).all()
    assert sampling.ess.sum() < 2 * exactly.ess.sum()  # summation reduces the variance of the weights


@pytest.mark.parametrize("make", CASES)
@pytest.mark.parametrize("elements", [1, 12 * FEATURES * 7, 10**9])
def test_results_do_not_depend_on_chunks(make, elements, monkeypatch):
    monkeypatch.setattr(memory_budget, "EVALUATED_VALUES", elements)
    batch, model = batch_of(NegativeBinomial), broaden(sharpen(make(), 1.5))
    estimate = importance_sampled_log_likelihood(model, [batch], 400)
    exact = CASES[make](model.eval(), batch)
    error = (1 / estimate.ess - 1 / 400).clamp_min(0).sqrt()
    assert ((estimate.log_likelihood - exact.log_likelihood).abs() < 5 * error + 1e-5).all()
    assert len(estimate.ess) == 12


def test_groups_are_summed_as_a_whole(monkeypatch):
    """A sequence of 24 paths between independent latents; the limit is 64 states together."""
    latents = {
        "b": Bernoulli(1),
        "y1": Categorical(3),
        "z": Gaussian(1, parents=["y2"]),
        "y2": Categorical(4, parents=["y1"]),
        "y3": Categorical(2, parents=["y2"]),
        "c": Categorical(3),
    }
    model = broaden(sharpen(MixedVAE(FEATURES, NegativeBinomial(), latents=latents, hidden=[6]), 1.5)).eval()
    assert model.networks.order == ("b", "y1", "y2", "z", "y3", "c")
    assert model.networks.groups == [["b"], ["z"], ["y1", "y2", "y3"], ["c"]]
    sizes = {"b": 2, "y1": 3, "z": None, "y2": 4, "y3": 2, "c": 3}
    assert importance._select_summed(sizes, model.networks.groups) == ["b", "y1", "y2", "y3"]
    batch = batch_of(NegativeBinomial)
    summing = importance_sampled_log_likelihood(model, [batch], 4000)
    monkeypatch.setattr(importance, "MAX_SUMMED_STATES", 0)
    sampling = importance_sampled_log_likelihood(model, [batch], 8000)
    error = (1 / summing.ess + 1 / sampling.ess).sqrt()
    assert ((summing.log_likelihood - sampling.log_likelihood).abs() < LIMIT * error).all()
    assert sampling.ess.sum() < 2 * summing.ess.sum()


def test_monte_carlo_error_is_correct_and_decreases():
    batch, model = batch_of(NegativeBinomial), broaden(sharpen(gaussian()))
    exact = oracle.gaussian(model.eval(), batch).log_likelihood.mean().item()
    claimed, actual = {}, {}
    for samples in (100, 10_000):
        runs = [importance_sampled_log_likelihood(model, [batch], samples) for _ in range(30)]
        claimed[samples] = sum(run.monte_carlo_error() for run in runs) / len(runs)
        actual[samples] = (sum((run.mean() - exact) ** 2 for run in runs) / len(runs)) ** 0.5
        assert 0.5 < claimed[samples] / actual[samples] < 1.8
    assert 5 < actual[100] / actual[10_000] < 20


def test_standard_error_is_over_observations():
    estimate = importance.LikelihoodEstimate(torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3), torch.ones(3), 5)
    assert estimate.mean() == 3
    assert estimate.standard_error() == pytest.approx(math.sqrt(7 / 3))
    one = importance.LikelihoodEstimate(torch.ones(1), torch.ones(1), torch.ones(1), 5)
    assert math.isnan(one.standard_error())


def test_errors():
    with pytest.raises(VaekitError, match="num_samples=0 must be at least 1"):
        importance_sampled_log_likelihood(gaussian(), [batch_of(NegativeBinomial)], 0)
    with pytest.raises(VaekitError, match="batches is empty"):
        importance_sampled_log_likelihood(gaussian(), [], 5)


def test_dropout_is_off_and_restored():
    batch, model = batch_of(NegativeBinomial), sharpen(summed())
    model.networks.encoder.layers.append(torch.nn.Dropout(0.5))
    first, second = (importance_sampled_log_likelihood(model, [batch], 1).elbo for _ in range(2))
    assert first.equal(second)
    assert model.training
    assert importance_sampled_log_likelihood(model.eval(), [batch], 1).elbo.equal(first)
    assert not model.training
