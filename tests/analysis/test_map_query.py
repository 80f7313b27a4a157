"""Mapping of a new batch onto a trained model: trained and unchanged parameters, and the accuracy of the mapping."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from anndata import AnnData
from models.tiny import MODELS, trainer
from models.tiny import adata as tiny

from vaekit import GaussianVAE, MixedVAE
from vaekit.analysis import (
    differential_expression,
    embed,
    map_query,
    normalized_expression,
    posterior_predictive_check,
    prepare_query,
)
from vaekit.analysis.batch_extension import extend_batches
from vaekit.analysis.batch_training import _loss
from vaekit.batch import Batch
from vaekit.data import GeneExpressionData, simulate_counts
from vaekit.exceptions import DataError
from vaekit.latents import Gaussian, LibrarySize
from vaekit.likelihoods import Gaussian as GaussianLikelihood
from vaekit.likelihoods import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from vaekit.models import VAE, load, save
from vaekit.models.objectives import ELBO, IWAE

BATCHES = ["batch0", "batch1", "new"]


@pytest.fixture(scope="module")
def atlas() -> tuple[AnnData, AnnData, VAE]:
    """Return cells of two batches with their model, and other cells of batch1 with the batch name "new".

    Therefore the optimal column of the new batch is known: the column of batch1.
    """
    cells = simulate_counts(1800, 100, clusters=3, batches=2, batch_scale=0.8, de_fraction=0.4, programs=2, seed=11)
    held_out = (cells.obs["batch"] == "batch1").to_numpy() & (np.arange(1800) % 2 == 0)
    reference, query = cells[~held_out].copy(), cells[held_out].copy()
    query.obs["batch"] = "new"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = GeneExpressionData(reference, batch_key="batch", label_key="cluster")
        likelihood = NegativeBinomial("gene", gene_shift=False)
        model = GaussianVAE(
            data.features, likelihood, data.covariates, latent_dim=5, hidden=(32,), encoder_covariates=True
        )
        trainer(max_epochs=20, limit_val_batches=0).fit(model, datamodule=data)
    return reference, query, model.eval()


@pytest.fixture(scope="module")
def mapped(atlas) -> VAE:
    return map_query(atlas[1], atlas[2], max_epochs=30)


def elbo(model: VAE, cells: AnnData, name: str) -> float:
    """Return the mean ELBO of cells, as if they came from a batch of the model."""
    cells = cells.copy()
    cells.obs["batch"] = name
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (
            -model.loss(prepare_query(model, cells, None, "batch").dataset.__getitems__(range(len(cells))))
            .total.mean()
            .item()
        )


def mean_log_expression(model: VAE, cells: AnnData, name: str) -> np.ndarray:
    """Return the mean log expression of each gene, as if the cells came from a batch."""
    table = normalized_expression(cells, model, genes=list(cells.var_names), transform_batch=name, num_samples=5)
    return np.log(table).mean().to_numpy()


def test_only_the_new_columns_differ(atlas, mapped):
    old, new = atlas[2].state_dict(), mapped.state_dict()
    wider = [name for name in old if old[name].shape != new[name].shape]
    assert wider == ["networks.encoder.layers.0.weight", "networks.decoder.layers.0.weight"]
    for name in old:
        if name not in wider:
            assert torch.equal(old[name], new[name]), name
    for name in wider:
        assert torch.equal(old[name], new[name][:, :-1])
        start = old[name][:, -2:].mean(1)
        assert (new[name][:, -1] - start).abs().max() > 0.1
    assert set(new) - set(old) == {"networks.likelihood.composition_shift"}
    shift = new["networks.likelihood.composition_shift"]
    assert (shift[:2] == 0).all()
    assert shift[2].abs().min() > 0
    assert mapped.data_registry["batch_categories"] == BATCHES
    assert atlas[2].data_registry["batch_categories"] == ["batch0", "batch1"]
    assert all(parameter.requires_grad for parameter in mapped.parameters())


def test_known_cells_do_not_move(atlas, mapped):
    before, after = atlas[0].copy(), atlas[0].copy()
    embed(before, atlas[2])
    embed(after, mapped)
    np.testing.assert_allclose(before.obsm["X_vaekit"], after.obsm["X_vaekit"], atol=1e-5)


def test_the_new_batch_is_learned(atlas, mapped):
    _, query, model = atlas
    right, wrong, result = elbo(model, query, "batch1"), elbo(model, query, "batch0"), elbo(mapped, query, "new")
    start = elbo(map_query(query, model, max_epochs=1, learning_rate=1e-9), query, "new")
    assert wrong + 3 < start < right - 1
    assert result > right - 0.5
    effects = query.varm["batch_effects"]
    truth = effects["batch1"] - effects["batch0"]
    change = {
        name: mean_log_expression(mapped, query, name) - mean_log_expression(mapped, query, "batch0")
        for name in ("batch1", "new")
    }
    correlation = {name: np.corrcoef(effect, truth)[0, 1] for name, effect in change.items()}
    assert correlation["new"] > max(0.95, correlation["batch1"])  # the separate effect is nearer to the truth


def test_an_effect_that_no_known_batch_has(atlas):
    _, query, model = atlas
    rng = np.random.default_rng(0)
    detection = rng.uniform(0.3, 1, query.n_vars)  # fraction of the counts of each gene
    cells = query.copy()
    cells.X.data = rng.binomial(cells.X.data.astype(int), detection[cells.X.indices]).astype(np.float32)
    mapped = map_query(cells, model)
    estimate = mean_log_expression(mapped, cells, "new") - mean_log_expression(mapped, cells, "batch0")
    truth = query.varm["batch_effects"]["batch1"] - query.varm["batch_effects"]["batch0"] + np.log(detection)
    assert np.corrcoef(estimate, truth)[0, 1] > 0.95
    means = posterior_predictive_check(cells, mapped)
    error = np.log2(means["mean_replicated"] / means["mean"]).abs()
    assert error.median() < 0.1


def test_a_likelihood_without_size_factors_has_no_shifts():
    data = GeneExpressionData(tiny(), batch_key="batch")
    model = MODELS["gaussian"](GaussianLikelihood(), features=data.features, covariates=data.covariates)
    trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=data)
    query = tiny()
    query.obs["batch"] = "new"
    result = map_query(query, model, max_epochs=1)
    assert set(result.state_dict()) == set(model.state_dict())
    embed(query, result)


def gradients(model: VAE, batch: Batch, loss: Callable[[VAE, Batch], torch.Tensor], count: int = 40) -> torch.Tensor:
    """Return estimates of the gradient with respect to the encoder's column of the new batch, ``[count, width]``."""
    weight = model.networks.encoder.layers[0].weight
    return torch.stack([torch.autograd.grad(loss(model, batch).mean(), weight)[0][:, -1] for _ in range(count)])


