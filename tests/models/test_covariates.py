"""Trained, saved, resumed and evaluated with covariates, size factors, dispersions by batch and a library size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data.reading import read_query
from torch.utils.data import DataLoader

import vaekit
from vaekit import MixedVAE
from vaekit.analysis import embed, load_training_data
from vaekit.batch import Batch
from vaekit.data import GeneExpressionData
from vaekit.data.dataset import identity_collate
from vaekit.diagnostics import evaluate_model, posterior_summaries
from vaekit.exceptions import ConfigError
from vaekit.latents import Gaussian, LibrarySize
from vaekit.likelihoods import NegativeBinomial, ZeroInflatedNegativeBinomial
from vaekit.models import VAE

from .tiny import MODELS, adata, trainer


def cells(path=None, **arguments) -> GeneExpressionData:
    made = adata()
    rng = np.random.default_rng(0)
    made.obs["donor"] = np.array(["d1", "d2", "d3"])[rng.integers(0, 3, 60)]
    made.obs["age"] = rng.integers(20, 80, 60)
    made.obs["depth"] = made.X.toarray().sum(1) * rng.uniform(0.9, 1.1, 60)
    columns = {"batch_key": "batch", "categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["age"]}
    arguments = {**columns, "size_factor_key": "depth", "batch_size": 16, **arguments}
    if path is None:
        return GeneExpressionData(made, **arguments)
    made.write_h5ad(path)
    return GeneExpressionData(path=str(path), **arguments)


def model_for(data: GeneExpressionData, dispersion: str = "gene-batch") -> VAE:
    latents = {"z": Gaussian(2), "l": LibrarySize()}
    likelihood = ZeroInflatedNegativeBinomial(dispersion)
    return MixedVAE(data.features, likelihood, data.covariates, latents=latents, hidden=[8], learning_rate=0.01)


def fit_at_one_rate(epochs: int, checkpoint=None):
    """Train a new model; the learning rate does not depend on the number of epochs. Return it and its trainer."""
    torch.manual_seed(0)
    data = cells()
    model = model_for(data)
    scheduled = model.configure_optimizers
    model.configure_optimizers = lambda: scheduled()["optimizer"]
    used = trainer(max_epochs=epochs, limit_val_batches=0)
    used.fit(model, datamodule=data, ckpt_path=checkpoint)
    return model, used


def test_a_resumed_training_is_an_uninterrupted_one(tmp_path):
    (whole, _), (half, used) = fit_at_one_rate(4), fit_at_one_rate(2)
    used.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit_at_one_rate(4, tmp_path / "half.ckpt")
    states = [model.state_dict() for model in (whole, half, resumed)]
    assert not all(states[1][name].equal(value) for name, value in states[2].items())
    for name, value in states[2].items():
        assert states[0][name].equal(value), name


@pytest.mark.parametrize("dispersion", ["gene-batch", "gene-cell"])
def test_saved_loaded_evaluated_and_embedded(tmp_path, dispersion):
    data = cells(tmp_path / "cells.h5ad")
    model = model_for(data, dispersion)
    used = trainer(max_epochs=2)
    used.fit(model, datamodule=data)
    used.save_checkpoint(tmp_path / "a.ckpt")
    loaded = vaekit.load(tmp_path / "a.ckpt")
    for name, value in model.state_dict().items():
        assert loaded.state_dict()[name].equal(value), name
    again = load_training_data(loaded)
    for field, other in zip(data.dataset[5][:5], again.dataset[5][:5], strict=True):
        assert field is other is None or field.equal(other)
    figures = evaluate_model(loaded, again.dataloader("test"), 50).to_dict()
    assert figures["elbo"] <= figures["log_likelihood"] + 1
    query = data.adata[:9].copy()
    assert embed(query, loaded) == []
    z = posterior_summaries(loaded, [data.dataset.__getitems__(torch.arange(9))])["z"]
    np.testing.assert_allclose(query.obsm["X_vaekit"][:, :2], z, rtol=1e-5, atol=1e-6)


def test_only_batches_shift_the_dispersion():
    data = cells()
    model = model_for(data)
    trainer(max_epochs=3).fit(model, datamodule=data)
    likelihood = model.networks.likelihood
    assert likelihood.batch_columns.tolist() == [1, 1, 0, 0, 0, 0]
    moved = (likelihood.dispersion_shift != 0).any(1)
    assert moved.tolist() == [True, True, False, False, False, False]


def test_dispersion_by_batch_without_batches_is_refused_before_training():
    data = cells(batch_key=None)
    with pytest.raises(ConfigError, match="'gene-batch' needs batches"):
        trainer(max_epochs=1).fit(model_for(data), datamodule=data)
    with pytest.raises(ConfigError, match="'gene-batch' needs batches"):
        MODELS["gaussian"](NegativeBinomial("gene-batch"))


@pytest.fixture(scope="module")
def trained() -> tuple[VAE, GeneExpressionData]:
    """A small Gaussian VAE on the packaged blood cells, half-way trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = GeneExpressionData(n_top_genes=300, batch_size=64)
        model = vaekit.GaussianVAE(
            data.features, NegativeBinomial(), latent_dim=5, hidden=[32], encoder_dropout=0.1, learning_rate=0.01
        )
        trainer(max_epochs=20, limit_val_batches=0).fit(model, datamodule=data)
    return model.eval(), data


