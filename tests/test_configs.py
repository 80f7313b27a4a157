"""Every shipped configuration is complete, short, and runs."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from vaekit.cli.main import main
from vaekit.plotting import embedding_figures

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if not path.stem.startswith("sweep"))
SWEEP = yaml.safe_load((FOLDER / "sweep_estimators.yaml").read_text())


@pytest.fixture
def few_images(tmp_path: Path) -> Path:
    """Directory with 60 + 20 random images in MNIST's file format."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        with gzip.open(raw / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes())
        with gzip.open(raw / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">II", 2049, count) + labels.tobytes())
    return tmp_path / "data"


def omit_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace UMAP, the drawing of figures and the report; figures are still composed."""
    monkeypatch.setattr(embedding_figures, "umap_coordinates", lambda points, seed=0: points[:, :2])
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **kwargs: file.write(b"drawn"))
    monkeypatch.setattr("vaekit.cli.training_messages.report_run", lambda *args: "")


# tests/models/test_ddp.py runs cluster_ddp, in separate processes
@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem != "cluster_ddp"], ids=lambda path: path.stem)
def test_runs_for_two_steps(
    path: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.stem != "pbmc_mixed":  # drawing takes longer than the run
        omit_drawing(monkeypatch)
    folder = tmp_path / "run"
    arguments = ["fit", "--config", str(path), "--trainer.default_root_dir", str(folder), "--trainer.max_steps", "2"]
    arguments += ["--trainer.logger", "false", "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "1"]
    if path.stem.startswith("mnist"):
        arguments += ["--data.root", str(request.getfixturevalue("few_images"))]
    assert main(arguments) == 0
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


# MNIST's are the same models on more pixels, and would need a download
@pytest.mark.parametrize(
    "name", ["digits_discrete", "digits_mixed", "pbmc_mixed", "pbmc_sequential", "pbmc_states", "pbmc_topics"]
)
def test_64_true_ends(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With figures; the model is loaded and exported in its precision."""
    import vaekit

    omit_drawing(monkeypatch)
    arguments = ["fit", "--config", str(FOLDER / f"{name}.yaml"), "--trainer.precision", "64-true"]
    arguments += ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.max_steps", "1"]
    arguments += ["--trainer.logger", "false", "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "1"]
    assert main(arguments) == 0
    checkpoint = tmp_path / "run/last.ckpt"
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "exported")]) == 0
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    for path in (checkpoint, tmp_path / "exported"):
        model = vaekit.load(path)
        assert all(value.equal(weights[key]) for key, value in model.state_dict().items())
        assert {value.dtype for value in model.parameters()} == {torch.float64}
    assert (tmp_path / "run/figures/loss_curves.png").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_is_complete_and_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 40
    assert text.startswith("#")
    config = yaml.safe_load(text)
    assert {"seed_everything", "data", "model", "trainer"} == set(config)
    assert config["trainer"]["default_root_dir"] == f"runs/{path.stem}"


@pytest.mark.parametrize("name", ["digits_discrete", "mnist_discrete", "mnist_bernoulli", "mnist_mixed"])
def test_one_flag_changes_the_estimator(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """And takes no argument over from the estimator that was there."""
    from vaekit.cli.instantiate import instantiate

    config, root = yaml.safe_load((FOLDER / f"{name}.yaml").read_text()), []
    if name.startswith("mnist"):
        root = ["--data.root", str(request.getfixturevalue("few_images"))]
    (latent,) = [n for n in config["model"]["init_args"].get("latents", {"y": None}) if n != "z"]
    key = "model.estimator" if "estimator" in config["model"]["init_args"] else f"model.latents.{latent}.estimator"
    common = ["--config", str(FOLDER / f"{name}.yaml"), "--trainer.logger", "false", *root]
    cli = instantiate([*common, "--trainer.default_root_dir", str(tmp_path), f"--{key}", "ReinMax"])
    assert cli.model.estimators[latent].config["init_args"] == {"temperature": 1.0, "num_samples": 1}


@pytest.mark.parametrize("estimator", SWEEP["parameters"]["model.estimator"]["values"])
def test_the_sweep_makes_each_estimator(estimator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the very words that the agent of Weights & Biases puts together."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    from vaekit.cli.instantiate import instantiate

    choice = {"model.estimator": estimator, "seed_everything": 1, "trainer.max_epochs": 3}
    flags = create_sweep_command_args({"args": {name: {"value": value} for name, value in choice.items()}})["args"]
    words = [word for part in SWEEP["command"] for word in ({"${args}": flags, "${env}": []}.get(part, [part]))]
    assert words[:2] == ["vaekit", "fit"]
    monkeypatch.chdir(FOLDER.parent)  # where the README calls it from
    cli = instantiate([*words[2:], "--trainer.default_root_dir", str(tmp_path), "--trainer.logger", "false"])
    assert type(cli.model.estimators["y"]).__name__ == estimator
    assert cli.trainer.max_epochs == 3
    assert torch.initial_seed() == 1


def test_the_search_changes_the_model(tmp_path: Path) -> None:
    """Each parameter is a key of the model of the sweep's command, at both ends of its range."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    from vaekit.cli.instantiate import instantiate

    sweep = yaml.safe_load((FOLDER / "sweep_tune.yaml").read_text())
    assert (sweep["method"], sweep["metric"]) == ("bayes", SWEEP["metric"])
    assert sweep["early_terminate"]["type"] == "hyperband"
    models = []
    for end in (0, -1):
        ranges = {name: p.get("values") or [p["min"], p["max"]] for name, p in sweep["parameters"].items()}
        arguments = {"args": {name: {"value": values[end]} for name, values in ranges.items()}}
        flags = create_sweep_command_args(arguments)["args"]
        words = [word for part in sweep["command"] for word in ({"${args}": flags, "${env}": []}.get(part, [part]))]
        cli = instantiate([*words[2:], "--trainer.default_root_dir", str(tmp_path), "--trainer.logger", "false"])
        models.append(cli.model.hparams)
        assert models[-1]["learning_rate"] == ranges["model.learning_rate"][end]
    keys = {name.split(".")[1] for name in sweep["parameters"]}
    assert all(models[0][key] != models[1][key] for key in keys)


def test_the_sweep_is_one() -> None:
    assert set(SWEEP) == {"project", "name", "method", "metric", "parameters", "command"}
    assert (SWEEP["method"], SWEEP["metric"]) == ("grid", {"name": "val/elbo", "goal": "maximize"})
    assert all(("values" in p) != ("value" in p) for p in SWEEP["parameters"].values())


def test_all_are_here() -> None:
    names = {path.stem for path in CONFIGS}
    assert {
        f"{data}_{kind}" for data in ("pbmc", "digits", "mnist") for kind in ("gaussian", "discrete", "mixed")
    } <= names
