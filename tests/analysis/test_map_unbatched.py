"""Mapping onto a model that was trained without batches: every later function on reference and query cells."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from anndata import AnnData
from models.tiny import MODELS, trainer
from models.tiny import adata as tiny
from scipy import sparse

from vaekit import GaussianVAE, MixedVAE
from vaekit.analysis import (
    differential_expression,
    embed,
    load_training_data,
    map_query,
    normalized_expression,
    prepare_query,
    transfer_labels,
)
from vaekit.cli.main import main
from vaekit.data import GeneExpressionData, simulate_counts
from vaekit.exceptions import DataError
from vaekit.latents import Gaussian, LibrarySize
from vaekit.likelihoods import NegativeBinomial, Poisson
from vaekit.models import VAE, load, save

WITHOUT_COLUMN = "vaekit_batch"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory) -> tuple[AnnData, AnnData, VAE, Path]:
    """Return reference cells of one batch without a column, new cells, the model, and the file of the reference."""
    cells = simulate_counts(1000, 100, clusters=3, batches=2, batch_scale=0.6, de_fraction=0.4, programs=1, seed=5)
    is_new = (cells.obs["batch"] == "batch1").to_numpy()
    reference, query = cells[~is_new].copy(), cells[is_new].copy()
    for part in (reference, query):
        del part.obs["batch"]
    file = tmp_path_factory.mktemp("atlas") / "reference.h5ad"
    reference.write_h5ad(file)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = GeneExpressionData(path=str(file), label_key="cluster")
        model = GaussianVAE(data.features, NegativeBinomial(), latent_dim=4, hidden=(32,))
        trainer(max_epochs=25, limit_val_batches=0).fit(model, datamodule=data)
    return reference, query, model.eval(), file


def accuracy(reference: AnnData, query: AnnData, model: VAE) -> float:
    query = query.copy()
    transfer_labels(reference, query, model, "cluster")
    return (query.obs["cluster_transferred"].astype(str) == query.obs["cluster"].astype(str)).mean()


def elbo(model: VAE, cells: AnnData) -> float:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batch = prepare_query(model, cells).dataset.__getitems__(range(cells.n_obs))
        return -model.loss(batch).total.mean().item()


def test_every_function_works_on_reference_and_query(atlas, tmp_path, capsys):
    reference, query, model, file = atlas
    query = query.copy()
    mapped = map_query(query, model)
    assert mapped.data_registry["batch_categories"] == ["reference", "query"]
    assert (query.obs[WITHOUT_COLUMN] == "query").all()
    save(mapped, tmp_path / "mapped.ckpt")
    mapped = load(tmp_path / "mapped.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before, after, new = reference.copy(), reference.copy(), query.copy()
        embed(before, model)
        embed(after, mapped)
        embed(new, mapped)
        np.testing.assert_allclose(before.obsm["X_vaekit"], after.obsm["X_vaekit"], atol=1e-5)
        assert accuracy(reference, query, mapped) >= accuracy(reference, query, model) > 0.7
        for cells in (reference, query):
            table = differential_expression(cells, mapped, "cluster", "cluster0", "cluster1")
            assert np.isfinite(table["lfc_mean"]).all()
        same = [normalized_expression(reference, each, genes=["gene3"]) for each in (model, mapped)]
        np.testing.assert_allclose(*same, rtol=1e-4)
        both = normalized_expression(query, mapped, genes=["gene3"], transform_batch=["reference", "query"])
        assert np.isfinite(both).all(axis=None)
    data = load_training_data(mapped)
    assert data.dataset.__getitems__([0]).covariates.tolist() == [[1, 0]]
    query.write_h5ad(tmp_path / "query.h5ad")
    for flags in ([], ["--data.path", str(tmp_path / "query.h5ad")]):
        assert main(["evaluate", str(tmp_path / "mapped.ckpt"), "--num_samples", "5", *flags]) == 0
    assert main(["embed", str(tmp_path / "mapped.ckpt"), str(file), "-o", str(tmp_path / "out.h5ad")]) == 0


def test_known_weights_keep_their_bits_and_the_summary_is_right(atlas):
    _, query, model, _ = atlas
    mapped = map_query(query.copy(), model)
    state = mapped.state_dict()
    for name, old in model.state_dict().items():
        new = state[name]
        assert torch.equal(old, new if new.shape == old.shape else new[:, : old.shape[1]]), name
    columns = state["networks.decoder.layers.0.weight"][:, -2:]
    assert (columns[:, 0] == 0).all()
    assert (columns[:, 1] != 0).any()
    shift = state["networks.likelihood.composition_shift"]
    assert (shift[0] == 0).all()
    assert (shift[1] != 0).all()
    (summary,) = mapped.data_registry["mappings"]
    assert summary["batches"] == {"query": query.n_obs}
    assert (summary["num_cells"], summary["num_steps"], summary["missing_genes"]) == (query.n_obs, 500, 0)
    assert summary["elbo_after"] > summary["elbo_before"] + 5
    assert "mappings" not in model.data_registry


def test_several_new_batches_by_a_column(atlas):
    reference, query, model, _ = atlas
    query = query.copy()
    query.obs["run"] = np.where(np.arange(query.n_obs) % 2, "a", "b")
    mapped = map_query(query, model, batch_key="run", max_steps=20)
    assert mapped.data_registry["batch_categories"] == ["reference", "a", "b"]
    assert WITHOUT_COLUMN not in query.obs
    rows = range(4)
    assert prepare_query(mapped, query).dataset.__getitems__(rows).covariates.argmax(1).tolist() == [2, 1, 2, 1]
    assert prepare_query(mapped, reference).dataset.__getitems__(rows).covariates.argmax(1).tolist() == [0] * 4
    third = query[:150].copy()
    del third.obs["run"]
    again = map_query(third, mapped, max_steps=20)
    assert again.data_registry["batch_categories"] == ["reference", "a", "b", "query"]
    assert (third.obs["run"] == "query").all()
    embed(third, again)
    assert [each["batch_key"] for each in again.data_registry["mappings"]] == ["run", "run"]
    reference = reference.copy()
    reference.obs["run"] = "c"  # a column that had no role in training
    with pytest.raises(DataError, match=r"unknown to the checkpoint: 'c'.*Pass one of these names as batch_key"):
        embed(reference, mapped)
    assert embed(reference, mapped, batch_key="reference") == []


def test_files_are_named_by_their_batch(atlas, tmp_path):
    """Files cannot be marked: without a name they count as reference cells, with a warning."""
    _, query, model, _ = atlas
    files = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    for file, start in zip(files, (0, 200), strict=True):
        query[start : start + 200].copy().write_h5ad(file)
    mapped = map_query(files, model, max_steps=20)
    assert mapped.data_registry["mappings"][0]["batches"] == {"query": 400}
    with pytest.warns(UserWarning, match=r"no column 'vaekit_batch', so .* 'reference'\. Pass batch_key='query' for"):
        as_reference = prepare_query(mapped, files[0]).dataset.__getitems__([0]).covariates
    assert as_reference.tolist() == [[1, 0]]
    named = prepare_query(mapped, files[0], batch_key="query").dataset.__getitems__([0]).covariates
    assert named.tolist() == [[0, 1]]


@pytest.mark.parametrize("likelihood", [NegativeBinomial("gene-cell"), Poisson()])
def test_other_covariates_and_a_latent_library_size(likelihood):
    cells = tiny(cells=90)
    cells.obs["dose"] = np.linspace(0, 1, 90)
    data = GeneExpressionData(cells, continuous_covariate_keys=["dose"])
    latents = {"z": Gaussian(2), "l": LibrarySize()}
    model = MixedVAE(data.features, likelihood, data.covariates, latents=latents, hidden=(8,))
    trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    query = tiny(cells=40, seed=3)
    query.obs["dose"] = 0.5
    query.X = query.X * 4
    query.layers["counts"] = query.X
    mapped = map_query(query, model, max_steps=3)
    assert mapped.covariates == 3
    old, new = model.state_dict(), mapped.state_dict()
    weight = "networks.decoder.layers.0.weight"
    assert torch.equal(old[weight], new[weight][:, [0, 1, 4]])  # z (2), [reference, query], dose
    size, logs = new["networks._latents.l.log_size"], np.log(query.X.toarray().sum(1))
    np.testing.assert_allclose(size[0] + size[2], [logs.mean(), logs.std(ddof=1)], rtol=1e-5)
    assert (size[1] == 0).all()
    before, after = cells.copy(), cells.copy()
    embed(before, model)
    embed(after, mapped)
    np.testing.assert_allclose(before.obsm["X_vaekit"], after.obsm["X_vaekit"], atol=1e-5)


def test_defaults_with_batches_shift_genes_and_dispersions():
    """The encoder does not see batches, so that cells keep their place; known shifts keep their bits."""
    data = GeneExpressionData(tiny(), batch_key="batch")
    model = GaussianVAE(data.features, NegativeBinomial(), data.covariates, latent_dim=2, hidden=(8,))
    trainer(max_steps=3, limit_val_batches=0).fit(model, datamodule=data)
    query, same = tiny(seed=1), tiny(seed=1)
    query.obs["batch"] = "new"
    mapped = map_query(query, model, max_steps=5)
    embed(query, mapped)
    embed(same, model)
    np.testing.assert_allclose(query.obsm["X_vaekit"], same.obsm["X_vaekit"], atol=1e-6)
    for name in ("composition_shift", "dispersion_shift"):
        old, new = (getattr(each.networks.likelihood, name) for each in (model, mapped))
        assert torch.equal(old, new[:2])
        assert (new[2] != old.mean(0)).any()
    assert mapped.networks.likelihood.batch_columns.tolist() == [1, 1, 1]


def test_defaults_without_batches_get_dispersions_of_new_batches(atlas):
    mapped = map_query(atlas[1].copy(), atlas[2], max_steps=20)
    likelihood = mapped.networks.likelihood
    assert likelihood.batch_columns.tolist() == [1, 1]
    assert (likelihood.dispersion_shift[0] == 0).all()
    assert (likelihood.dispersion_shift[1] != 0).any()


def test_reference_cells_are_not_a_query(atlas):
    reference, _, model, file = atlas
    for cells in (reference.copy(), file):
        with pytest.raises(DataError, match="has the counts and names that the model was trained on"):
            map_query(cells, model)
    assert WITHOUT_COLUMN not in reference.obs


def test_a_model_of_other_values():
    from vaekit.likelihoods import Gaussian as GaussianLikelihood

    data = GeneExpressionData(tiny())
    model = MODELS["gaussian"](GaussianLikelihood(), features=data.features)
    trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=data)
    query = tiny(seed=1)
    embed(query, map_query(query, model, max_steps=2))


@pytest.mark.parametrize("seed", [0, 1])
def test_sixty_cells_do_not_overfit(atlas, seed):
    """Other cells of the new batch have a higher ELBO than without mapping, and labels at least as accurate."""
    reference, query, model, _ = atlas
    order = np.random.default_rng(seed).permutation(query.n_obs)
    few, others = query[order[:60]].copy(), query[order[60:]].copy()
    with pytest.warns(UserWarning, match=r"'query' \(60 cells\)"):
        mapped = map_query(few, model, seed=seed)
    unmapped = accuracy(reference, others, model), elbo(model, others)
    others.obs[WITHOUT_COLUMN] = "query"
    assert accuracy(reference, others, mapped) >= unmapped[0]
    assert elbo(mapped, others) > unmapped[1] + 2


def test_estimated_counts_are_rounded_as_in_training(atlas):
    reference, query = (cells.copy() for cells in atlas[:2])
    for cells in (reference, query):
        counts, rng = sparse.csr_matrix(cells.X, dtype=np.float32), np.random.default_rng(0)
        counts.data[::3] += rng.uniform(-0.4, 0.4, len(counts.data[::3])).astype(np.float32)
        cells.X = counts
    data = GeneExpressionData(reference, round_counts=True)
    model = GaussianVAE(data.features, NegativeBinomial(), latent_dim=2, hidden=(8,))
    trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    with pytest.warns(UserWarning, match="round_counts=True rounded"):
        mapped = map_query(query, model, max_steps=2)
    assert mapped.data_registry["batch_categories"] == ["reference", "query"]
    with pytest.raises(DataError, match="that the model was trained on"):
        map_query(reference, model, max_steps=2)
