"""Functions work under torch's global settings of a user, leave them as they are, and accept very few cells."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData

import vaekit
from vaekit import analysis
from vaekit.data import simulate_counts
from vaekit.exceptions import ConfigError
from vaekit.models import VAE
from vaekit.plotting.embedding_figures import leiden_clusters, umap_coordinates


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return simulate_counts(cells=60, genes=20, clusters=2, batches=2)


@pytest.fixture(scope="module")
def model(cells: AnnData) -> VAE:
    return vaekit.fit(cells, batch_key="batch", max_steps=3, progress=False)


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def renamed(cells: AnnData) -> AnnData:
    new = cells.copy()
    new.obs["batch"] = "new"
    return new


FUNCTIONS: dict[str, Callable[[AnnData, VAE], Any]] = {
    "embed": lambda cells, model: analysis.embed(cells.copy(), model),
    "plot_umap": lambda cells, model: analysis.plot_umap(cells, model),
    "differential_expression": lambda cells, model: analysis.differential_expression(
        cells, model, "cluster", "cluster0", "cluster1"
    ),
    "normalized_expression": lambda cells, model: analysis.normalized_expression(cells.copy(), model),
    "posterior_predictive_check": lambda cells, model: analysis.posterior_predictive_check(cells, model),
    "map_query": lambda cells, model: analysis.map_query(renamed(cells), model, max_epochs=1, progress=False),
    "fit": lambda cells, model: vaekit.fit(cells, max_steps=2, progress=False),
}


def states_of_generators() -> list[Any]:
    return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_random_states_and_gradients_stay(name: str, cells: AnnData, model: VAE) -> None:
    before = states_of_generators()
    FUNCTIONS[name](cells, model)
    assert states_of_generators() == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "fit"])
def test_another_default_precision(name: str, cells: AnnData, model: VAE, float64_by_default: None) -> None:
    FUNCTIONS[name](cells, model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_model_keeps_its_precision(cells: AnnData, model: VAE, tmp_path: Any, float64_by_default: None) -> None:
    vaekit.save(model, tmp_path / "model.ckpt")
    loaded = vaekit.load(tmp_path / "model.ckpt")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    first, second = cells.copy(), cells.copy()
    analysis.embed(first, model)
    analysis.embed(second, loaded)
    np.testing.assert_array_equal(first.obsm["X_vaekit"], second.obsm["X_vaekit"])


def test_weights_of_64_bits_need_the_precision_of_the_trainer(cells: AnnData, float64_by_default: None) -> None:
    with pytest.raises(ConfigError, match=r"weights have 64 bits.*precision='64-true'"):
        vaekit.fit(cells, max_steps=2, progress=False)
    model = vaekit.fit(cells, max_steps=2, progress=False, precision="64-true")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_inference_mode_is_rejected(cells: AnnData) -> None:
    with torch.inference_mode(), pytest.raises(ConfigError, match="inference_mode"):
        vaekit.fit(cells, max_steps=2, progress=False)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_very_few_cells_have_a_figure(count: int, cells: AnnData, model: VAE) -> None:
    analysis.plot_umap(cells[:count].copy(), model)
    points = np.random.default_rng(0).normal(size=(count, 1)).astype(np.float32)
    assert umap_coordinates(points).shape == (count, 2)
    assert len(leiden_clusters(points)) == count
