import dataclasses
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from models.tiny import trainer
from sklearn.metrics import adjusted_rand_score

import vaekit
from vaekit import DiscreteVAE, GaussianVAE, MixedVAE
from vaekit.analysis import States, assign_states, states
from vaekit.analysis.states import warn_unstable
from vaekit.data import GeneExpressionData, simulate_counts
from vaekit.exceptions import CheckpointError, DataError
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE
from vaekit.models.objectives import ELBO
from vaekit.plotting import embedding_figures


def _train(adata: AnnData, seed: int, model_class: Any = GaussianVAE, epochs: int = 25, **arguments: Any) -> VAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        data = GeneExpressionData(adata, batch_key="batch", batch_size=32)
        given = {"hidden": (32,), "learning_rate": 4e-3, "objective": ELBO(warmup=0.5), **arguments}
        model = model_class(data.features, NegativeBinomial(), data.covariates, **given)
        trainer(max_epochs=epochs, limit_val_batches=0).fit(model, datamodule=data)
    return model.eval()


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return simulate_counts(700, 120, clusters=4, batches=2, de_fraction=0.4, lfc_scale=2.0, programs=1, seed=3)


@pytest.fixture(scope="module")
def models(cells: AnnData) -> list[VAE]:
    return [_train(cells, seed, latent_dim=4) for seed in range(3)]


@pytest.fixture(scope="module")
def found(cells: AnnData, models: list[VAE]) -> States:
    return states(cells.copy(), models, n_genes=5)


def test_known_types_are_the_states(cells: AnnData, models: list[VAE]) -> None:
    adata = cells.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = states(adata, models)
    assert adjusted_rand_score(cells.obs["cluster"], result.codes) > 0.95
    assert list(result.states.index) == ["0", "1", "2", "3"] == list(adata.obs["vaekit_states"].cat.categories)
    assert (result.states["stability"] > 0.9).all()
    assert result.states["n_cells"].sum() == cells.n_obs
    np.testing.assert_allclose(adata.obsm["vaekit_states_probabilities"].sum(1), 1)
    assert result.agreement.loc[result.agreement["chosen"], "num_states"].item() == 4
    np.testing.assert_array_equal(cells.X.toarray(), adata.X.toarray())


def test_tables_describe_the_tree_and_every_level(found: States, cells: AnnData) -> None:
    num_components = len(found.tree) + 1
    assert num_components == found.bic["num_components"][found.bic["bic"].idxmin()]
    assert list(found.tree["num_states"]) == list(range(num_components - 1, 0, -1))
    assert found.tree["misclassification"].between(0, 1).all()
    assert list(found.agreement["num_states"]) == list(range(1, num_components + 1))
    levels = found.markers.groupby("num_states")["state"].nunique()
    assert levels.to_dict() == {level: level for level in range(2, num_components + 1)}
    assert (found.markers.groupby(["num_states", "state"]).size() == 5).all()
    np.testing.assert_allclose(found.compositions.sum(0), 1, rtol=1e-5)
    assert list(found.compositions.index) == list(cells.var_names)


def test_markers_are_higher_in_their_state(found: States, cells: AnnData) -> None:
    fractions = cells.X.toarray() / cells.X.sum(1)
    table = found.markers[found.markers["num_states"] == len(found.states)]
    for state, genes in table.groupby("state")["gene"]:
        columns = cells.var_names.get_indexer(genes.head(3))
        inside = np.asarray(found.codes == str(state))
        ratio = np.asarray(fractions)[inside][:, columns].mean(0) / np.asarray(fractions)[~inside][:, columns].mean(0)
        assert (ratio > 1.2).all()


def test_number_of_states_can_be_given(cells: AnnData, models: list[VAE], found: States) -> None:
    adata = cells.copy()
    result = states(adata, models, num_states=2)
    assert list(adata.obs["vaekit_states"].cat.categories) == ["0", "1"]
    coarse, fine = np.asarray(result.codes.codes), np.asarray(found.codes.codes)
    assert (
        all(len(np.unique(coarse[fine == state])) == 1 for state in range(4)) or adjusted_rand_score(coarse, fine) > 0
    )
    with pytest.raises(DataError, match="num_states=31 must be at most"):
        states(adata, models, num_states=31)


def test_one_model_works_but_its_stability_is_unknown(cells: AnnData, models: list[VAE]) -> None:
    with pytest.warns(UserWarning, match="unknown with a single model"):
        result = states(cells.copy(), models[0])
    assert result.states["stability"].isna().all()
    assert result.agreement["agreement"].isna().all()
    assert adjusted_rand_score(cells.obs["cluster"], result.codes) > 0.9