def test_gradients_use_the_estimators_of_the_model():
    """Without leave-one-out, the plain score function has a hundred times the standard deviation."""
    data = GeneExpressionData(tiny(), batch_key="batch")
    kwargs = {"features": data.features, "covariates": data.covariates, "variables": 10, "categories": 8}
    objective = ELBO(beta=3.0, free_bits=20.0)
    model = MODELS["discrete_auto"](NegativeBinomial(), objective=objective, **kwargs)
    trainer(max_steps=2, limit_val_batches=0).fit(model, datamodule=data)
    batch = data.example
    batch = batch._replace(covariates=torch.tensor([0.0, 0.0, 1.0]).expand(len(batch.x), 3))
    model, _ = extend_batches(model.eval(), 2, 1)
    with_baseline = gradients(model, batch, _loss)
    plain = gradients(model, batch, lambda m, b: m.loss(b).total)
    assert with_baseline.std(0).norm() < plain.std(0).norm() / 20
    # the loss is the ELBO, without beta and free bits
    values = torch.stack([_loss(model, batch).mean() - model.loss(batch).total.mean() for _ in range(200)])
    assert values.mean().abs() < 5 * values.std() / 200**0.5
    state = {name: value.clone() for name, value in model.state_dict().items()}
    _loss(model, batch).mean().backward()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


