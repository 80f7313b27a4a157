"""Labels transferred to held-out cells, and their uncertainty."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from models.tiny import trainer

from vaekit import GaussianVAE
from vaekit.analysis import embed, transfer_labels
from vaekit.analysis.label_neighbors import NUM_NEIGHBORS, LabelNeighbors, choose_n_neighbors, within_label_metric
from vaekit.data import GeneExpressionData
from vaekit.exceptions import DataError
from vaekit.likelihoods import NegativeBinomial


@pytest.fixture(scope="module")
def blood():
    """Return training cells and held-out cells of the packaged data, and a model trained on the former."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = GeneExpressionData(split=(0.7, 0.1, 0.2))
        model = GaussianVAE(data.features, NegativeBinomial())
        trainer(max_epochs=20, limit_val_batches=0).fit(model, datamodule=data)
    split = {name: rows.numpy() for name, rows in data.split_indices.items()}
    cells = data.adata
    return cells[split["train"]].copy(), cells[split["test"]].copy(), model.eval()


def test_accuracy_rises_as_uncertainty_falls(blood):
    reference, query, model = blood
    before = reference.obs.copy()
    transfer_labels(reference, query, model, "bulk_labels", layer="counts")
    correct = (query.obs["bulk_labels_transferred"].astype(str) == query.obs["bulk_labels"].astype(str)).to_numpy()
    uncertainty = query.obs["bulk_labels_transferred_uncertainty"].to_numpy()
    commonest = reference.obs["bulk_labels"].value_counts(normalize=True).iloc[0]
    assert correct.mean() > commonest + 0.2
    certain = uncertainty <= np.median(uncertainty)
    assert correct[certain].mean() > correct[~certain].mean() + 0.1
    assert ((uncertainty >= 0) & (uncertainty < 1)).all()
    assert reference.obs.equals(before)
    assert query.uns["bulk_labels_transferred"]["n_neighbors"] in NUM_NEIGHBORS


def test_weights_agree_with_the_formula(blood):
    reference, query, model = blood[0].copy(), blood[1][:30].copy(), blood[2]
    reference.obs.iloc[::3, reference.obs.columns.get_loc("bulk_labels")] = np.nan
    transfer_labels(
        reference, query, model, "bulk_labels", n_neighbors=7, layer="counts", key_added="kind", batch_size=11
    )
    for one in (reference, query):
        embed(one, model, layer="counts")
    labeled = reference[reference.obs["bulk_labels"].notna()]
    x = labeled.obsm["X_vaekit"].astype(float)
    centered = x - pd.DataFrame(x).groupby(labeled.obs["bulk_labels"].to_numpy(str)).transform("mean").to_numpy()
    within = np.cov(centered.T, bias=True)
    inverse = np.linalg.inv(within + 0.05 * np.trace(within) / len(within) * np.eye(len(within)))
    for cell in range(30):
        difference = x - query.obsm["X_vaekit"][cell]
        distance = np.sqrt(np.einsum("id,de,ie->i", difference, inverse, difference))
        near = np.argsort(distance)[:7]
        weight = np.exp(-((distance[near] / distance[near].mean()) ** 2) / 2)
        weights = {}
        for label, one in zip(labeled.obs["bulk_labels"].iloc[near], weight / weight.sum(), strict=True):
            weights[label] = weights.get(label, 0) + one
        assert query.obs["kind"].iloc[cell] == max(weights, key=weights.get)
        assert query.obs["kind_uncertainty"].iloc[cell] == pytest.approx(1 - max(weights.values()), abs=1e-4)


def test_cells_at_a_reference_cell_are_certain(blood):
    reference, model = blood[0], blood[2]
    query = reference[:20].copy()
    transfer_labels(reference, query, model, "bulk_labels", n_neighbors=1, layer="counts")
    assert (query.obs["bulk_labels_transferred"].astype(str) == query.obs["bulk_labels"].astype(str)).all()
    assert (query.obs["bulk_labels_transferred_uncertainty"] == 0).all()