@pytest.mark.parametrize("share", [0.1, 0.3, 0.45])
@pytest.mark.filterwarnings("ignore:.*lacks.*genes")
def test_unobserved_genes_are_better_than_zeros(trained, share):
    """The latents of cells without a random part of the genes stay nearer to those with all."""
    model, data = trained
    generator = np.random.default_rng(0)
    errors: dict[str, list[float]] = {"unobserved": [], "zero": []}
    rows = torch.cat([data.split_indices["val"], data.split_indices["test"]])

    def latents(batch):
        return posterior_summaries(model, [batch])["z"]

    whole = latents(data.dataset.__getitems__(rows))
    for _ in range(5):
        genes = generator.permutation(data.feature_names)[: round((1 - share) * data.features)]
        query = read_query(data.adata[:, genes].copy(), data.state_dict(), layer=data.counts_layer)
        batch = query.dataset.__getitems__(rows)
        for name, form in (("unobserved", batch), ("zero", batch._replace(observed=None))):
            errors[name].append((latents(form) - whole).square().mean().sqrt().item())
    assert np.mean(errors["unobserved"]) < 0.95 * np.mean(errors["zero"])
    assert np.mean(errors["unobserved"]) < 0.5 * whole.std().item()


@pytest.mark.filterwarnings("ignore:.*lacks.*genes")
def test_evaluation_leaves_unobserved_genes_out(trained):
    """By hand: the likelihood of the other genes at the size factor of all."""
    model, data = trained
    names = data.feature_names[:240]
    query = read_query(data.adata[:20, names].copy(), data.state_dict(), layer=data.counts_layer)
    batch = next(iter(DataLoader(query.dataset, batch_size=20, collate_fn=identity_collate)))
    values = {"z": posterior_summaries(model, [batch])["z"]}
    with torch.no_grad():
        found = model.networks.log_likelihood(values, batch)
        each = model.networks.observation(values, batch).base_dist.log_prob(batch.x)
    torch.testing.assert_close(found, each[:, :240].sum(1), check_dtype=False)
    figures = evaluate_model(model, [batch], 20).to_dict()
    assert figures["elbo"] <= figures["log_likelihood"]


@pytest.mark.parametrize("encoder_covariates", [True, False])
def test_the_encoder_sees_the_covariates_only_on_request(encoder_covariates):
    torch.manual_seed(0)
    model = vaekit.GaussianVAE(
        5, NegativeBinomial(), covariates=2, encoder_covariates=encoder_covariates, encoder_dropout=0.0
    ).eval()
    x, size_factor = torch.ones(3, 5), torch.full((3, 1), 5.0)
    first, second = (Batch(x, size_factor, torch.eye(2)[[batch] * 3]) for batch in (0, 1))
    latents = [model.posteriors(batch)["z"].mean for batch in (first, second)]
    assert torch.equal(*latents) != encoder_covariates
    values = {"z": torch.zeros(1, 3, 10)}
    assert not torch.equal(*(model.networks.decode(values, batch) for batch in (first, second)))
