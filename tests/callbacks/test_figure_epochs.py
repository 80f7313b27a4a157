"""Figures after selected epochs, and the ELBO curve."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from models.tiny import MODELS, trainer

from callbacks.test_callbacks import check_figure
from vaekit.callbacks import ELBOCurve, FigureWriter
from vaekit.data import ImageData
from vaekit.estimators import GumbelSoftmax, TemperatureSchedule
from vaekit.exceptions import ConfigError
from vaekit.latents import Categorical, Gaussian
from vaekit.likelihoods import Bernoulli
from vaekit.models import MixedVAE
from vaekit.plotting import embedding_figures


def digits() -> ImageData:
    return ImageData(batch_size=512)


@pytest.fixture(autouse=True)
def quick_umap(monkeypatch) -> None:
    monkeypatch.setattr(embedding_figures, "umap_coordinates", lambda points, seed=0: points[:, :2])


def test_figures_of_selected_epochs(tmp_path):
    latents = {"y": Categorical(10, estimator=GumbelSoftmax(TemperatureSchedule(1.0, 0.5))), "z": Gaussian(3)}
    model = MixedVAE(64, Bernoulli(), latents=latents, hidden=[16])
    trainer(tmp_path, max_epochs=3, callbacks=[FigureWriter(epochs=[2])]).fit(model, datamodule=digits())
    figures = tmp_path / "figures"
    names = {"loss_curves", "schedules", "code_usage_y", "active_units", "reconstructions", "samples", "categories_y",
             "traversals_z"}  # fmt: skip
    assert {path.name for path in figures.iterdir() if path.is_dir()} == {"epoch_2"}
    assert {path.stem for path in figures.glob("*.png")} == names | {"umap"}
    assert {path.stem for path in (figures / "epoch_2").iterdir()} == names
    for name in ("schedules", "active_units"):
        check_figure(figures / f"{name}.png")


def test_figures_do_not_change_the_training(tmp_path):
    weights = []
    for callbacks in ([], [FigureWriter(epochs=[1])]):
        torch.manual_seed(0)
        model = MODELS["mixed_sampled"](Bernoulli(), features=64)
        trainer(tmp_path, max_epochs=2, callbacks=callbacks).fit(model, datamodule=digits())
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert weights[0].equal(weights[1])


def test_epochs_count_from_one():
    with pytest.raises(ConfigError, match=r"epochs=\[0, 3\] must be at least 1"):
        FigureWriter(epochs=[0, 3])


def test_elbo_curve(tmp_path):
    class Recorder(pl.Callback):
        def __init__(self) -> None:
            self.values: list[float] = []

        def on_validation_end(self, trainer, pl_module) -> None:
            self.values.append(trainer.callback_metrics["val/elbo"].item())

    curve, recorder = ELBOCurve(), Recorder()
    model = MODELS["gaussian"](Bernoulli(), features=64)
    trainer(tmp_path, max_epochs=3, val_check_interval=1, callbacks=[curve, recorder]).fit(model, datamodule=digits())
    assert [point.step for point in curve.points] == list(range(1, 10))  # three steps per epoch
    assert [point.elbo for point in curve.points] == recorder.values
    seconds = [point.seconds for point in curve.points]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