def test_states_that_are_not_stable_are_named(found: States) -> None:
    table = found.states.assign(stability=[0.9, 0.4, 0.8, 0.59])
    with pytest.warns(
        UserWarning, match=r"not stable over the models \(Jaccard index below 0.6\): 1 \(0.40\), 3 \(0.59\)"
    ):
        warn_unstable(dataclasses.replace(found, states=table))


def test_result_of_checkpoints_is_written_and_read(cells: AnnData, models: list[VAE], tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.ckpt" for seed in range(2)]
    for model, path in zip(models, paths, strict=False):
        vaekit.save(model, path)
    adata = cells.copy()
    states(adata, paths)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert list(read.uns["vaekit_states"]["checkpoints"]) == [str(path) for path in paths]
    pd.testing.assert_frame_equal(read.uns["vaekit_states"]["markers"], adata.uns["vaekit_states"]["markers"])
    again = cells[::2].copy()
    assign_states(again, paths, read.uns["vaekit_states"])
    assert list(again.obs["vaekit_states"].astype(str)) == list(adata.obs["vaekit_states"][::2].astype(str))
    np.testing.assert_allclose(
        again.obsm["vaekit_states_probabilities"], adata.obsm["vaekit_states_probabilities"][::2], atol=1e-4
    )
    with pytest.raises(DataError, match="same models in the same order"):
        assign_states(again, paths[:1], read.uns["vaekit_states"])
    states(adata, paths)  # replaces its own fields


def test_figure_has_tree_agreement_umap_and_markers(
    found: States, models: list[VAE], cells: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_figures, "umap_coordinates", lambda latents: latents[:, :2])
    titles = [axis.get_title() for axis in found.plot("cells").axes]
    assert any(title.startswith("tree") for title in titles)
    assert {"agreement of the models", "state", "marker genes"} <= set(titles)
    with pytest.warns(UserWarning, match="unknown"):
        single = states(cells.copy(), models[:1])
    assert any("unknown" in text.get_text() for axis in single.plot().axes for text in axis.texts)


class TestBadInput:
    def test_models_of_other_data(self, cells: AnnData, models: list[VAE]) -> None:
        with pytest.raises(CheckpointError, match=r"models\[1\] has other genes than models\[0\]"):
            states(cells, [models[0], _train(cells[:, :100].copy(), 0, epochs=1)])
        with pytest.raises(CheckpointError, match=r"models\[1\] was trained on other data"):
            states(cells, [models[0], _train(cells[:600].copy(), 0, epochs=1)])

    def test_untrained_model(self, cells: AnnData) -> None:
        with pytest.raises(CheckpointError, match="no data registry"):
            states(cells, [GaussianVAE(120, NegativeBinomial())])

    def test_model_without_gaussian_latent(self, cells: AnnData) -> None:
        model = _train(cells, 0, DiscreteVAE, epochs=1, variables=2, categories=3)
        with pytest.raises(
            CheckpointError, match=r"models\[0\] does not have a Gaussian latent, but y \(Categorical\)"
        ):
            states(cells, model)

    def test_mixed_model_works(self, cells: AnnData) -> None:
        with pytest.warns(UserWarning, match="unknown"):
            assert len(states(cells.copy(), _train(cells, 0, MixedVAE)).states) > 1

    def test_collapsed_latent(self, cells: AnnData) -> None:
        model = _train(cells, 0, epochs=1, latent_dim=2)
        with torch.no_grad():
            model.latents["z"].head.weight.zero_()
        with pytest.raises(CheckpointError, match=r"models\[0\]: no dimension of z is active"):
            states(cells.copy(), model)

    def test_too_few_cells(self, cells: AnnData, models: list[VAE]) -> None:
        with pytest.raises(DataError, match="5 cells are too few for states"):
            states(cells[:5].copy(), models)
        few = cells[:25].copy()
        assert len(states(few, models).codes) == 25

    def test_same_model_twice(self, cells: AnnData, models: list[VAE]) -> None:
        with pytest.raises(DataError, match="same weights as another model"):
            states(cells, [models[0], models[0]])

    @pytest.mark.parametrize("argument", ["num_states", "n_genes", "batch_size"])
    def test_numbers(self, cells: AnnData, models: list[VAE], argument: str) -> None:
        with pytest.raises(DataError, match=f"states: {argument}=0 must be at least 1"):
            states(cells, models, **{argument: 0})

    def test_no_model(self, cells: AnnData) -> None:
        with pytest.raises(DataError, match=r"models=\[\] must contain a model"):
            states(cells, [])

    def test_taken_field(self, cells: AnnData, models: list[VAE]) -> None:
        adata = cells.copy()
        adata.obs["vaekit_states"] = "mine"
        with pytest.raises(DataError, match="vaekit_states"):
            states(adata, models)
        assert (adata.obs["vaekit_states"] == "mine").all()
        with pytest.raises(DataError, match="must be an AnnData"):
            states("cells.h5ad", models)
