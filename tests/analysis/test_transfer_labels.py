"""Labels transferred to held-out cells, and their uncertainty."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import torch
from models.tiny import trainer

from vaekit import GaussianVAE
from vaekit.analysis import embed, transfer_labels
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
    assert query.uns["bulk_labels_transferred"]["n_neighbors"] == 15


def test_weights_agree_with_the_formula(blood):
    reference, query, model = blood[0].copy(), blood[1][:30].copy(), blood[2]
    reference.obs.iloc[::3, reference.obs.columns.get_loc("bulk_labels")] = np.nan
    transfer_labels(
        reference, query, model, "bulk_labels", n_neighbors=7, layer="counts", key_added="kind", batch_size=11
    )
    for one in (reference, query):
        embed(one, model, layer="counts")
    labeled = reference[reference.obs["bulk_labels"].notna()]
    for cell in range(30):
        distance = np.linalg.norm(labeled.obsm["X_vaekit"] - query.obsm["X_vaekit"][cell], axis=1)
        near = np.argsort(distance)[:7]
        weight = np.exp(-((distance[near] / distance[near].mean()) ** 2) / 2)
        weights = {}
        for label, one in zip(labeled.obs["bulk_labels"].iloc[near], weight / weight.sum(), strict=True):
            weights[label] = weights.get(label, 0) + one
        assert query.obs["kind"].iloc[cell] == max(weights, key=weights.get)
        assert query.obs["kind_uncertainty"].iloc[cell] == pytest.approx(1 - max(weights.values()), abs=1e-5)


def test_cells_at_a_reference_cell_are_certain(blood):
    reference, model = blood[0], blood[2]
    query = reference[:20].copy()
    transfer_labels(reference, query, model, "bulk_labels", n_neighbors=1, layer="counts")
    assert (query.obs["bulk_labels_transferred"].astype(str) == query.obs["bulk_labels"].astype(str)).all()
    assert (query.obs["bulk_labels_transferred_uncertainty"] == 0).all()


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
