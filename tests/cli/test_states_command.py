"""The command `states`: runs of several seeds, both formats, the figure, and wrong use before long work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from models.tiny import trainer

from vaekit import DiscreteVAE, GaussianVAE
from vaekit.analysis import states
from vaekit.cli.main import main
from vaekit.cli.state_commands import find_checkpoints
from vaekit.data import GeneExpressionData, simulate_counts
from vaekit.likelihoods import NegativeBinomial
from vaekit.models.vae_networks import VAENetworks


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells in one file and in two, and the directory of a run with three seeds, of which two are finished."""
    made = tmp_path_factory.mktemp("states")
    cells = simulate_counts(200, 40, clusters=3, de_fraction=0.6, lfc_scale=2.0, programs=1, seed=0)
    cells.write_h5ad(made / "cells.h5ad")
    cells[:80].copy().write_h5ad(made / "first.h5ad")
    cells[80:].copy().write_h5ad(made / "second.h5ad")
    gaussian = (GaussianVAE, {"latent_dim": 4}, 60)
    kinds: dict[Any, Any] = {9: gaussian, 10: gaussian, 11: gaussian, "discrete": (DiscreteVAE, {}, 1)}
    for seed, (model_class, arguments, epochs) in kinds.items():
        data = GeneExpressionData(path=str(made / "cells.h5ad"), batch_size=32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0 if seed == "discrete" else seed)
            model = model_class(data.features, NegativeBinomial(), hidden=(16,), learning_rate=0.01, **arguments)
            (used := trainer(max_epochs=epochs, limit_val_batches=0)).fit(model, datamodule=data)
        (made / "run" / f"seed_{seed}").mkdir(parents=True)
        used.save_checkpoint(made / "run" / f"seed_{seed}" / "last.ckpt")
    (made / "run" / "seeds.csv").write_text("seed,val_elbo,steps\n10,-1,2\n9,-1,2\n", encoding="utf-8")
    return made


def test_run_directory_means_its_finished_seeds_in_numerical_order(folder: Path) -> None:
    expected = [str(folder / "run" / f"seed_{seed}" / "last.ckpt") for seed in (9, 10)]
    assert find_checkpoints([str(folder / "run")]) == expected
    assert find_checkpoints([str(folder / "run" / "seed_11"), "model.ckpt"]) == [
        str(folder / "run" / "seed_11" / "last.ckpt"), "model.ckpt"
    ]  # fmt: skip


def test_h5ad_holds_the_result_of_the_function(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("states", folder / "run", "-o", tmp_path / "states.h5ad") == 0
    written, expected = anndata.read_h5ad(tmp_path / "states.h5ad"), anndata.read_h5ad(folder / "cells.h5ad")
    states(expected, find_checkpoints([str(folder / "run")]))
    pd.testing.assert_series_equal(written.obs["vaekit_states"], expected.obs["vaekit_states"])
    np.testing.assert_allclose(
        written.obsm["vaekit_states_probabilities"], expected.obsm["vaekit_states_probabilities"], atol=1e-5
    )
    assert written.uns["vaekit_states"].keys() == expected.uns["vaekit_states"].keys()
    np.testing.assert_array_equal(written.X.toarray(), expected.X.toarray())
    assert float(imread(tmp_path / "states.png")[..., :3].std()) > 0.01
    printed = capsys.readouterr().out
    assert "200 cells" in printed
    assert "agreement of 2 models" in printed


def test_csv_of_several_files_has_a_row_per_cell(folder: Path, tmp_path: Path) -> None:
    files = [folder / "first.h5ad", folder / "second.h5ad"]
    assert run("states", folder / "run", "--data", *files, "-o", tmp_path / "states.csv", "--num_states", 2) == 0
    table = pd.read_csv(tmp_path / "states.csv", index_col="cell")
    assert table["vaekit_file"].value_counts().to_dict() == {"first": 80, "second": 120}
    assert set(table["vaekit_states"]) == {0, 1}
    np.testing.assert_allclose(table.filter(like="probabilities").sum(1), 1, rtol=1e-5)
    markers = pd.read_csv(tmp_path / "states_markers.csv")
    assert {"num_states", "state", "gene", "log2_fold_change"} <= set(markers)
    assert {path.name for path in tmp_path.iterdir()} == {"states.csv", "states_markers.csv", "states.png"}


def test_wrong_use_is_found_before_the_cells_are_embedded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("long work began")

    monkeypatch.setattr(VAENetworks, "encode", never)
    (tmp_path / "there.csv").write_text("mine", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "seeds.csv").write_text("seed,val_elbo,steps\n", encoding="utf-8")
    ckpt = folder / "run" / "seed_9" / "last.ckpt"
    for arguments, message in {
        (ckpt, "-o", tmp_path / "there.csv"): "exists",
        (ckpt, "-o", tmp_path / "states.png"): "must end in .h5ad or .csv",
        (ckpt, ckpt, "-o", tmp_path / "a.csv"): "same weights",
        (ckpt, folder / "run" / "seed_discrete", "-o", tmp_path / "a.csv"): "does not have a Gaussian latent",
        (tmp_path / "empty", "-o", tmp_path / "a.csv"): "does not contain a finished run",
        (ckpt, "-o", tmp_path / "a.csv", "--num_states", 0): "num_states=0 must be at least 1",
        (tmp_path / "none.ckpt", "-o", tmp_path / "a.csv"): "none.ckpt",
    }.items():
        assert run("states", *arguments) != 0
        assert message in capsys.readouterr().err
    assert (tmp_path / "there.csv").read_text(encoding="utf-8") == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"there.csv", "empty"}
