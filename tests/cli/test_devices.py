"""Commands on several devices: real processes of Lightning, each cell once, one output equal to that of one device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from anndata import AnnData
from models.tiny import trainer

from vaekit import VAE, GaussianVAE, save
from vaekit.analysis import device_prediction
from vaekit.analysis.device_prediction import check_devices, predict_on_devices
from vaekit.cli.main import main
from vaekit.data import GeneExpressionData, prepare_query, simulate_counts
from vaekit.data.cells.sources import open_counts
from vaekit.exceptions import ConfigError
from vaekit.likelihoods import NegativeBinomial

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).parents[2]
CELLS = 2500  # three mini-batches of 1,024: two processes do not have equally many


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return simulate_counts(CELLS, 30, clusters=2, batches=2, seed=4)


@pytest.fixture(scope="module")
def model(cells: AnnData) -> VAE:
    torch.manual_seed(0)
    data = GeneExpressionData(cells, batch_key="batch", label_key="cluster")
    model = GaussianVAE(data.features, NegativeBinomial(), data.covariates, hidden=(8,), latent_dim=2)
    trainer(max_steps=5, limit_val_batches=0).fit(model, datamodule=data)
    return model.eval()


@pytest.fixture(scope="module")
def directory(cells: AnnData, model: VAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("devices")
    save(model, directory / "model.ckpt")
    cells.write_h5ad(directory / "cells.h5ad")
    return directory


def commands(directory: Path, devices: int) -> list[list[str]]:
    """Return the three commands; on the same machine they need not be run one after the other."""
    files = [str(directory / "model.ckpt"), str(directory / "cells.h5ad")]
    common = ["--figure", "none", "--devices", str(devices)]
    return [
        ["embed", *files, "-o", str(directory / f"embedded{devices}.h5ad"), *common],
        ["denoise", *files, "-o", str(directory / f"denoised{devices}.h5ad"), *common],
        ["evaluate", files[0], "--data.path", files[1], "--num_samples", "5", "--json", "--devices", str(devices)],
    ]


@pytest.mark.exhaustive
def test_two_processes(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    code = "import sys; from vaekit.cli.main import main; sys.exit(main())"
    program = directory / "program.py"  # Lightning starts the program of the command line again
    program.write_text(code)
    outputs = []
    for words in commands(directory, 2):
        process = subprocess.run(
            [sys.executable, str(program), *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert process.returncode == 0, process.stderr[-3000:]
        outputs.append(process.stdout)
    for words in commands(directory, 1):
        assert main(words) == 0
    printed = capsys.readouterr().out
    embedded, denoised = (
        [anndata.read_h5ad(directory / f"{n}{k}.h5ad") for k in (1, 2)] for n in ("embedded", "denoised")
    )
    assert np.array_equal(embedded[0].obsm["X_vaekit"], embedded[1].obsm["X_vaekit"])
    assert embedded[0].obs.equals(embedded[1].obs)
    assert embedded[1].n_obs == CELLS
    assert np.array_equal(*(each.layers["vaekit_normalized"] for each in denoised))
    assert outputs[0].count("Wrote") == outputs[1].count("Wrote") == 1  # by the first process alone
    assert outputs[2].splitlines()[-1] == printed.splitlines()[-1]  # JSON with all digits


def test_one_device_equals_none(directory: Path, cells: AnnData) -> None:
    files = [str(directory / "model.ckpt"), str(directory / "cells.h5ad"), "--figure", "none", "-o"]
    assert main(["embed", *files, str(directory / "plain.h5ad")]) == 0
    assert main(["embed", *files, str(directory / "device.h5ad"), "--devices", "1"]) == 0
    plain, device = (anndata.read_h5ad(directory / f"{name}.h5ad") for name in ("plain", "device"))
    assert np.array_equal(plain.obsm["X_vaekit"], device.obsm["X_vaekit"])


def test_results_come_in_order(model: VAE, cells: AnnData) -> None:
    query = prepare_query(open_counts(cells), model.data_registry)
    starts: list[tuple[int, int]] = []
    total = np.zeros(CELLS)

    def consume(start: int, totals: torch.Tensor) -> None:
        starts.append((start, len(totals)))
        total[start : start + len(totals)] += totals.numpy()

    predict_on_devices(model, query.dataset, lambda batch, start: batch.x.sum(1), consume, 1, 1024, "adding")
    assert starts == [(0, 1024), (1024, 1024), (2048, 452)]
    assert np.array_equal(total, np.asarray(cells.X.sum(1)).ravel())


@pytest.mark.parametrize("command", ["embed", "denoise", "evaluate"])
def test_no_devices(command: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(directory / "model.ckpt"), "--devices", "0"]
    words += [] if command == "evaluate" else ["-o", str(directory / "none.h5ad")]
    assert main([command, *words]) == 2
    assert "devices=0 must be at least 1." in capsys.readouterr().err
    assert main([command, *words[:1], "--devices", "two", *words[3:]]) == 2


@pytest.mark.parametrize(
    ("num_gpus", "message"),
    [
        (2, "devices=5: this machine has 2 GPUs. Use at most 2 devices."),
        (0, "devices=5: this machine has 4 CPU cores, and no GPU. Use at most 4 devices."),
    ],
)
def test_more_devices_than_there_are(num_gpus: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_prediction.torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(device_prediction.os, "cpu_count", lambda: 4)
    with pytest.raises(ConfigError) as caught:
        check_devices(5)
    assert str(caught.value) == message
    for devices in (None, 1, 2):
        check_devices(devices)
