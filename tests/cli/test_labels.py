"""Labels in the training commands: flags, configurations, the printed help, and messages for wrong combinations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import vaekit
from vaekit.cli.main import main
from vaekit.data import simulate_counts

QUICK = ("--max_steps", "4", "--accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--figure", "none")
FIT = ("fit", "cells.h5ad", *QUICK, "--trainer.logger", "false")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, with 150 cells of which 40 have a label in the column "type"."""
    cells = simulate_counts(cells=150, genes=30, clusters=2, batches=2, seed=1)
    labels = cells.obs["cluster"].astype(str).to_numpy(dtype=object)
    cells.obs["type"] = np.where(np.arange(150) < 110, "Unknown", labels)
    cells.obs["one"] = np.where(np.arange(150) < 110, "", "T")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_labels_flag_trains_the_model_of_python(directory: Path) -> None:
    assert main([*FIT, "--labels", "type", "--extra", "1"]) == 0
    model = vaekit.fit("cells.h5ad", labels="type", extra=1, max_steps=4, progress=False, accelerator="cpu")
    trained = vaekit.load("runs/cells/best.ckpt")
    assert trained.label_names == model.label_names == ("cluster0", "cluster1", "unnamed 1")
    assert trained.label_latent == "y"
    assert trained.data_registry["observed_categories"] == {"type": ["cluster0", "cluster1"]}
    weights = trained.state_dict()
    assert all(weights[name].equal(value) for name, value in model.state_dict().items())
    config = yaml.safe_load(Path("runs/cells/config.yaml").read_text())
    assert config["data"]["init_args"]["observed_key"] == "type"
    assert config["model"]["init_args"]["latents"]["y"]["init_args"]["observed_key"] == "type"


@pytest.mark.exhaustive
def test_labels_of_a_configuration(directory: Path) -> None:
    config = ["--config", "pbmc_labels", "--labels", "type", "--directory", "runs/a"]
    assert main([*FIT, *config]) == 0
    assert vaekit.load("runs/a/last.ckpt").label_names == ("cluster0", "cluster1")
    assert main(["test", "--ckpt_path", "runs/a/last.ckpt"]) == 0  # the checkpoint configures the data


def test_a_labeled_run_is_resumed(directory: Path) -> None:
    assert main([*FIT, "--labels", "type"]) == 0
    assert main([*FIT, "--labels", "type", "--max_steps", "6", "--ckpt_path", "last"]) == 0
    assert vaekit.load("runs/cells/last.ckpt").label_names == ("cluster0", "cluster1")


def test_classes_of_digits(directory: Path) -> None:
    latents = {
        "y": {"class_path": "Categorical", "init_args": {"observed_key": "label", "learned_prior": True}},
        "z": {"class_path": "Gaussian", "init_args": {"dim": 4, "parents": ["y"], "conditional_posterior": True}},
    }
    flags = [f"--model.latents={yaml.safe_dump(latents, default_flow_style=True, width=1000).strip()}"]
    run = ["--trainer.logger", "false", "--directory", "runs/digits"]
    assert main(["fit", "--config", "digits_mixed", *QUICK, *run, *flags]) == 0
    assert vaekit.load("runs/digits/last.ckpt").label_names == tuple(map(str, range(10)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--labels", "typ"], "observed_key='typ' not found in .obs"),
        (["--labels", "type", "--latents", "mixed"], "labels='type' cannot be combined with latents='mixed'"),
        (["--latents", "labels"], "latents='labels' requires labels"),
        (["--labels", "one"], "observed_key='one' has the single category 'T'. Label some"),
        (["--labels", "type", "--model.latents.y.categories", "5"], "categories=5, but observed_key='type' has 2"),
        (["--labels", "type", "--data.observed_key", "one"], "data.observed_key='one' must be 'type'"),
        (["--labels", "type", "--batch_key", "type"], "observed_key='type' is also a batch or covariate"),
        (["--data.observed_key", "type"], "no latent uses the observed_key='type'"),
        (["--labels", "type", "--unlabeled_category", "unknwn"], "unlabeled_category='unknwn' not found"),
    ],
)
def test_rejected_combinations(
    directory: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, *flags]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(directory.glob("runs/*/*.ckpt"))


def test_python_rejects_the_same(directory: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 1, "progress": False}
    with pytest.raises(vaekit.exceptions.ConfigError, match="latents='labels' requires labels"):
        vaekit.fit("cells.h5ad", "labels", **settings)
    with pytest.raises(vaekit.exceptions.DataError, match="observed_key='typ' not found"):
        vaekit.fit("cells.h5ad", labels="typ", **settings)
