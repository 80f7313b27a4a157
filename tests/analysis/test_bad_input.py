"""Data that do not fit a trained model are rejected by name, before anything is written."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from vaekit.analysis import (
    differential_expression,
    embed,
    map_query,
    normalized_expression,
    posterior_predictive_check,
    transfer_labels,
)
from vaekit.exceptions import DataError
from vaekit.models.vae_networks import VAENetworks

FUNCTIONS = {
    "embed": embed,
    "normalized_expression": normalized_expression,
    "posterior_predictive_check": posterior_predictive_check,
    "differential_expression": lambda cells, model: differential_expression(cells, model, "cluster", "cluster0"),
    "transfer_labels": lambda cells, model: transfer_labels(cells, cells, model, "cluster"),
}
ALL = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("embed", "`vaekit embed CKPT {} -o"),
        ("normalized_expression", "`vaekit denoise CKPT {} -o"),
        ("transfer_labels", "query_adata='{}' is a path.*read_h5ad"),
    ],
)
def test_a_path_is_rejected_before_any_work(simulated, name, command, tmp_path, monkeypatch):
    path = tmp_path / "cells.h5ad"
    simulated[0][:50].write_h5ad(path)
    before = path.read_bytes()
    monkeypatch.setattr(VAENetworks, "encode", lambda *_: pytest.fail("the model ran"))
    function = FUNCTIONS[name]
    for argument in (path, str(path)):
        with pytest.raises(DataError, match=command.format(path)):
            function(argument, simulated[1])
    with pytest.raises(DataError, match="adata has type NoneType, but must be an AnnData"):
        function(None, simulated[1])
    part = anndata.read_h5ad(path, backed="r")[:20]
    with pytest.raises(DataError, match=r"adata is a view of a backed AnnData, .*adata.to_memory\(\)"):
        function(part, simulated[1])
    assert path.read_bytes() == before


def log_normalized(cells: AnnData) -> AnnData:
    normalized = cells.copy()
    x = cells.X.toarray()
    normalized.X = sp.csr_matrix(np.log1p(1e4 * x / np.maximum(x.sum(1, keepdims=True), 1)).astype(np.float32))
    return normalized


def fields(cells: AnnData) -> list[list[str]]:
    return [list(table) for table in (cells.obs, cells.obsm, cells.layers, cells.uns)]


@ALL
def test_unknown_batches_are_listed(simulated, function):
    cells = simulated[0][:300].copy()
    cells.obs["batch"] = np.array(["batch0", "d7", "batch1", "d8"])[np.arange(300) % 4]
    before = fields(cells)
    with pytest.raises(DataError, match=r"'d7', 'd8'. It knows 'batch0', 'batch1'. .*map_query"):
        function(cells, simulated[1])
    assert fields(cells) == before


def test_many_unknown_batches_are_counted(simulated):
    cells = simulated[0].copy()
    cells.obs["batch"] = [f"d{i % 30:02d}" for i in range(cells.n_obs)]
    with pytest.raises(DataError, match=r"'d18', 'd19' and 10 more. It knows"):
        embed(cells, simulated[1])


@ALL
def test_a_missing_batch_column(simulated, function):
    cells = simulated[0][:50].copy()
    del cells.obs["batch"]
    with pytest.raises(DataError, match=r"batch_key='batch' not found in .obs.*Available: 'cluster'"):
        function(cells, simulated[1])


@ALL
def test_log_normalized_data_are_recognized(simulated, function):
    cells = log_normalized(simulated[0][:80])
    with pytest.raises(DataError, match=r"not whole.*log1p of counts scaled to 1e\+04 per cell.* No other"):
        function(cells, simulated[1])
    cells.layers["umi"] = simulated[0][:80].X.copy()
    with pytest.raises(DataError, match=r"log-normalized.*Counts are available: pass layer='umi'"):
        function(cells, simulated[1])
    assert list(filter(None, cells.layers)) == ["umi"]


@ALL
def test_few_genes(simulated, function):
    few, half = simulated[0][:60, :14].copy(), simulated[0][:60, :75].copy()
    with pytest.raises(DataError, match=r"14 of the checkpoint's 150 genes, which carry \d+ %.*at least 10 % of the"):
        function(few, simulated[1])
    with pytest.warns(UserWarning, match="lacks 75 of the checkpoint's 150 genes; they are treated as unobserved"):
        function(half, simulated[1])


def test_missing_genes_are_not_zero_counts(simulated):
    """Unobserved genes move a cell less than genes with the count 0."""
    cells, model = simulated[0].copy(), simulated[1]
    lacking = cells[:, :100].copy()
    zeros = cells.copy()
    zeros.X = sp.csr_matrix(cells.X.toarray() * (np.arange(150) < 100))
    for one in (cells, zeros):
        embed(one, model)
    with pytest.warns(UserWarning, match="lacks 50"):
        embed(lacking, model)
    distance = {
        name: np.linalg.norm(one.obsm["X_vaekit"] - cells.obsm["X_vaekit"], axis=1).mean()
        for name, one in (("unobserved", lacking), ("zeros", zeros))
    }
    assert distance["unobserved"] < 0.9 * distance["zeros"]


def test_a_query_with_missing_genes_is_mapped(simulated):
    query = simulated[0][:200, 30:].copy()
    query.obs["batch"] = "new"
    with pytest.warns(UserWarning, match="lacks 30 of the checkpoint's 150 genes"):
        mapped = map_query(query, simulated[1], max_epochs=5)
    shift = mapped.networks.likelihood.composition_shift[2]
    assert shift.isfinite().all()
    assert shift[:30].abs().max() < shift[30:].abs().max()
    with pytest.raises(DataError, match="at least 10 % of the genes"):
        map_query(query[:, :10].copy(), simulated[1])


@ALL
def test_a_single_cell(simulated, function):
    cells = simulated[0][:1].copy()
    if function is FUNCTIONS["differential_expression"]:
        cells.obs["cluster"] = "cluster0"
        with pytest.raises(DataError, match="all cells of AnnData in memory are in group1"):
            function(cells, simulated[1])
    else:
        function(cells, simulated[1])
        assert cells.n_obs == 1


def test_a_group_without_cells(simulated):
    cells = simulated[0][simulated[0].obs["cluster"] != "cluster2"].copy()
    cells.obs["cluster"] = cells.obs["cluster"].cat.set_categories(["cluster0", "cluster1", "cluster2"])
    for groups in (("cluster2", "cluster0"), ("cluster0", "cluster2")):
        with pytest.raises(DataError, match=r"'cluster2' not found in .obs\['cluster'\] of AnnData in memory"):
            differential_expression(cells, simulated[1], "cluster", *groups)
