"""Training in two processes by Lightning's strategy ``ddp``: see ``two_processes.py`` for their program."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch

import vaekit
from vaekit.callbacks import PosteriorCollapseMonitor
from vaekit.exceptions import CheckpointError

from .test_checkpoint import model_for
from .tiny import MODELS, trainer
from .two_processes import EPOCHS, KEPT, LEARNING, begin, data

ROOT = Path(__file__).parents[2]


class Runs(NamedTuple):
    """Results of the processes, and their output directory."""

    first: dict[str, Any]
    second: dict[str, Any]
    folder: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("ddp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "tests.models.two_processes", str(folder)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **shared, "OMP_NUM_THREADS": "1", "LOCAL_RANK": rank},
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)[-4000:]
    found = (torch.load(folder / f"process_{rank}.pt", weights_only=True) for rank in "01")
    return Runs(*found, folder)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize("name", [*MODELS, *LEARNING])
def test_every_model_trains_in_step(runs: Runs, name: str) -> None:
    """Weights, baselines and temperatures: with an unused parameter, torch would have stopped."""
    assert same(runs.first["every"][name], runs.second["every"][name])


@pytest.mark.parametrize("name", KEPT)
def test_runs_end_alike(runs: Runs, name: str) -> None:
    first, second = runs.first["whole"][name], runs.second["whole"][name]
    assert same(first["state"], second["state"])
    assert first["metrics"] == second["metrics"]
    assert first["alive"] == second["alive"]
    assert not first["noise"].equal(second["noise"]), "the rows of both have the same noise"
    for file in ("last.ckpt", "best.ckpt"):
        assert (runs.folder / name / file).is_file()
    kept = torch.load(runs.folder / name / "last.ckpt", weights_only=True)
    assert same(kept["state_dict"], first["state"])


def test_each_cell_once_an_epoch(runs: Runs) -> None:
    first, second = (found["whole"]["mixed_sampled"]["rows"] for found in (runs.first, runs.second))
    steps = len(first) // EPOCHS
    orders = []
    for epoch in range(EPOCHS):
        rows = [first[step] + second[step] for step in range(epoch * steps, (epoch + 1) * steps)]
        assert sorted(itertools.chain.from_iterable(rows)) == data("mixed_sampled").split_indices["train"].tolist()
        assert [len(each) for each in rows] == [32, 16]  # batch_size is 16, of each process; what remains is halved
        orders.append(rows)
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("name", KEPT)
def test_validation_is_that_of_one_process(runs: Runs, name: str) -> None:
    """The split fits into one batch, so that the second process has no rows at all."""
    cells, model = data(name), vaekit.load(runs.folder / name / "last.ckpt")
    pl.seed_everything(123, verbose=False)  # as the draws of a held-out bound follow from the batch, any seed will do
    alone = trainer(callbacks=[PosteriorCollapseMonitor(every_n_validations=1)]).validate(
        model, datamodule=cells, verbose=False
    )[0]
    assert {"val/elbo", "val/reconstruction", *(f"active/{latent}" for latent in model.latents)} <= alone.keys()
    for found in (runs.first["whole"][name], runs.second["whole"][name]):
        assert found["val"] == pytest.approx(alone, rel=1e-6)
        assert found["metrics"]["val/elbo"] == pytest.approx(alone["val/elbo"], rel=1e-6)


def test_gradients_of_labels_are_those_of_one_process(runs: Runs) -> None:
    """Only labeled cells train the labels' head, and its gradient is not random: the posterior of y is not sampled."""
    cells, model = begin("labeled")
    rows = zip(*(found["labels"]["rows"].values() for found in (runs.first, runs.second)), strict=True)
    num_labeled = []
    for step, (mine, others) in enumerate(rows):
        kept = [found["labels"]["steps"][step] for found in (runs.first, runs.second)]
        assert same(kept[0]["weights"], kept[1]["weights"])
        model.load_state_dict(kept[0]["weights"])
        batch = cells.dataset.__getitems__(mine + others)
        model.zero_grad()
        model.compute_step(batch, 1.0)[0].backward()
        for name, parameter in model.named_parameters():
            if ".y.head." in name:
                assert parameter.grad is not None
                for each in kept:
                    torch.testing.assert_close(each["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-7)
        assert batch.observed_label is not None
        is_labeled = (batch.observed_label >= 0).split([len(mine), len(others)])
        num_labeled.append([int(each.sum()) for each in is_labeled])
    assert any(min(each) == 0 < max(each) for each in num_labeled), (
        "a process without labels in a step is the hard case"
    )


def test_a_moving_average_takes_in_the_costs_of_both(runs: Runs) -> None:
    first, second = runs.first["average"], runs.second["average"]
    assert first["kept"].equal(second["kept"])
    assert not first["costs"].equal(second["costs"])
    expected = torch.zeros(3, dtype=torch.float64)
    for costs, kept in zip((first["costs"] + second["costs"]) / 2, first["kept"], strict=True):
        torch.testing.assert_close(kept, expected, rtol=1e-12, atol=0)
        expected = 0.9 * expected + 0.1 * torch.cat([costs, torch.ones(1)])


def test_a_run_goes_on_where_it_stopped(runs: Runs) -> None:
    for found in (runs.first["resumed"], runs.second["resumed"]):
        assert len(found) == 2 * EPOCHS - 1
        assert all(each["weights"] and each["rows"] for each in found.values()), found


def test_a_run_does_not_go_on_with_another_number_of_processes(runs: Runs) -> None:
    cells = data("mixed_sampled")
    model = model_for("mixed_sampled", cells)
    last = runs.folder / "mixed_sampled" / "last.ckpt"
    with pytest.raises(CheckpointError, match="used 2 devices and cannot be resumed with 1,"):
        trainer(max_epochs=5).fit(model, datamodule=cells, ckpt_path=last, weights_only=True)


def test_early_stopping_stops_both(runs: Runs) -> None:
    assert runs.first["early"] == runs.second["early"] == {"epochs": 3, "step": 6}


def test_more_processes_than_rows(runs: Runs) -> None:
    assert runs.first["too_few"] == runs.second["too_few"]
    assert "trainer.devices: 1 training observations cannot be shared by 2 processes" in runs.first["too_few"]


def test_a_loss_that_breaks_in_one_process_stops_both(runs: Runs) -> None:
    assert runs.first["broken"] == runs.second["broken"]
    assert runs.first["broken"].startswith("rank 1: the loss is nan in step 2 (epoch 0): the term")


@pytest.mark.parametrize("name", KEPT)
def test_predictions_are_in_the_order_of_the_rows(runs: Runs, name: str) -> None:
    model = vaekit.load(runs.folder / name / "last.ckpt")
    alone = trainer().predict(model, datamodule=data(name))
    for together in (runs.first["whole"][name]["predicted"], runs.second["whole"][name]["predicted"]):
        for found, wanted in zip(together, alone, strict=True):
            for latent, value in wanted.items():
                torch.testing.assert_close(found[latent], value, rtol=1e-6, atol=1e-6)


@pytest.mark.exhaustive
def test_the_command(tmp_path: Path) -> None:
    """``fit`` starts the other process itself, and messages and files come from one run."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "vaekit.cli.main", "fit", "--config", str(ROOT / "configs" / "cluster_ddp.yaml")]
    command += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.logger", "false"]
    command += ["--trainer.default_root_dir", str(folder), "--trainer.max_epochs", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    said = done.stdout + done.stderr
    assert said.count("train/val/test") == said.count(f"wrote {folder}") == 1
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "last.ckpt",
        "best.ckpt",
        "config.yaml",
        "figures",
        "report.html",
    }
