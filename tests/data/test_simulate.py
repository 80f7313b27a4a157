"""Simulated counts against what they claim to be drawn from."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from scipy import sparse
from scipy.special import softmax

from vaekit.data import simulate_counts
from vaekit.exceptions import DataError


def composition(adata: anndata.AnnData, batch: bool) -> np.ndarray:
    """rho of each cell from the tables that the simulator left."""
    cluster, sample = adata.obs["cluster"].cat.codes.to_numpy(), adata.obs["batch"].cat.codes.to_numpy()
    logits = adata.var["baseline"].to_numpy() + adata.varm["cluster_effects"].to_numpy().T[cluster]
    logits = logits + adata.obsm["programs"] @ adata.varm["programs"].T
    return softmax(logits + batch * adata.varm["batch_effects"].to_numpy().T[sample], axis=1)


@pytest.fixture(scope="module")
def cells() -> anndata.AnnData:
    return simulate_counts(1500, 120, clusters=3, batches=2, confounding=0.4, library_size=3000, seed=3)


def test_counts_have_the_mean_and_variance_of_the_negative_binomial(cells):
    x, theta = cells.X.toarray().astype(float), cells.var["inverse_dispersion"].to_numpy()
    mean = cells.obs["library_size"].to_numpy()[:, None] * composition(cells, batch=True)
    residual = (x - mean) / np.sqrt(mean + mean**2 / theta)
    # 240 z-values; |z| > 4.5 for one of them by chance in 0.2 % of all seeds, and the skewed squares somewhat oftener
    z = residual.sum(0) / np.sqrt(len(x))
    assert np.abs(z).max() < 4.5
    squares = residual**2 - 1
    z = squares.sum(0) / np.sqrt((squares**2).sum(0))
    assert np.abs(z).max() < 4.5


def test_true_compositions_are_the_means_over_the_clusters_cells_without_batches(cells):
    rho = composition(cells, batch=False)
    for name in cells.obs["cluster"].cat.categories:
        expected = rho[(cells.obs["cluster"] == name).to_numpy()].mean(0)
        np.testing.assert_allclose(cells.varm["composition"][name], expected, rtol=1e-10)


def test_form(cells):
    assert isinstance(cells.X, sparse.csr_matrix)
    assert cells.X.dtype == np.float32
    assert (cells.X.data == np.rint(cells.X.data)).all()
    assert cells.X.data.min() >= 1
    assert cells.obs["cluster"].nunique() == 3
    share = (cells.obs["cluster"].cat.codes % 2 == cells.obs["batch"].cat.codes).mean()
    assert abs(share - 0.7) < 4 * np.sqrt(0.7 * 0.3 / 1500)  # 0.4 + 0.6 / 2; by chance beyond in 1 of 16,000


def test_seed():
    one, same, other = (simulate_counts(50, 30, seed=seed) for seed in (0, 0, 1))
    assert (one.X != same.X).nnz == 0
    assert (one.X != other.X).nnz > 0


def test_sizes_batches_and_programmes_can_be_left_out(tmp_path):
    cells = simulate_counts(300, 20, clusters=2, programs=0, cluster_sizes=[9, 1], de_fraction=0, seed=2)
    assert (cells.obs["cluster"] == "cluster0").sum() > 230
    assert not cells.varm["batch_effects"].to_numpy().any()
    np.testing.assert_allclose(cells.varm["composition"]["cluster0"], cells.varm["composition"]["cluster1"], rtol=1e-12)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(again.varm["composition"], cells.varm["composition"])
    assert again.uns["simulation"]["seed"] == 2


def test_a_cluster_without_cells_has_no_mean():
    cells = simulate_counts(3, 10, clusters=2, cluster_sizes=[1, 1e-9], seed=0)
    assert np.isnan(cells.varm["composition"]["cluster1"]).all()
    assert np.isfinite(cells.varm["composition"]["cluster0"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cells": 0}, "cells=0"),
        ({"clusters": 0}, "clusters=0"),
        ({"cluster_sizes": [1.0]}, "each of the 5 clusters"),
        ({"cluster_sizes": [1, 1, 1, 1, 0]}, "positive"),
        ({"confounding": 1.5}, "confounding=1.5"),
        ({"batch_scale": -1.0}, "batch_scale=-1"),
        ({"library_size": 0.0}, "library_size=0"),
        ({"lfc_scale": float("nan")}, "lfc_scale=nan"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(DataError, match=message):
        simulate_counts(**arguments)
