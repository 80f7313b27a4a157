"""Training on an AnnData, loading and embedding, as in a notebook."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from models.tiny import MODELS, adata, counts, fit, trainer

import vaekit
from vaekit.analysis import embed, get_data_registry, load_training_data
from vaekit.data import GeneExpressionData, ImageData
from vaekit.data.cells.columns import read_column
from vaekit.diagnostics import most_probable_codes
from vaekit.exceptions import CheckpointError, DataError
from vaekit.latents import Categorical
from vaekit.likelihoods import Bernoulli, NegativeBinomial

GENES = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Return a directory with a file, a model trained on it, and a model trained in memory."""
    directory = tmp_path_factory.mktemp("run")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = GeneExpressionData(adata(), layer="counts", batch_key="batch", label_key="cell_type")
        model = MODELS["mixed_sampled"](NegativeBinomial(), features=data.features, covariates=data.covariates)
        fitted = trainer(max_epochs=2)
        fitted.fit(model, datamodule=data)
        fitted.save_checkpoint(directory / "memory.ckpt")

        adata().write_h5ad(directory / "cells.h5ad")
        data = GeneExpressionData(path=str(directory / "cells.h5ad"), label_key="cell_type", seed=4)
        model = MODELS["gaussian"](NegativeBinomial(), features=data.features)
        fitted = trainer(max_epochs=1)
        fitted.fit(model, datamodule=data)
        fitted.save_checkpoint(directory / "file.ckpt")
    return directory


def test_train_load_embed(tmp_path):
    cells = adata()

    data = vaekit.data.GeneExpressionData(cells, label_key="cell_type", batch_size=32)
    model = vaekit.MixedVAE(data.features, NegativeBinomial(), data.covariates)
    (fitted := trainer(max_epochs=1)).fit(model, datamodule=data)
    fitted.save_checkpoint(tmp_path / "a.ckpt")

    loaded = vaekit.load(tmp_path / "a.ckpt")

    embed(cells, loaded)
    assert cells.obsm["X_vaekit"].shape == (60, 10)
    assert cells.obsm["vaekit_y_probabilities"].shape == (60, 16)
    np.testing.assert_allclose(cells.obsm["vaekit_y_probabilities"].sum(1), 1, rtol=1e-5)
    assert (cells.obs["vaekit_y"].astype(int) == cells.obsm["vaekit_y_probabilities"].argmax(1)).all()
    assert cells.obs["vaekit_y"].dtype == "category"


@pytest.mark.parametrize("form", ["h5ad", "concatenated", "text"])
def test_codes_stay_in_numerical_order(tmp_path, form):
    cells = adata()
    summary = torch.nn.functional.one_hot(torch.arange(60) % 12, 12).flip(0).float()
    cells.obs["vaekit_y"] = most_probable_codes(Categorical(12), summary)
    if form == "h5ad":
        cells.write_h5ad(tmp_path / "cells.h5ad")
        cells = anndata.read_h5ad(tmp_path / "cells.h5ad")
    elif form == "concatenated":  # parts with different codes
        cells = anndata.concat([cells[:20], cells[20:25]])
    else:  # as read from a table
        cells.obs["vaekit_y"] = cells.obs["vaekit_y"].astype(str)
    assert read_column(cells.obs, "vaekit_y", "groupby", "cells").categories == [str(code) for code in range(12)]
    if form != "text":
        assert list(cells.obs["vaekit_y"].cat.categories) == [str(code) for code in range(12)]


