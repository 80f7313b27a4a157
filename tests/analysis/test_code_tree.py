import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from models.tiny import trainer
from sklearn.metrics import adjusted_rand_score

from vaekit import DiscreteVAE
from vaekit.analysis import code_tree, embed
from vaekit.analysis.code_tree import _joint_probabilities
from vaekit.data import GeneExpressionData, simulate_counts
from vaekit.exceptions import DataError
from vaekit.latents import Categorical
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE


@pytest.fixture(scope="module")
def trained() -> tuple[AnnData, VAE]:
    cells = simulate_counts(300, 60, clusters=3, de_fraction=0.6, lfc_scale=2.0, programs=1, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = GeneExpressionData(cells, batch_size=32)
        arguments = {"variables": 3, "categories": 4, "hidden": (32,), "learning_rate": 0.01}
        model = DiscreteVAE(data.features, NegativeBinomial(), **arguments)
        trainer(max_epochs=30, limit_val_batches=0).fit(model, datamodule=data)
    return cells, model


def test_states_are_groups_of_codes_that_follow_the_clusters(trained: tuple[AnnData, VAE]) -> None:
    cells, model = trained[0].copy(), trained[1]
    table = code_tree(cells, model, num_states=3)
    embed(cells, model)
    codes = cells.obs["vaekit_y"]
    assert len(table) == codes.nunique() - 1
    assert set(cells.uns["vaekit_code_states"]["codes"]) == set(codes.cat.categories)
    before, after = (
        adjusted_rand_score(cells.obs["cluster"], cells.obs[key]) for key in ("vaekit_y", "vaekit_code_states")
    )
    assert after > before
    assert after > 0.6


def test_probabilities_of_joint_codes_are_products() -> None:
    latent = Categorical(2, variables=2)
    summary = torch.tensor([[0.9, 0.1, 0.8, 0.2], [0.2, 0.8, 0.6, 0.4]])
    codes = np.unique(latent.codes(summary).numpy(), axis=0)
    assert codes.tolist() == [[0, 0], [1, 0]]
    probabilities = _joint_probabilities(latent, summary, codes)
    np.testing.assert_allclose(probabilities, [[0.9, 0.1], [0.2, 0.8]], rtol=1e-6)


def test_bad_input(trained: tuple[AnnData, VAE]) -> None:
    cells, model = trained
    with pytest.raises(DataError, match="latent='z' not found in the model"):
        code_tree(cells, model, "z", num_states=2)
    with pytest.raises(DataError, match="num_states=0 must be at least 1"):
        code_tree(cells, model, num_states=0)
    with pytest.raises(DataError, match="num_states=9999 must be at least 1 and at most the number of codes"):
        code_tree(cells, model, num_states=9999)
    taken = cells.copy()
    taken.obs["vaekit_code_states"] = "mine"
    with pytest.raises(DataError, match="vaekit_code_states"):
        code_tree(taken, model, num_states=2)


def test_memory_does_not_grow_with_cells_times_codes(
    trained: tuple[AnnData, VAE], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, cells = trained[0].copy(), trained[0].copy()
    table = code_tree(expected, trained[1], num_states=3)
    module, sizes = sys.modules["vaekit.analysis.code_tree"], []
    joint = module._joint_probabilities

    def record(*arguments: Any) -> np.ndarray:
        sizes.append((result := joint(*arguments)).size)
        return result

    monkeypatch.setattr(module, "_joint_probabilities", record)
    monkeypatch.setattr(module, "MAX_VALUES", 200)
    pd.testing.assert_frame_equal(code_tree(cells, trained[1], num_states=3), table)
    assert max(sizes) <= 200
    assert (cells.obs["vaekit_code_states"] == expected.obs["vaekit_code_states"]).all()
    sizes.clear()
    monkeypatch.setattr(module, "MAX_CODES", 3)
    with pytest.raises(DataError, match="must be at most 3"):
        code_tree(trained[0].copy(), trained[1], num_states=3)
    assert not sizes  # nothing is computed for too many codes
