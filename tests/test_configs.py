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

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.fixture
def few_images(tmp_path: Path) -> Path:
    """A folder with 60 + 20 random images in MNIST's own file format."""
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


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_runs_for_two_steps(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = tmp_path / "run"
    arguments = ["fit", "--config", str(path), "--trainer.default_root_dir", str(folder), "--trainer.max_steps", "2"]
    arguments += ["--trainer.logger", "false", "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "1"]
    if path.stem.startswith("mnist"):
        arguments += ["--data.root", str(request.getfixturevalue("few_images"))]
    assert main(arguments) == 0
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_is_complete_and_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 40
    assert text.startswith("#")
    config = yaml.safe_load(text)
    assert {"seed_everything", "data", "model", "trainer"} == set(config)
    assert config["trainer"]["default_root_dir"] == f"runs/{path.stem}"


def test_all_are_here() -> None:
    names = {path.stem for path in CONFIGS}
    assert {
        f"{data}_{kind}" for data in ("pbmc", "digits", "mnist") for kind in ("gaussian", "discrete", "mixed")
    } <= names