@pytest.mark.parametrize("likelihood", [Poisson, ZeroInflatedNegativeBinomial])
@pytest.mark.parametrize(
    "kind",
    [
        "mixed_sampled",
        "discrete_learned",
        "discrete_moving_average",
        "discrete_gumbel_soft",
        "dirichlet",
        "sequential_critic",
        "sequential_relaxed",
    ],
)
def test_every_kind_of_model(kind, likelihood, tmp_path):
    data = GeneExpressionData(tiny(), batch_key="batch")
    model = MODELS[kind](likelihood(gene_shift=False), features=data.features, covariates=data.covariates)
    trainer(max_steps=2, limit_val_batches=0).fit(model, datamodule=data)
    query = tiny(seed=1)
    query.obs["batch"] = "new"
    result = map_query(query, model, max_epochs=2)
    for name, value in model.state_dict().items():  # including learned baselines
        assert value.shape != result.state_dict()[name].shape or torch.equal(value, result.state_dict()[name]), name
    assert result.config["class_path"] == model.config["class_path"]
    assert result.networks.likelihood.composition_shift.any(1).tolist() == [False, False, True]
    save(result, tmp_path / "mapped.ckpt")
    embed(query, tmp_path / "mapped.ckpt")
    assert np.isfinite(query.obsm["X_vaekit"]).all()


def test_joint_samples():
    data = GeneExpressionData(tiny(), batch_key="batch")
    query = tiny(seed=1)
    query.obs["batch"] = "new"
    for kind in ("gaussian", "discrete_leave_one_out"):
        make = MODELS[kind]
        model = make(NegativeBinomial(), data.features, covariates=data.covariates, objective=IWAE(3))
        trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=data)
        embed(query, map_query(query, model, max_epochs=1))


def test_a_mapped_model_is_mapped_again(atlas, mapped):
    third = atlas[1][:80].copy()
    third.obs["batch"] = "third"
    result = map_query(third, mapped, max_epochs=2)
    assert result.data_registry["batch_categories"] == [*BATCHES, "third"]
    old, new = (model.networks.likelihood.composition_shift for model in (mapped, result))
    assert torch.equal(old, new[:3])
    assert not torch.equal(new[3], old.mean(0))


def test_old_and_new_cells_are_compared(atlas, mapped):
    query = atlas[1].copy()
    table = differential_expression(query, mapped, "cluster", "cluster0", "cluster1")
    assert np.isfinite(table["lfc_mean"]).all()


def test_seed_and_checkpoint(atlas, tmp_path):
    one, same, other = (map_query(atlas[1], atlas[2], max_epochs=1, seed=seed) for seed in (0, 0, 1))
    weights = [model.networks.decoder.layers[0].weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    save(one, tmp_path / "mapped.ckpt")
    again = load(tmp_path / "mapped.ckpt")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in one.state_dict().items())
    assert again.data_registry["batch_categories"][-1] == "new"
    cells, same_cells = atlas[1].copy(), atlas[1].copy()
    embed(cells, one)
    embed(same_cells, tmp_path / "mapped.ckpt")
    np.testing.assert_array_equal(cells.obsm["X_vaekit"], same_cells.obsm["X_vaekit"])


def test_other_covariates_dispersions_and_library_sizes():
    cells = tiny(cells=90)
    cells.obs["dose"] = np.linspace(0, 1, 90)
    cells.obs["sex"] = np.where(np.arange(90) % 5 < 2, "f", "m")
    data = GeneExpressionData(
        cells, batch_key="batch", categorical_covariate_keys=["sex"], continuous_covariate_keys=["dose"]
    )
    latents = {"z": Gaussian(2), "l": LibrarySize()}
    model = MixedVAE(
        data.features, NegativeBinomial("gene-batch", False), data.covariates, latents=latents, hidden=(8,)
    )
    trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    query = tiny(cells=40, seed=3)
    query.obs["dose"], query.obs["sex"], query.obs["batch"] = 9.0, "f", "b9"  # a dose beyond those of the training data
    query.X = query.X * 4
    query.layers["counts"] = query.X
    result = map_query(query, model, max_epochs=2)
    assert result.covariates == model.covariates + 1 == 6
    old, new = model.state_dict(), result.state_dict()
    weight = "networks.decoder.layers.0.weight"
    old_columns = [0, 1, 2, 3, 5, 6, 7]  # z (2), batches b1, b2, [b9], sex (2), dose
    assert torch.equal(old[weight], new[weight][:, old_columns])
    shift = "networks.likelihood.dispersion_shift"
    assert torch.equal(old[shift], new[shift][[0, 1, 3, 4, 5]])
    assert not torch.equal(new[shift][2], old[shift][:2].mean(0))
    assert new["networks.likelihood.batch_columns"].tolist() == [1, 1, 1, 0, 0, 0]
    assert new["networks.likelihood.composition_shift"].any(1).tolist() == [False, False, True, False, False, False]
    size = new["networks._latents.l.log_size"]
    logs = np.log(query.X.toarray().sum(1))
    np.testing.assert_allclose(size[3], [logs.mean(), logs.std(ddof=1)], rtol=1e-5)
    assert torch.equal(size[[0, 1, 2, 4, 5, 6]], old["networks._latents.l.log_size"])
    embed(query, result)
    assert query.obsm["X_vaekit"].shape == (40, 2)


