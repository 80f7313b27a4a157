"""Tests of predicted labels: accuracy, calibration, types without labels, mapped cells, and rejected arguments."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from models.tiny import trainer
from torch.distributions import kl_divergence

import vaekit
from vaekit import MixedVAE
from vaekit.analysis import map_query, plot_reliability, predict_labels, prepare_query
from vaekit.analysis.label_calibration import (
    expected_calibration_error,
    fit_temperature,
    reliability_table,
    temper,
)
from vaekit.analysis.label_evidence import label_evidence
from vaekit.analysis.label_predictor import LabelPredictor, load_labeled_data
from vaekit.cli.main import main
from vaekit.data import GeneExpressionData, simulate_counts
from vaekit.exceptions import CheckpointError, ConfigError, DataError
from vaekit.latents import Categorical, Gaussian
from vaekit.models import VAE

NUM_CELLS, TYPES = 600, ("cluster0", "cluster1", "cluster2")


def simulate() -> AnnData:
    """Return cells of four types, of which a fifth of three types have a label."""
    settings = {"de_fraction": 0.6, "lfc_scale": 2.0, "library_size": 300.0}
    cells = simulate_counts(NUM_CELLS, 60, clusters=4, seed=1, **settings)
    types = cells.obs["cluster"].astype(str)
    is_known = types.isin(TYPES) & (np.random.default_rng(0).random(NUM_CELLS) < 0.2)
    cells.obs["known"] = types.where(is_known, "Unknown").to_numpy()
    return cells


def train(cells: Any, max_steps: int = 300, **latent: Any) -> VAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        source = {"path": cells} if isinstance(cells, str) else {"adata": cells}
        data = GeneExpressionData(**source, observed_key="known", batch_size=64)
        y = Categorical(observed_key="known", learned_prior=True)
        latents = {"y": y, "z": Gaussian(5, parents=["y"], **latent)}
        model = MixedVAE(
            data.features, "nb", latents=latents, labels=data.observed_categories, hidden=(32,), learning_rate=0.01
        )
        trainer(max_steps=max_steps, limit_val_batches=0).fit(model, datamodule=data)
    return model.eval()


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return simulate()


@pytest.fixture(scope="module")
def model(cells: AnnData) -> VAE:
    return train(cells)


@pytest.fixture(scope="module")
def predicted(cells: AnnData, model: VAE) -> AnnData:
    result = cells.copy()
    predict_labels(result, model)
    return result


def test_labels_of_known_types_are_right(predicted: AnnData) -> None:
    scored = predicted.obs[predicted.obs["cluster"].isin(TYPES) & (predicted.obs["known"] == "Unknown")]
    is_right = scored["known_predicted"].astype(str) == scored["cluster"].astype(str)
    assert is_right.mean() > 0.9
    assert abs(scored["known_predicted_probability"].mean() - is_right.mean()) < 0.1
    assert (scored["known_predicted"] != scored["known_predicted_second"]).all()


def test_fields_agree(predicted: AnnData) -> None:
    record, obs = predicted.uns["known_predicted"], predicted.obs
    probabilities = predicted.obsm["known_predicted_probabilities"]
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert list(record["labels"][probabilities.argmax(1)]) == list(obs["known_predicted"])
    np.testing.assert_array_equal(probabilities.max(1), obs["known_predicted_probability"])
    assert record["num_held_out"] == record["reliability"]["n"].sum() > 0
    assert (obs["known_predicted_uncertainty"] >= 1 - obs["known_predicted_probability"] - 1e-12).all()


def test_a_type_without_labels_is_novel(cells: AnnData, model: VAE) -> None:
    result = cells.copy()
    predict_labels(result, model, max_novelty=1.0)
    is_new = (result.obs["cluster"] == "cluster3").to_numpy()
    is_unknown = (result.obs["known_predicted"] == "Unknown").to_numpy()
    assert is_unknown[is_new].mean() > 0.5
    assert is_unknown[~is_new].mean() < 0.15
    assert list(is_unknown) == list(result.obs["known_predicted_novelty"] > 1)


def test_evidence_is_the_formula(cells: AnnData, model: VAE) -> None:
    dataset = prepare_query(model, cells).dataset
    batch = dataset.__getitems__(range(20))
    evidence, networks = label_evidence(model, [batch]), model.networks
    with torch.no_grad():
        h = networks.encode(batch)
        q_y, q_z = (networks.posterior(name, h, {}) for name in ("y", "z"))
        divergences = torch.stack(
            [
                kl_divergence(q_z, networks.prior("z", {"y": one.expand(20, 1, 3)}, h).expand(q_z.batch_shape))
                for one in torch.eye(3)
            ],
            -1,
        ).double()
        prior = networks.prior("y", {}, h).mean[0].double().log()
        expected = (q_y.mean[:, 0].double() + (prior - divergences).softmax(-1)) / 2
    np.testing.assert_allclose(evidence.probabilities, expected, rtol=1e-4, atol=1e-6)
    distances, best = divergences.sqrt(), expected.argmax(1)
    for row in range(20):
        others = np.delete(distances[row].numpy(), best[row])
        separation = (others.min() - distances[row, best[row]].item()) / q_z.variance[row].mean().item()
        np.testing.assert_allclose(evidence.separation[row], max(0, separation), rtol=1e-3, atol=1e-4)


def test_a_model_without_components_has_the_posterior_alone(cells: AnnData) -> None:
    model = train(cells, max_steps=5, conditional_posterior=True)
    batch = prepare_query(model, cells).dataset.__getitems__(range(10))
    evidence = label_evidence(model, [batch])
    np.testing.assert_allclose(evidence.probabilities, model.posteriors(batch)["y"].mean[:, 0].detach(), rtol=1e-5)
    assert np.isinf(evidence.separation).all()
    result = cells.copy()
    predict_labels(result, model)
    sums = result.obs["known_predicted_uncertainty"] + result.obs["known_predicted_probability"]
    np.testing.assert_allclose(sums, 1)


def test_temperature_recovers_a_distortion() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 4000)
    codes = np.array([rng.choice(4, p=row) for row in probabilities])
    for distortion in (0.5, 1.0, 2.0):
        distorted = temper(probabilities, distortion)  # the inverse temperature undoes it
        assert fit_temperature(distorted, codes) == pytest.approx(1 / distortion, rel=0.06)
    tempered = temper(temper(probabilities, 2.0), fit_temperature(temper(probabilities, 2.0), codes))
    before, after = (
        expected_calibration_error(reliability_table(table.max(1), table.argmax(1) == codes))
        for table in (temper(probabilities, 2.0), tempered)
    )
    assert after < 0.03 < before


def test_calibration_uses_held_out_labels_only(cells: AnnData, model: VAE) -> None:
    data = load_labeled_data(model, cells)
    predictor = LabelPredictor(model, data)
    assert data.observed_labels is not None
    held_out = np.concatenate([data.split_indices[name].numpy() for name in ("val", "test")])
    assert predictor.num_held_out == (data.observed_labels[held_out] >= 0).sum()
    assert predictor.num_training == (data.observed_labels[data.split_indices["train"].numpy()] >= 0).sum()


def test_without_held_out_labels_the_calibration_is_a_default(cells: AnnData, model: VAE) -> None:
    data = load_labeled_data(model, cells)
    assert data.observed_labels is not None
    data.observed_labels[np.setdiff1d(np.arange(NUM_CELLS), data.split_indices["train"].numpy())] = -1
    model = copy.deepcopy(model)  # as if trained on these labels, without those of held-out cells
    model.data_registry = {**model.data_registry, "label_fingerprint": data.label_fingerprint}
    with pytest.warns(UserWarning, match="default calibration. Keep labeled cells"):
        predictor = LabelPredictor(model, data)
    assert predictor.temperature == pytest.approx(np.exp(-0.3), rel=1e-3)
    assert predictor.calibration_error == 0


def test_mapped_cells(cells: AnnData, model: VAE) -> None:
    query = cells[::2].copy()
    query.obs_names = [f"new {name}" for name in query.obs_names]
    mapped = map_query(query, model, max_steps=5)
    with pytest.raises(CheckpointError, match="Pass training_data="):
        predict_labels(query, mapped)
    predict_labels(query, mapped, training_data=cells)
    is_known = query.obs["cluster"].isin(TYPES)
    assert (query.obs["known_predicted"].astype(str) == query.obs["cluster"].astype(str))[is_known].mean() > 0.9


def test_command_and_report(cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaekit.plotting.embedding_figures.umap_coordinates", lambda points, seed=0: points[:, :2])
    path, checkpoint = str(tmp_path / "cells.h5ad"), str(tmp_path / "model.ckpt")
    cells.write_h5ad(path)
    model = train(path, max_steps=20)
    vaekit.save(model, checkpoint)
    output = tmp_path / "out.csv"
    assert main(["labels", checkpoint, "-o", str(output), "--max_novelty", "1"]) == 0
    table = pd.read_csv(output, index_col="cell")
    result = cells.copy()
    predict_labels(result, checkpoint, max_novelty=1.0)
    assert list(table["known_predicted"]) == list(result.obs["known_predicted"])
    np.testing.assert_allclose(table["known_predicted_novelty"], result.obs["known_predicted_novelty"])
    probabilities = table[[f"known_predicted_probabilities_{name}" for name in TYPES]].to_numpy()
    np.testing.assert_allclose(probabilities, result.obsm["known_predicted_probabilities"], rtol=1e-5)
    assert output.with_suffix(".png").stat().st_size > 10_000
    vaekit.analysis.report(model, tmp_path / "report.html", num_samples=2)
    text = (tmp_path / "report.html").read_text()
    assert "Predicted labels" in text
    assert "Reliability diagram" in text


def test_reliability_figure(predicted: AnnData) -> None:
    table = predicted.uns["known_predicted"]["reliability"]
    axis = plot_reliability(table).axes[0]
    np.testing.assert_allclose(axis.lines[1].get_data(), table[["probability", "accuracy"]].to_numpy().T)
    assert f"{table['n'].sum()} held-out" in axis.get_title()


def test_labels_that_changed_after_training_do_not_calibrate(cells: AnnData, model: VAE) -> None:
    """Such as a column that was filled with predictions: they would confirm themselves."""
    filled = cells.copy()
    predict_labels(filled, model)
    filled.obs["known"] = filled.obs["known_predicted"].astype(str)
    with pytest.raises(CheckpointError, match=r"'known': the labels of .* are not those of the training.*another one"):
        predict_labels(filled, model, key_added="again")
    predict_labels(filled, model, key_added="again", training_data=cells)
    np.testing.assert_array_equal(filled.obs["again"], filled.obs["known_predicted"])


def test_a_name_of_unknown_cells_is_free() -> None:
    cells = simulate()
    names = {"cluster0": "Unknown", "cluster1": "Unknown type", "cluster2": "C", "Unknown": "none known"}
    cells.obs["known"] = cells.obs["known"].map(names).to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = vaekit.fit(cells, labels="known", unlabeled_category="none known", max_steps=2, progress=False)
    predict_labels(cells, fitted, max_novelty=1.0)
    assert list(cells.obs["known_predicted"].cat.categories) == ["C", "Unknown", "Unknown type", "Unknown type 2"]


def test_bad_input(cells: AnnData, model: VAE) -> None:
    for novelty in (0.0, -1.0, float("nan"), "1"):
        with pytest.raises(ConfigError, match=f"max_novelty={novelty!r} must be a positive number"):
            predict_labels(cells, model, max_novelty=novelty)  # type: ignore[arg-type]
    for size in (0, 2.5):
        with pytest.raises(ConfigError, match=f"batch_size={size} must be a whole number, at least 1"):
            predict_labels(cells.copy(), model, batch_size=size)  # type: ignore[arg-type]
    other = simulate_counts(NUM_CELLS, 60, clusters=4, seed=2)
    with pytest.raises(CheckpointError, match="cannot be loaded unchanged"):
        predict_labels(cells.copy(), model, training_data=other)
    taken = cells.copy()
    taken.obs["known_predicted_novelty"] = 1.0
    with pytest.raises(DataError, match=r"'known_predicted_novelty'.* exists"):
        predict_labels(taken, model)
    without = vaekit.fit(cells, max_steps=2, progress=False)
    with pytest.raises(ConfigError, match=r"has no labels: none of its latents has an observed_key.*labels=COLUMN"):
        predict_labels(cells.copy(), without)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_genes", [40, 30])
def test_cells_with_fewer_genes_are_not_novel_for_that(cells: AnnData, model: VAE, num_genes: int) -> None:
    """The labeled cells are seen through the same genes; else half of those with 30 genes were unknown."""
    query = cells[:, :num_genes].copy()
    predict_labels(query, model, max_novelty=1.0, training_data=cells)
    is_known = cells.obs["cluster"].isin(TYPES).to_numpy()
    fraction = (query.obs["known_predicted"] == "Unknown")[is_known].mean()
    assert fraction < 0.15