def test_fields_hold_the_posteriors(run):
    cells, model = adata(), vaekit.load(run / "memory.ckpt")
    embed(cells, model)
    x = torch.from_numpy(cells.X.toarray())
    covariates = torch.from_numpy(np.stack([cells.obs["batch"] == "b1", cells.obs["batch"] == "b2"], 1)).float()
    with torch.no_grad():
        q = model.posteriors(vaekit.Batch(x, x.sum(1, keepdim=True), covariates))
    np.testing.assert_allclose(cells.obsm["X_vaekit"], q["z"].mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cells.obsm["vaekit_y_probabilities"], q["y"].mean.flatten(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cells.obsm["vaekit_b_probabilities"], q["b"].mean, rtol=1e-5, atol=1e-6)
    assert cells.obs["vaekit_b"].iloc[0] == "-".join(str(int(p > 0.5)) for p in q["b"].mean[0])


def test_counts_and_layers_do_not_change(run):
    cells, before = adata(), adata()
    embed(cells, run / "memory.ckpt", batch_size=7)
    assert (cells.X != before.X).nnz == 0
    assert (cells.layers["counts"] != before.layers["counts"]).nnz == 0
    assert cells.obs[before.obs.columns].equals(before.obs)
    assert cells.var.equals(before.var)


def test_survives_h5ad(run, tmp_path):
    cells = adata()
    assert embed(cells, str(run / "memory.ckpt")) == []
    cells.write_h5ad(tmp_path / "out.h5ad")
    again = anndata.read_h5ad(tmp_path / "out.h5ad")
    for key in ("X_vaekit", "vaekit_y_probabilities", "vaekit_b_probabilities"):
        np.testing.assert_array_equal(again.obsm[key], cells.obsm[key])
    assert again.obs["vaekit_y"].tolist() == cells.obs["vaekit_y"].tolist()
    note = again.uns["vaekit"]
    assert (note["version"], note["model"]) == (vaekit.__version__, "vaekit.MixedVAE")
    assert note["checkpoint"] == str(run / "memory.ckpt")
    assert note["latents"] == {"b": "Bernoulli", "y": "Categorical", "z": "Gaussian"}
    assert len(note["missing_genes"]) == 0
    assert note["training_fingerprint"] == vaekit.load(run / "memory.ckpt").data_registry["fingerprint"]


def test_another_key(run):
    cells = adata()
    embed(cells, run / "memory.ckpt", key_added="X_other")
    embed(cells, run / "file.ckpt")
    assert {"X_other", "other_y_probabilities", "X_vaekit"} <= set(cells.obsm)
    assert "other_y" in cells.obs
    assert {"other", "vaekit"} <= set(cells.uns)
    first, second = cells.obsm["X_other"], cells.obsm["X_vaekit"]
    assert first.shape == second.shape == (60, 2)
    assert not np.allclose(first, second)


@pytest.mark.parametrize(
    "form", [sp.csr_matrix, sp.csc_matrix, lambda x: np.asarray(x.todense())], ids=["csr", "csc", "dense"]
)
def test_genes_are_matched_by_name(run, form):
    cells, shuffled = adata(), adata()
    embed(cells, run / "file.ckpt")
    shuffled = shuffled[:, np.random.default_rng(0).permutation(GENES)].copy()
    shuffled.X = form(shuffled.X)
    assert embed(shuffled, run / "file.ckpt") == []
    np.testing.assert_allclose(shuffled.obsm["X_vaekit"], cells.obsm["X_vaekit"], rtol=1e-5, atol=1e-6)


def test_missing_genes_are_unobserved_and_reported(run):
    cells = adata()[:, :10].copy()
    with pytest.warns(UserWarning, match="lacks 2 of the checkpoint's 12 genes"):
        assert embed(cells, run / "file.ckpt") == ["gene10", "gene11"]
    assert cells.uns["vaekit"]["missing_genes"].tolist() == ["gene10", "gene11"]
    x, observed = torch.from_numpy(adata().X.toarray()), torch.arange(GENES).expand(60, GENES) < 10
    batch = vaekit.Batch(x * observed, observed=observed)
    with torch.no_grad():
        model = vaekit.load(run / "file.ckpt")
        expected, as_zeros = (model.posteriors(one)["z"].mean for one in (batch, batch._replace(observed=None)))
    np.testing.assert_allclose(cells.obsm["X_vaekit"], expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(expected, as_zeros, atol=0.01)
    with pytest.raises(DataError, match="gene"):
        embed(adata()[:, :1].copy(), run / "file.ckpt")


def test_counts_of_another_layer(run):
    plain, cells = adata(), adata()
    embed(plain, run / "memory.ckpt")
    cells.X = sp.csr_matrix(np.log1p(cells.X.toarray()))  # the model's layer is "counts"
    embed(cells, run / "memory.ckpt")
    np.testing.assert_array_equal(cells.obsm["X_vaekit"], plain.obsm["X_vaekit"])
    cells.layers["umi"] = cells.layers.pop("counts")
    with pytest.raises(DataError, match="counts"):
        embed(cells, run / "memory.ckpt")
    embed(cells, run / "memory.ckpt", layer="umi")
    np.testing.assert_array_equal(cells.obsm["X_vaekit"], plain.obsm["X_vaekit"])


def test_an_error_does_not_change_the_cells(run):
    cells = adata()
    cells.obs = cells.obs.drop(columns="batch")
    with pytest.raises(DataError, match="batch"):
        embed(cells, run / "memory.ckpt")
    assert list(cells.obsm) == list(cells.uns) == []


def test_a_model_without_continuous_latents_embeds_its_codes():
    data = GeneExpressionData(adata())
    model = MODELS["discrete_auto"](NegativeBinomial(), features=data.features)
    trainer(max_epochs=1).fit(model, datamodule=data)
    cells = adata()
    embed(cells, model)
    np.testing.assert_array_equal(cells.obsm["X_vaekit"], cells.obsm["vaekit_y_probabilities"])
    assert cells.obs["vaekit_y"].iloc[0].count("-") == 1


def test_packaged_cells_have_the_embedding_of_training():
    data = GeneExpressionData(batch_size=700)
    model = MODELS["gaussian"](NegativeBinomial(), features=data.features)
    trainer(max_epochs=1).fit(model, datamodule=data)
    cells = data.adata.copy()
    embed(cells, model)
    x = data.dataset.__getitems__(list(range(700)))
    with torch.no_grad():
        np.testing.assert_allclose(cells.obsm["X_vaekit"], model.eval().posteriors(x)["z"].mean, rtol=1e-4, atol=1e-5)


def test_errors(tmp_path):
    fresh = MODELS["gaussian"](NegativeBinomial(), features=GENES)
    with pytest.raises(CheckpointError, match="has no data registry"):
        embed(adata(), fresh)
    fit(MODELS["gaussian"](NegativeBinomial()), counts(), 1).save_checkpoint(tmp_path / "no_data.ckpt")
    with pytest.raises(CheckpointError, match="has no data registry"):
        embed(adata(), tmp_path / "no_data.ckpt")
    with pytest.raises(CheckpointError, match=r"none\.ckpt"):
        embed(adata(), tmp_path / "none.ckpt")

    images = ImageData()
    model = MODELS["gaussian"](Bernoulli(), features=images.features)
    trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=images)
    with pytest.raises(CheckpointError, match="trained on images"):
        embed(adata(), model)


def test_training_data_are_loaded_again(run):
    model = vaekit.load(run / "file.ckpt")
    data = load_training_data(model)
    assert data.source == str(run / "cells.h5ad")
    for split, rows in get_data_registry(model)["split_indices"].items():
        assert data.split_indices[split].equal(rows)
    assert data.label_categories == ["B", "NK", "T"]


def test_missing_training_data(run, tmp_path):
    with pytest.raises(CheckpointError, match="in memory"):
        load_training_data(vaekit.load(run / "memory.ckpt"))
    model = vaekit.load(run / "file.ckpt")
    model.data_registry = {**model.data_registry, "fingerprint": "0" * 16}
    with pytest.raises(CheckpointError, match=r"cannot be loaded unchanged.*fingerprint"):
        load_training_data(model)
    config = {
        **model.data_registry["config"],
        "init_args": {**model.data_registry["config"]["init_args"], "path": str(tmp_path / "x.h5ad")},
    }
    model.data_registry = {**model.data_registry, "config": config}
    with pytest.raises(CheckpointError, match=r"x\.h5ad"):
        load_training_data(model)
    with pytest.raises(CheckpointError, match=r"nope\.h5ad does not exist") as error:
        load_training_data(model, cells="nope.h5ad")
    assert "exported" not in str(error.value)
    with pytest.raises(CheckpointError, match="has no data registry"):
        get_data_registry(MODELS["gaussian"](NegativeBinomial()))


def test_images_are_loaded_again():
    images = ImageData(binarization="fixed", seed=5)
    model = MODELS["gaussian"](Bernoulli(), features=images.features)
    trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=images)
    again = load_training_data(model)
    assert again.split_indices["test"].equal(images.split_indices["test"])
    assert again.dataset[3].x.equal(images.dataset[3].x)
