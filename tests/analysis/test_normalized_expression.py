"""Normalized expression, compared with the parts of the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models.tiny import MODELS, adata, trainer

from vaekit.analysis import normalized_expression, prepare_query
from vaekit.data import GeneExpressionData
from vaekit.diagnostics.keyed_noise import draw_by_key, hash_names, observation_keys
from vaekit.exceptions import DataError
from vaekit.likelihoods import ZeroInflatedNegativeBinomial


def expected(adata, model, batch: int | None, num_samples: int, seed: int = 0) -> np.ndarray:
    """Return the mean composition over samples, for all cells at once."""
    cells = prepare_query(model, adata, None, "batch").dataset.__getitems__(range(adata.n_obs))
    keys = observation_keys(cells, seed, hash_names(adata.obs_names))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        q = model.posteriors(cells)["z"]
        values = {"z": draw_by_key(lambda part: q.sample((num_samples,)), keys, num_samples)}
        if batch is not None:
            cells = cells._replace(covariates=torch.eye(2)[batch].expand(adata.n_obs, 2))
        likelihood = model.networks.likelihood
        shift = cells.covariates @ likelihood.composition_shift
        logits = likelihood.composition(model.networks.decode(values, cells)) + shift
        return logits.softmax(-1).mean(0).numpy()


def test_layer_is_library_size_times_composition(simulated):
    cells, model = simulated[0][:100].copy(), simulated[1]
    assert normalized_expression(cells, model, num_samples=3) is None
    layer = cells.layers["vaekit_normalized"]
    assert layer.dtype == np.float32
    np.testing.assert_allclose(layer, 1e4 * expected(cells, model, None, 3), rtol=1e-4)
    np.testing.assert_allclose(layer.sum(1), 1e4, rtol=1e-4)
    assert cells.uns["vaekit_normalized"]["library_size"] == "10000.0"
    assert (cells.X != simulated[0][:100].X).nnz == 0


def test_observed_library_size(simulated):
    cells = simulated[0][:50].copy()
    normalized_expression(cells, simulated[1], library_size="observed", key_added="observed")
    np.testing.assert_allclose(cells.layers["observed"].sum(1), np.asarray(cells.X.sum(1)).ravel(), rtol=1e-4)


def test_transform_batch(simulated):
    cells, model = simulated[0][:80].copy(), simulated[1]
    genes = list(cells.var_names)
    one, two, both = (
        normalized_expression(cells, model, transform_batch=batches, genes=genes, library_size=1, num_samples=2)
        for batches in ("batch0", "batch1", np.array(["batch0", "batch1"]))
    )
    with pytest.raises(DataError, match="transform_batch='7' not found in the model's batches"):
        normalized_expression(cells, model, transform_batch=7)  # a batch from a numeric column
    np.testing.assert_allclose(one, expected(cells, model, 0, 2), rtol=1e-4)
    np.testing.assert_allclose(two, expected(cells, model, 1, 2), rtol=1e-4)
    np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-4)
    assert not np.allclose(one, two, rtol=0.01)


def test_genes_are_returned_without_writing(simulated):
    cells, model = simulated[0][:60].copy(), simulated[1]
    names = ["gene7", "gene149", "gene0"]
    table = normalized_expression(cells, model, genes=names)
    assert list(table.columns) == names
    assert list(table.index) == list(cells.obs_names)
    np.testing.assert_allclose(table, 1e4 * expected(cells, model, None, 1)[:, [7, 149, 0]], rtol=1e-4)
    assert not list(filter(None, cells.layers))
    assert not set(cells.uns) - {"simulation"}


def test_columns_match_the_names_of_genes(simulated):
    cells, model = simulated[0][:40].copy(), simulated[1]
    shuffled = cells[:, np.random.default_rng(0).permutation(150)].copy()
    shuffled = shuffled[:, :130].copy()
    with pytest.warns(UserWarning, match="lacks 20"):
        normalized_expression(shuffled, model, num_samples=1)
    layer = shuffled.to_df("vaekit_normalized")
    assert layer.notna().all(axis=None)
    lacking = list(set(cells.var_names) - set(shuffled.var_names))
    with pytest.warns(UserWarning, match="lacks 20"):  # unobserved genes have an expected expression, too
        others = normalized_expression(shuffled, model, num_samples=1, genes=lacking)
    np.testing.assert_allclose(layer.sum(1) + others.sum(1), 1e4, rtol=1e-4)


def test_genes_that_the_model_does_not_know_are_nan():
    cells = adata()
    data = GeneExpressionData(cells[:, :10].copy())
    model = MODELS["mixed"](ZeroInflatedNegativeBinomial(), features=data.features)
    trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    normalized_expression(cells, model, batch_size=7)
    layer = cells.layers["vaekit_normalized"]
    assert np.isnan(layer[:, 10:]).all()
    np.testing.assert_allclose(layer[:, :10].sum(1), 1e4, rtol=1e-4)


def test_a_layer_that_exceeds_memory(simulated, monkeypatch):
    cells = simulated[0].copy()
    monkeypatch.setattr("vaekit._core.memory_budget.free_memory", lambda: -1e15)  # less than any swap space
    with pytest.raises(DataError, match=r"1200 cells x 150 genes claims .*genes=\[\.\.\.\]"):
        normalized_expression(cells, simulated[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transform_batch": "batch2"}, "not found in the model's batches. Did you mean"),
        ({"transform_batch": " Batch1"}, "transform_batch=' Batch1' not found.*Did you mean 'batch1'"),
        ({"transform_batch": []}, r"transform_batch=\[\] must name a batch. Available: 'batch0', 'batch1'"),
        ({"genes": ["gen7"]}, "Did you mean 'gene7'"),
        ({"genes": []}, r"genes=\[\] must name a gene. Available: "),
        ({"library_size": 0}, "library_size=0 must"),
        ({"library_size": "total"}, "'observed'"),
        ({"num_samples": 0}, "num_samples=0 must"),
    ],
)
def test_invalid_arguments(simulated, arguments, message):
    with pytest.raises(DataError, match=message):
        normalized_expression(simulated[0].copy(), simulated[1], **arguments)


def test_a_model_without_batches():
    cells = adata()
    data = GeneExpressionData(cells)
    model = MODELS["gaussian"](ZeroInflatedNegativeBinomial(), features=data.features)
    trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=data)
    with pytest.raises(DataError, match=r"transform_batch='b1' needs a model with batches.*Omit"):
        normalized_expression(cells, model, transform_batch="b1")


def test_genes_without_a_column_in_var():
    """Only .raw.var has the names of the model's genes, so a layer would be empty."""
    cells = adata()
    cells.var["id"] = [f"ENSG{number}" for number in range(cells.n_vars)]
    cells.raw = cells.copy()
    data = GeneExpressionData(cells, layer="raw", gene_name_key="id")
    model = MODELS["mixed"](ZeroInflatedNegativeBinomial(), features=data.features)
    trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    del cells.var["id"]
    with pytest.warns(UserWarning, match=r"12 of the model's 12 genes, such as 'ENSG0', are not in .var"):
        normalized_expression(cells, model)
    assert list(cells.layers) == ["counts"]
    assert cells.uns["vaekit_normalized"]["genes"].tolist() == [f"ENSG{number}" for number in range(12)]
    np.testing.assert_allclose(cells.obsm["vaekit_normalized"].sum(1), 1e4, rtol=1e-4)
    assert normalized_expression(cells, model, genes=["ENSG3", "ENSG1"]).columns.tolist() == ["ENSG3", "ENSG1"]