def test_errors(atlas):
    reference, query, model = atlas
    with pytest.raises(DataError, match=r"knows all batches.*'batch0', 'batch1'"):
        map_query(reference, model)
    with pytest.raises(DataError, match="max_epochs=0"):
        map_query(query, model, max_epochs=0)
    with pytest.raises(DataError, match="max_steps=5 and max_epochs=2 exclude each other"):
        map_query(query, model, max_steps=5, max_epochs=2)
    renamed = query.copy()
    renamed.var_names = [f"other{i}" for i in range(100)]
    with pytest.raises(DataError, match="gene"):
        map_query(renamed, model)


@pytest.mark.parametrize("count", [60, 600])
def test_shifts_of_few_cells_converge(count):
    """The regression of estimated on true log shifts has the slope 1; after 50 epochs of 60 cells it was a third."""
    cells = simulate_counts(1500, 80, clusters=3, batches=3, batch_scale=0.5, de_fraction=0.3, programs=1, seed=1)
    new = (cells.obs["batch"] == "batch2").to_numpy()
    query = cells[np.flatnonzero(new)[:count]].copy() if count == 60 else cells[new].copy()
    query.obs["batch"] = "new"
    data = GeneExpressionData(cells[~new].copy(), batch_key="batch")
    model = GaussianVAE(data.features, NegativeBinomial(), data.covariates, latent_dim=4, hidden=(32,))
    trainer(max_epochs=20, limit_val_batches=0).fit(model, datamodule=data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mapped = map_query(query, model)
    assert any("'new' (60 cells)" in str(one.message) for one in caught) == (count == 60)
    effects = query.varm["batch_effects"]
    truth = (effects["batch2"] - (effects["batch0"] + effects["batch1"]) / 2).to_numpy()
    shifts = {name: mean_log_expression(mapped, query, name) for name in ("batch0", "batch1", "new")}
    estimate = shifts["new"] - (shifts["batch0"] + shifts["batch1"]) / 2
    truth, estimate = truth - truth.mean(), estimate - estimate.mean()
    assert 0.9 < (truth @ estimate) / (truth @ truth) < 1.1
    assert np.corrcoef(truth, estimate)[0, 1] > 0.93


def test_a_labeled_model_maps_cells_without_labels() -> None:
    """The names stay, and the types of the new cells are not read."""
    cells = simulate_counts(300, 30, clusters=3, batches=2, de_fraction=0.5, seed=3)
    cells.obs["type"] = np.where(np.arange(300) % 2 == 0, cells.obs["cluster"].astype(str), "")
    data = GeneExpressionData(cells, batch_key="batch", observed_key="type")
    sizes = {"features": data.features, "covariates": data.covariates, "labels": data.observed_categories}
    model = MixedVAE(likelihood=NegativeBinomial(), hidden=[8], **sizes)
    trainer(max_steps=20, limit_val_batches=0).fit(model, datamodule=data)
    query = simulate_counts(150, 30, clusters=3, de_fraction=0.5, seed=3)
    query.obs["batch"] = "new"
    mapped = map_query(query, model.eval(), max_steps=3)
    assert (mapped.label_latent, mapped.label_names) == ("y", ("cluster0", "cluster1", "cluster2"))
    embed(query, mapped)
    head = "networks._latents.y.head.weight"
    assert torch.equal(mapped.state_dict()[head], model.state_dict()[head])
