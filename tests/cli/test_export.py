"""``vaekit export``, and commands that read its output."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pytest
from models.tiny import adata, trainer

from vaekit import GaussianVAE
from vaekit.cli.main import main
from vaekit.data import GeneExpressionData
from vaekit.likelihoods import NegativeBinomial

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the shipped mixed configuration, cut short, and its export in ``exported``."""
    folder = tmp_path_factory.mktemp("run")
    common = ["fit", "--config", str(ROOT / "configs/pbmc_mixed.yaml"), "--trainer.default_root_dir", str(folder)]
    assert main([*common, "--trainer.logger", "false", "--trainer.max_steps", "4"]) == 0
    assert main(["export", str(folder / "last.ckpt"), "-o", str(folder / "exported")]) == 0
    return folder


def test_embed_gives_the_same(trained: Path, tmp_path: Path) -> None:
    found = []
    for name in ("last.ckpt", "exported"):
        assert main(["embed", str(trained / name), "-o", str(tmp_path / f"{name}.h5ad")]) == 0
        found.append(anndata.read_h5ad(tmp_path / f"{name}.h5ad"))
    for key in ("X_vaekit", "vaekit_y_probabilities"):
        np.testing.assert_array_equal(found[0].obsm[key], found[1].obsm[key])
    assert (found[0].obs["vaekit_y"] == found[1].obs["vaekit_y"]).all()


def test_evaluate_gives_the_same(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = []
    for name in ("last.ckpt", "exported"):
        assert main(["evaluate", str(trained / name), "--num_samples", "5", "--json"]) == 0
        records.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert records[0] == records[1]


@pytest.mark.parametrize("num_files", [1, 2])
def test_no_path_of_the_training_machine(
    num_files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home of a user"
    home.mkdir()
    files = [home / f"cells{number}.h5ad" for number in range(num_files)]
    for number, file in enumerate(files):
        cells = adata(seed=number)
        cells.obs_names = [f"{number}_{name}" for name in cells.obs_names]
        cells.write_h5ad(file)
    data = GeneExpressionData(path=[str(file) for file in files] if num_files > 1 else str(files[0]))
    run = trainer(home, max_steps=1)
    run.fit(GaussianVAE(data.features, NegativeBinomial(), hidden=[4]), data)
    run.save_checkpoint(home / "last.ckpt")
    exported = tmp_path / "exported"
    assert main(["export", str(home / "last.ckpt"), "-o", str(exported)]) == 0
    for file in exported.iterdir():
        assert home.name.encode() not in file.read_bytes()
    assert "cells0.h5ad" in (exported / "model.json").read_text()
    home.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["evaluate", str(exported), "--num_samples", "2"]) == 2
    error = capsys.readouterr().err
    assert "does not store the directory of its training data (cells0.h5ad" in error
    assert "Pass the path of the cells (evaluate: --data.path)" in error
    path = str(tmp_path / "elsewhere" / "cells0.h5ad")
    assert main(["evaluate", str(exported), "--num_samples", "2", "--data.path", path]) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["evaluate", str(exported), "--num_samples", "2"]) == 0


def test_training_goes_on_from_checkpoints_only(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ROOT / "configs/pbmc_mixed.yaml"
    for command in (["fit", "--config", str(config)], ["validate"]):
        assert main([*command, "--ckpt_path", str(trained / "exported")]) == 2
        assert "vaekit export" in capsys.readouterr().err


def test_nothing_is_written_over(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(trained / "last.ckpt"), "-o", str(trained)]) == 2
    assert "exists" in capsys.readouterr().err
