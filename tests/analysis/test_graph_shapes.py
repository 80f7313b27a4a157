"""Analysis and diagnostics of every shape of latent graph: they run, and agree with the latents of the model."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from models.shapes import shape, shape_names
from models.tiny import trainer

import vaekit
from vaekit import analysis, diagnostics
from vaekit.data import GeneExpressionData, simulate_counts
from vaekit.diagnostics.gradients.model_report import model_gradient_report
from vaekit.estimators import Enumerate, Pathwise
from vaekit.latents import Gaussian, LibrarySize, Poisson, Product
from vaekit.models import VAE

OTHERS = {
    "named variables": lambda: {
        "y": Product({"kind": 3, "phase": 2}),
        "z": Gaussian(3, parents=["y"], conditional_posterior=True),
    },
    "counts and a library size": lambda: {
        "n": Poisson(3),
        "l": LibrarySize(parents=["n"]),
        "z": Gaussian(2, parents=["l", "n"], conditional_posterior=True),
    },
}
KINDS = [*shape_names(), *OTHERS]


@cache
def data() -> GeneExpressionData:
    cells = simulate_counts(60, 30, clusters=3, batches=2, seed=0)
    module = GeneExpressionData(cells, batch_key="batch", label_key="cluster", batch_size=60)
    module.setup()
    return module


def cells():
    return simulate_counts(60, 30, clusters=3, batches=2, seed=0)


@cache
def trained(kind: str) -> VAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        likelihood, features, covariates = vaekit.likelihoods.NegativeBinomial(), data().features, data().covariates
        arguments = {"hidden": [16], "covariates": covariates}
        if kind in OTHERS:
            model = vaekit.MixedVAE(features, likelihood, latents=OTHERS[kind](), **arguments)
        else:
            model = shape(kind, features, likelihood, **arguments)
        trainer(max_steps=6, limit_val_batches=0).fit(model, data())
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_embedding(kind):
    model, adata = trained(kind), cells()
    analysis.embed(adata, model)
    width = sum(latent.size for latent in model.latents.values() if latent.is_coordinate)
    assert adata.obsm["X_vaekit"].shape == (60, width)
    assert np.isfinite(adata.obsm["X_vaekit"]).all()
    usage = diagnostics.latent_usage(model, diagnostics.posterior_summaries(model, data().dataloader("train")))
    assert usage.units == width
    for name, latent in model.latents.items():
        if latent.is_categorical:
            probabilities = adata.obsm[f"vaekit_{name}_probabilities"]
            np.testing.assert_allclose(probabilities.sum(1), latent.state_shape[0], rtol=1e-5)
    if kind == "named variables":
        assert list(adata.obs["vaekit_y_kind"].cat.categories) == ["0", "1", "2"]
        assert list(adata.obs["vaekit_y_phase"].cat.categories) == ["0", "1"]
        joined = adata.obs["vaekit_y_kind"].astype(str) + "-" + adata.obs["vaekit_y_phase"].astype(str)
        assert (joined == adata.obs["vaekit_y"].astype(str)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_expression_and_differences(kind):
    model, adata = trained(kind), cells()
    analysis.normalized_expression(adata, model, num_samples=4)
    (values,) = (layer for name, layer in adata.layers.items() if name.startswith("vaekit"))
    np.testing.assert_allclose(values.sum(1), values.sum(1)[0], rtol=1e-4)
    table = analysis.differential_expression(adata, model, groupby="cluster", group1=adata.obs["cluster"].iloc[0])
    assert len(table) >= 30


@pytest.mark.parametrize("kind", KINDS)
def test_samples_traversals_and_likelihood(kind):
    model = trained(kind)
    batch = next(iter(data().dataloader("train")))
    values = diagnostics.sample_prior(model, 5)
    assert set(values) == set(model.latents)
    for name in diagnostics.generation.gaussian_latents(model):
        q = model.posteriors(batch)[name]
        assert q.mean.shape == (len(batch.x), model.latents[name].size)
    torch.manual_seed(0)
    estimate = diagnostics.importance_sampled_log_likelihood(model, [batch], 4)
    assert (estimate.log_likelihood >= estimate.elbo - 1e-6).all()
    with torch.no_grad():
        exact = -sum(value.double().mean() for value in model.loss(batch).terms.values())
    assert estimate.elbo.mean().item() == pytest.approx(exact.item(), rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_markers_of_each_code(kind):
    model, adata = trained(kind), cells()
    for name, latent in model.latents.items():
        if latent.state_shape and latent.state_shape[0] == 1:
            table = analysis.markers(adata, model, latent=name, n_genes=2, num_samples=16)
            assert set(table["gene"]) <= set(adata.var_names)


@pytest.mark.parametrize("kind", ["hierarchy, top-down", "GMVAE", "codes given a Gaussian", "named variables"])
def test_query_is_mapped(kind):
    query = simulate_counts(40, 30, clusters=3, batches=2, seed=1)
    query.obs["batch"] = "new"
    mapped = analysis.map_query(query, trained(kind), batch_key="batch", max_epochs=1, progress=False)
    assert mapped is not None


@pytest.mark.parametrize("kind", ["hierarchy, top-down", "hierarchy, bottom-up", "codes given a Gaussian", "M2"])
def test_gradient_report_of_each_latent(kind):
    model = trained(kind)
    batch = next(iter(data().dataloader("train")))
    for name, latent in model.latents.items():
        estimator = Enumerate() if latent.discrete else Pathwise()
        report, _ = model_gradient_report(
            model, batch, name, num_estimates=8, estimators={"one": estimator}, timings=1, progress=False
        )
        assert np.isfinite(report["variance"]).all()
