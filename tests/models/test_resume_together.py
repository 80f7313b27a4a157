"""A resumed run equals one that was never stopped: features of the trainer together, and everything that is stored."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, GradientAccumulationScheduler
from pytorch_lightning.loggers import Logger

from vaekit.callbacks import (
    ELBOCurve,
    GradientClippingMonitor,
    GradientNoiseMonitor,
    PosteriorCollapseMonitor,
    RunCheckpoint,
    SAGATraining,
    SVRGTraining,
    TerminateOnNonFinite,
)
from vaekit.data import GeneExpressionData
from vaekit.exceptions import CheckpointError

from .test_checkpoint import model_for
from .tiny import adata, differences


class Log(Logger):
    """Stores all logged values."""

    name, version = "log", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Any] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append([step, dict(metrics)])


class Kept(pl.Callback):
    """Copies each last checkpoint with the best one of that time, as a killed run would leave them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, 0
        self.found: list[Path] = []

    def keep(self, trainer: pl.Trainer, *args: Any) -> None:
        path = Path(trainer.default_root_dir) / "last.ckpt"
        if path.exists() and self.seen != (stamp := path.stat().st_mtime_ns):
            self.seen, target = stamp, self.folder / f"kept_{len(self.found)}"
            shutil.copytree(path.parent, target)
            self.found.append(target / "last.ckpt")

    on_train_batch_start = on_train_batch_end = on_validation_end = on_train_epoch_start = on_train_epoch_end = keep


def train(folder: Path, seed: int, case: Case, *others: pl.Callback, start: Path | None = None) -> list[Any]:
    name, every, options, extra = case
    torch.manual_seed(seed)
    cells = GeneExpressionData(adata(), batch_key="batch", label_key="cell_type", batch_size=8)  # six batches an epoch
    model, log = model_for(name, cells), Log()
    own = [
        TerminateOnNonFinite(),
        GradientClippingMonitor(),
        RunCheckpoint(every_n_steps=every),
        PosteriorCollapseMonitor(every_n_validations=1),
        GradientNoiseMonitor(every_n_steps=1),
    ]
    trainer = pl.Trainer(
        accelerator="cpu", default_root_dir=folder, logger=log, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, log_every_n_steps=1, callbacks=[*own, *extra(), *others],
        **{"max_epochs": 3, "gradient_clip_val": 1.0, **options},
    )  # fmt: skip
    trainer.fit(model, datamodule=cells, ckpt_path=start, weights_only=True)
    return log.rows