def test_the_number_of_neighbors_follows_the_reference():
    """Many neighbors for labels with noise, few for small groups; the order of the cells does not matter."""
    rng = np.random.default_rng(0)
    names = [f"cell{i}" for i in range(600)]
    points = rng.normal(size=(600, 2))
    noisy = (rng.random(600) < np.where(points[:, 0] > 0, 0.8, 0.2)).astype(int)
    small = np.arange(600) // 6  # groups of 6 cells at the same place
    islands = np.stack([small % 10, small // 10], 1) * 10 + 0.1 * points
    assert choose_n_neighbors(points, noisy, 2, names) >= 50
    assert choose_n_neighbors(islands, small, 100, names) == 5
    order = rng.permutation(600)
    assert choose_n_neighbors(islands[order], small[order], 100, [names[i] for i in order]) == 5
    assert choose_n_neighbors(points[:3], noisy[:3], 2, names[:3]) == 2
    assert choose_n_neighbors(points[:1], noisy[:1], 2, names[:1]) == 1


def test_the_metric_has_unit_spread_within_labels():
    rng = np.random.default_rng(0)
    codes = np.arange(3000) % 3
    spread = np.array([[2.0, 0, 0], [1, 0.5, 0], [0, 0, 0.1]])
    points = rng.normal(size=(3000, 3)) @ spread + 5 * np.eye(3)[codes]
    metric = within_label_metric(points, codes, 3)
    scaled = points @ metric
    within = np.mean([np.cov(scaled[codes == code].T) for code in range(3)], 0)
    assert np.abs(within - np.diag(np.diag(within))).max() < 0.05
    assert within.max() < 1
    assert within.max() > 0.95
    for alone in (np.eye(3), np.ones((3, 2)), np.zeros((3, 2))):  # no spread within labels
        metric = within_label_metric(alone, np.arange(3), 3)
        np.testing.assert_array_equal(metric, np.eye(alone.shape[1]))


def test_left_out_cells_do_not_vote_for_themselves():
    points = np.repeat(np.arange(4.0), 3)[:, None]  # three cells at each place
    codes = np.arange(12) % 3  # with different labels
    names = [f"cell{i}" for i in range(12)]
    assert choose_n_neighbors(points, codes, 3, names) == 10  # near cells always have another label
    np.testing.assert_allclose(LabelNeighbors(points, codes, 3, 3).weights(points[:1]), 1 / 3)


def test_files_and_missing_labels(blood, tmp_path):
    reference, query, model = blood[0].copy(), blood[1][:30].copy(), blood[2]
    reference.write_h5ad(tmp_path / "reference.h5ad")
    again = query.copy()
    transfer_labels(reference, query, model, "bulk_labels", layer="counts")
    transfer_labels(tmp_path / "reference.h5ad", again, model, "bulk_labels", layer="counts")
    assert query.obs["bulk_labels_transferred"].equals(again.obs["bulk_labels_transferred"])
    reference.obs["none"] = np.nan
    with pytest.raises(DataError, match=r"label_key='none': all 490 cells of .* have no label \(NaN\)"):
        transfer_labels(reference, query, model, "none", layer="counts")


def test_errors(blood):
    reference, query, model = blood[0], blood[1].copy(), blood[2]
    with pytest.raises(DataError, match="Did you mean 'bulk_labels'"):
        transfer_labels(reference, query, model, "bulk_label", layer="counts")
    for n_neighbors in (0, 10_000):
        with pytest.raises(DataError, match=f"n_neighbors={n_neighbors} must.*490"):
            transfer_labels(reference, query, model, "bulk_labels", n_neighbors=n_neighbors, layer="counts")


def test_reference_cells_at_the_same_distance_have_equal_weights(blood):
    """Cells have copies with other labels, so more than ``n_neighbors`` cells are as near as the last neighbor."""
    reference, query, model = blood[0][:60].copy(), blood[1][:20].copy(), blood[2]
    copies = anndata.concat([reference] * 4, index_unique="-")
    copies.obs["kind"] = np.repeat(["d", "b", "a", "c"], 60)
    tables = []
    for rows in (np.arange(240), np.arange(240)[::-1], np.random.default_rng(0).permutation(240)):
        cells = query.copy()
        transfer_labels(copies[rows].copy(), cells, model, "kind", n_neighbors=6, layer="counts")
        tables.append(cells.obs)
    for obs in tables:
        assert (obs["kind_transferred"] == "a").all()  # all labels have the weight 1/4
        np.testing.assert_allclose(obs["kind_transferred_uncertainty"], 0.75, atol=1e-6)
