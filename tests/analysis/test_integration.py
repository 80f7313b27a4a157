"""Integration scores: cells in an order by content, clear messages, and the metrics of scib-metrics if installed."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from anndata import AnnData

from vaekit.analysis import integration, integration_scores, scib
from vaekit.analysis.integration import principal_components, read_labeled_cells
from vaekit.analysis.scib import repeated_labels, scib_scores, scored_batches
from vaekit.data import GeneExpressionData
from vaekit.exceptions import DataError, MissingPackageError

installed = pytest.mark.skipif(
    any(find_spec(module) is None for module in scib.PACKAGES), reason="needs the extra metrics"
)


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scib, "find_spec", lambda module: None)


@pytest.fixture
def with_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scib, "find_spec", lambda module: module)


def test_missing_packages_are_named_with_their_command(simulated, without_packages) -> None:
    with pytest.raises(MissingPackageError, match=r'scib-metrics and harmonypy.*pip install "vaekit\[metrics\]"'):
        integration_scores(*simulated, "cluster")


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda cells: cells[:60].copy(), {"label_key": "cluster"}, "has 60 cells with a label .* at least 91"),
        (lambda cells: cells, {"label_key": "type"}, "label_key='type' not found"),
        (lambda cells: cells, {"label_key": "cluster", "embeddings": ["X_scVI"]}, "'X_scVI' not found in .obsm"),
        (lambda cells: _labeled(cells, "T cell"), {"label_key": "type"}, "the label 'T cell', .* two labels"),
        (lambda cells: _labeled(cells, None), {"label_key": "type"}, "has 0 cells with a label"),
    ],
)
def test_errors_come_before_long_work(simulated, with_packages, monkeypatch, change, arguments, message) -> None:
    adata, model = simulated
    monkeypatch.setattr(integration, "read_labeled_cells", lambda *_: pytest.fail("cells were read"))
    with pytest.raises(DataError, match=message):
        integration_scores(change(adata), model, **arguments)


def _labeled(cells: AnnData, label: str | None) -> AnnData:
    cells = cells.copy()
    cells.obs["type"] = np.full(cells.n_obs, label, dtype=object)
    return cells


def test_labels_that_occur_once_are_not_scored() -> None:
    labels = np.repeat([0, 1, 2], [89, 2, 1])
    assert (repeated_labels(labels, "cells") == (labels < 2)).all()
    with pytest.raises(DataError, match="90 cells"):
        repeated_labels(np.repeat([0, 1, 2], [88, 2, 1]), "cells")
    with pytest.raises(DataError, match="the label '0'"):
        repeated_labels(np.repeat([0, 1], [91, 1]), "cells")


def test_batches_need_a_label_in_two_of_them() -> None:
    labels, batches = np.repeat(["a", "b"], 4), np.array(["1", "2"] * 4)
    assert scored_batches(labels, batches) is batches
    assert scored_batches(labels, labels) is None
    assert scored_batches(labels, None) is None


def loader(adata: AnnData):
    return GeneExpressionData(adata, batch_key="batch", label_key="cluster").dataloader("all", 100)


def test_labeled_cells_do_not_depend_on_the_order_of_the_data(simulated) -> None:
    adata, model = simulated
    permutation = np.random.default_rng(0).permutation(adata.n_obs)
    first, second = (read_labeled_cells(model, loader(cells)) for cells in (adata, adata[permutation].copy()))
    assert (first.counts != second.counts).nnz == 0
    assert (first.labels == second.labels).all()
    assert (first.batches == second.batches).all()
    np.testing.assert_allclose(first.latents, second.latents, atol=1e-5)
    assert (permutation[second.rows] == first.rows).all()
    assert (adata.X[first.rows] != first.counts).nnz == 0
    names = np.array(sorted(set(adata.obs["cluster"].astype(str))))
    assert (names[first.labels] == adata.obs["cluster"].astype(str).to_numpy()[first.rows]).all()
    assert (principal_components(first.counts) == principal_components(second.counts)).all()


def test_cells_without_a_label_are_ignored_and_large_data_are_thinned_out(simulated, monkeypatch) -> None:
    adata, model = simulated
    cells = adata.copy()
    cells.obs["cluster"] = cells.obs["cluster"].astype(object)
    cells.obs.iloc[::2, cells.obs.columns.get_loc("cluster")] = None
    found = read_labeled_cells(model, loader(cells))
    assert sorted(found.rows) == list(range(1, adata.n_obs, 2))
    monkeypatch.setattr(integration, "MAX_CELLS", 401)
    assert sorted(read_labeled_cells(model, loader(adata)).rows) == list(range(0, adata.n_obs, 3))


@installed
class TestScores:
    def test_latents_next_to_pca_and_harmony(self, simulated) -> None:
        adata, model = simulated
        cells = adata[:400].copy()
        cells.obsm["X_noise"] = np.random.default_rng(0).normal(size=(400, 4))
        scores = integration_scores(cells, model, "cluster", embeddings=["X_noise"])
        assert list(scores.index) == ["vaekit", "PCA", "Harmony", "X_noise"]
        assert list(scores.columns[-3:]) == ["Batch correction", "Bio conservation", "Total"] or list(
            scores.columns[-3:]
        ) == ["Bio conservation", "Batch correction", "Total"]
        assert ((scores >= 0) & (scores <= 1)).all(axis=None)
        total = 0.6 * scores["Bio conservation"] + 0.4 * scores["Batch correction"]
        np.testing.assert_allclose(scores["Total"], total)
        assert scores.loc["X_noise", "Bio conservation"] < scores.loc["vaekit", "Bio conservation"]
        permuted = cells[np.random.default_rng(1).permutation(400)].copy()
        again = integration_scores(permuted, model, "cluster", embeddings=["X_noise"])
        np.testing.assert_allclose(scores, again, atol=2e-3)

    def test_without_batches_cell_types_only(self) -> None:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 120)
        labels[0] = 3  # occurs once
        values = labels[:, None] * 3.0 + rng.normal(size=(120, 5))
        noise = rng.normal(size=(120, 5))
        scores = scib_scores({"a": values, "b": noise}, values, labels)
        without = scib_scores({"a": values[1:], "b": noise[1:]}, values[1:], labels[1:])
        assert scores.equals(without)
        assert list(scores.columns) == [
            "KMeans NMI", "KMeans ARI", "Silhouette label", "cLISI", "Bio conservation"
        ]  # fmt: skip
        assert scores.loc["a", "Bio conservation"] > scores.loc["b", "Bio conservation"] + 0.2

    def test_stdout_stays_free(self, capsys) -> None:
        """scib-metrics notes on stdout that a label is skipped; a command prints JSON there."""
        rng = np.random.default_rng(0)
        labels, batches = np.repeat(["a", "b"], [110, 10]), np.repeat(["1", "2"], 60)
        scib_scores({"z": rng.normal(size=(120, 3))}, rng.normal(size=(120, 3)), labels, batches)
        assert capsys.readouterr().out == ""

    def test_values_that_are_not_finite(self) -> None:
        with pytest.raises(DataError, match="'z' contains values that are not finite"):
            scib_scores({"z": np.full((100, 2), np.nan)}, np.zeros((100, 2)), np.repeat([0, 1], 50))


def test_evaluate_prints_scores_and_json(simulated, monkeypatch, tmp_path, capsys) -> None:
    """The command scores all cells, but computes the likelihood of the test cells."""
    import json

    import pandas as pd

    from vaekit import GaussianVAE
    from vaekit.cli.main import main
    from vaekit.likelihoods import NegativeBinomial
    from vaekit.models import save

    adata, _ = simulated
    adata.write_h5ad(tmp_path / "cells.h5ad")
    data = GeneExpressionData(path=str(tmp_path / "cells.h5ad"), batch_key="batch", label_key="cluster")
    with torch.random.fork_rng(devices=[]):
        model = GaussianVAE(data.features, NegativeBinomial(), data.covariates, latent_dim=4, hidden=(32,))
    data.setup()
    model.data_registry = {**data.state_dict(), "source": data.source, "config": data.config}
    save(model, tmp_path / "model.ckpt")
    sizes = []

    def scores(cells, *_, **__):
        sizes.append(len(cells.labels))
        return pd.DataFrame({"iLISI": [0.5, float("nan")], "Total": [0.75, 0.25]}, index=["vaekit", "PCA"])

    monkeypatch.setattr(scib, "find_spec", lambda module: module)
    monkeypatch.setattr(integration, "score_cells", scores)
    command = ["evaluate", str(tmp_path / "model.ckpt"), "--num_samples", "2", "--json"]
    assert main(command) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    record = json.loads(last)
    assert record["observations"] == 120
    assert record["integration"] == {"vaekit": {"iLISI": 0.5, "Total": 0.75}, "PCA": {"iLISI": None, "Total": 0.25}}
    assert any("1200 cells with a label" in line for line in lines)
    assert any(line.split() == ["Total", "0.750", "0.250"] for line in lines)
    assert main([*command, "--split", "val"]) == 0
    assert sizes == [1200, 120]
    capsys.readouterr()

    monkeypatch.setattr(scib, "find_spec", lambda module: None)
    assert main(command) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["integration"] is None
    assert sum('pip install "vaekit[metrics]"' in line for line in lines) == 1