Case = tuple[str, int, dict[str, Any], Callable[[], list[pl.Callback]]]
CASES: dict[str, Case] = {
    "accumulated, validated in between": (
        "mixed_sampled", 1, {"accumulate_grad_batches": 4, "val_check_interval": 0.5}, list),
    "validated by batches across epochs": (
        "discrete_learned", 1,
        {"accumulate_grad_batches": 4, "val_check_interval": 8, "check_val_every_n_epoch": None}, list),
    "few checkpoints, many validations": ("gaussian", 100, {"val_check_interval": 3}, list),
    "part of the batches": (
        "mixed", 1, {"limit_train_batches": 0.7, "accumulate_grad_batches": 3, "val_check_interval": 2}, list),
    "steps and epochs": (
        "discrete_moving_average", 3,
        {"max_epochs": 4, "max_steps": 17, "accumulate_grad_batches": 2, "val_check_interval": 4}, list),
    "steps alone": ("gaussian", 2, {"max_epochs": -1, "max_steps": 14}, list),
    "steps alone, part of the batches, validated after each": (
        "gaussian", 1,
        {"max_epochs": -1, "max_steps": 4, "accumulate_grad_batches": 3, "limit_train_batches": 5,
         "val_check_interval": 1}, list),
    "every second epoch": ("gaussian", 4, {"max_epochs": 5, "check_val_every_n_epoch": 2}, list),
    "64-true": (
        "mixed_sampled", 1,
        {"precision": "64-true", "accumulate_grad_batches": 4, "val_check_interval": 0.5}, list),
    "scheduled accumulation": (
        "gaussian", 3, {"val_check_interval": 2}, lambda: [GradientAccumulationScheduler({0: 1, 1: 3})]),
    "stopped early": (
        "gaussian", 1, {"max_epochs": 8, "val_check_interval": 2},
        lambda: [EarlyStopping("val/elbo", mode="max", patience=2, min_delta=3)]),
    "SVRG": ("mixed", 5, {"val_check_interval": 4}, lambda: [SVRGTraining(lr=0.01, momentum=0.5, every_n_epochs=2)]),
    "SAGA": ("discrete_enumerate", 5, {"val_check_interval": 4}, lambda: [SAGATraining(lr=0.01)]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_everything_that_is_stored_and_logged(tmp_path: Path, name: str) -> None:
    case, run = CASES[name], tmp_path / "run"
    kept = Kept(tmp_path)
    logged = train(run, 3, case, kept)
    run.rename(tmp_path / "whole")
    assert any({"train/elbo", "train/clip_fraction"} <= row[1].keys() for row in logged)
    assert len(kept.found) > 1
    for start in kept.found[::2] if len(kept.found) > 8 else kept.found:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(start.parent, run)
        again = train(run, 77, case, start=run / start.name)
        if not again:
            continue  # it was the last checkpoint
        for file in ("last.ckpt", "best.ckpt"):
            stored = (torch.load(folder / file, weights_only=True) for folder in (tmp_path / "whole", run))
            assert not differences(*stored), f"{file} of the run from {start}"
        assert again == logged[-len(again) :], f"other metrics in the run from {start}"


def test_a_checkpoint_between_two_steps_holds_the_gradients(tmp_path: Path) -> None:
    """And only such a one: it would be larger by all weights."""
    kept = Kept(tmp_path)
    train(tmp_path / "run", 3, CASES["validated by batches across epochs"], kept)
    sizes = set()
    for path in kept.found:
        checkpoint = torch.load(path, weights_only=True)
        ready = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
        (state,) = checkpoint["within_epoch"]
        assert bool(state["gradients"]) == bool(ready % 4 and ready % 6)
        assert state["gradients"].keys() <= checkpoint["state_dict"].keys()
        sizes.add(bool(state["gradients"]))
    assert sizes == {True, False}


def test_other_accumulation_is_rejected(tmp_path: Path) -> None:
    train(tmp_path, 3, ("gaussian", 1, {"accumulate_grad_batches": 2, "max_epochs": 1}, list))
    with pytest.raises(CheckpointError, match="of the training: accumulate_grad_batches was 2, is 3"):
        train(tmp_path, 3, ("gaussian", 1, {"accumulate_grad_batches": 3}, list), start=tmp_path / "last.ckpt")


def test_a_resumed_curve_continues(tmp_path: Path) -> None:
    first, second = ELBOCurve(), ELBOCurve()
    case: Case = ("gaussian", 1, {}, list)
    kept = Kept(tmp_path)
    train(tmp_path / "run", 3, case, first, kept)
    train(tmp_path / "run", 77, case, second, start=kept.found[8])
    assert [(point.step, point.elbo) for point in second.points] == [(p.step, p.elbo) for p in first.points]
    assert [point.seconds for point in second.points] == sorted(point.seconds for point in second.points)


def test_a_run_directory_that_was_moved_keeps_its_best_checkpoint(tmp_path: Path) -> None:
    """Lightning's own would forget the bound that it is to beat, and write a worse one over it; no path is stored."""
    train(tmp_path / "run", 3, ("gaussian", 1, {}, list))
    (tmp_path / "run").rename(tmp_path / "moved")
    best = torch.load(tmp_path / "moved/best.ckpt", weights_only=True)
    worse: Case = ("gaussian", 1, {"max_epochs": 4, "limit_val_batches": 1}, list)
    assert str(tmp_path) not in str(best["callbacks"])
    train(tmp_path / "moved", 77, (*worse[:3], lambda: [Unlearn()]), start=tmp_path / "moved/last.ckpt")
    after = torch.load(tmp_path / "moved/best.ckpt", weights_only=True)
    assert after["global_step"] == best["global_step"]


class Unlearn(pl.Callback):
    """Makes the weights worse before a validation."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.add_(1.0)
