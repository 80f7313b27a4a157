"""Checkpoints, figures and progress of a run."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from matplotlib.image import imread
from models.tiny import MODELS, adata, trainer

import vaekit
from vaekit import MixedVAE
from vaekit.callbacks import FigureWriter, RunCheckpoint, TrainingProgressBar
from vaekit.data import GeneExpressionData, ImageData
from vaekit.diagnostics import posterior_summaries
from vaekit.exceptions import CheckpointError
from vaekit.latents import Gaussian, LibrarySize
from vaekit.likelihoods import Bernoulli, NegativeBinomial
from vaekit.plotting import embedding_figures


def data(**kwargs) -> GeneExpressionData:
    return GeneExpressionData(adata(), label_key="cell_type", batch_size=16, **kwargs)  # three steps per epoch


def run(
    directory: Path, *callbacks: pl.Callback, name: str = "mixed_child_first", ckpt_path=None, **kwargs
) -> pl.Trainer:
    cells = data()
    model = MODELS[name](NegativeBinomial(), features=cells.features, learning_rate=0.01)
    run_trainer = trainer(directory, callbacks=list(callbacks), **kwargs)
    run_trainer.fit(model, datamodule=cells, ckpt_path=ckpt_path, weights_only=None if ckpt_path is None else True)
    return run_trainer


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [({"max_epochs": 2}, 6), ({"max_steps": 5}, 5), ({"max_steps": 2}, 2), ({"max_steps": 6}, 6)],
    ids=["whole epochs", "mid-epoch", "within the first epoch", "end of an epoch"],
)
def test_both_checkpoints_are_written(tmp_path, arguments, steps):
    finished = run(tmp_path, RunCheckpoint(), **arguments)
    assert finished.global_step == steps
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["global_step"] == steps
    for name, value in finished.model.state_dict().items():
        assert last["state_dict"][name].equal(value)
    names = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    if steps == 2:  # before the first validation
        assert names == ["last.ckpt"]
    else:
        assert names == ["best.ckpt", "last.ckpt"]
        assert type(vaekit.load(tmp_path / "best.ckpt")) is vaekit.MixedVAE


def test_best_has_the_highest_validation_elbo(tmp_path):
    class Recorder(pl.Callback):
        values: list[tuple[float, int]] = []  # noqa: RUF012

        def on_validation_end(self, trainer, pl_module) -> None:
            self.values.append((trainer.callback_metrics["val/elbo"].item(), trainer.global_step))

    class Worse(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module) -> None:
            if trainer.current_epoch == 3:
                with torch.no_grad():
                    pl_module.networks.likelihood.composition.bias.normal_(0, 5)

    recorder = Recorder()
    run(tmp_path, RunCheckpoint(), recorder, Worse(), max_epochs=5)
    step = max(recorder.values)[1]
    assert step <= 9
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == step
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 15


def test_another_directory(tmp_path):
    run(tmp_path / "root", RunCheckpoint(str(tmp_path / "own")), max_epochs=1)
    assert (tmp_path / "own" / "last.ckpt").exists()
    assert not list((tmp_path / "root").glob("*.ckpt"))


def test_a_fast_development_run_writes_nothing(tmp_path):
    run(tmp_path, RunCheckpoint(), FigureWriter(), TrainingProgressBar(), fast_dev_run=2)
    assert not list(tmp_path.rglob("*"))


def check_figure(path: Path) -> None:
    """Check that a figure has colors and is not blank."""
    image = imread(path)[..., :3]
    assert min(image.shape[:2]) > 50
    assert (image.std(-1) > 0.05).any(), f"{path.name} does not have a color"
    assert (image.mean(-1) < 0.95).mean() > 0.01, f"{path.name} is blank"


@pytest.fixture
def quick_umap(monkeypatch) -> None:
    monkeypatch.setattr(embedding_figures, "umap_coordinates", lambda points, seed=0: np.asarray(points)[:, :2])


def test_figures_of_cells(tmp_path):
    num_threads = torch.get_num_threads()
    run(tmp_path, FigureWriter(), max_epochs=2)
    assert torch.get_num_threads() == num_threads  # although scanpy starts numba's pool
    figures = tmp_path / "figures"
    names = ("loss_curves", "schedules", "umap", "code_usage_y", "active_units")
    assert {path.stem for path in figures.iterdir()} == set(names)
    for path in figures.iterdir():
        check_figure(path)


@pytest.mark.usefixtures("quick_umap")
@pytest.mark.parametrize("name", ["gaussian", "discrete_auto", "mixed_sampled", "mixed", "dirichlet"])
def test_figures_of_every_kind_of_latent(tmp_path, name):
    run(tmp_path, FigureWriter(str(tmp_path / "own")), name=name, max_epochs=1)
    latents = MODELS[name](NegativeBinomial()).latents
    expected = {"loss_curves", "schedules", "umap"}
    expected |= {f"code_usage_{n}" if latent.discrete else "active_units" for n, latent in latents.items()}
    expected |= {f"topics_{n}" for n, latent in latents.items() if latent.is_proportions}
    assert {path.stem for path in (tmp_path / "own" / "figures").iterdir()} == expected
    for path in (tmp_path / "own" / "figures").iterdir():
        if path.stem not in ("loss_curves", "schedules"):  # a line has two epochs
            check_figure(path)


@pytest.mark.usefixtures("quick_umap")
@pytest.mark.parametrize(
    ("keys", "name", "panels"),
    [
        ({"batch_key": "batch", "label_key": "cell_type"}, "mixed", ["batch", "cell_type", "code y"]),
        ({"label_key": "cell_type"}, "discrete_auto", ["cell_type", "code y: 0", "code y: 1"]),
        ({}, "gaussian", [""]),
        ({}, "dirichlet", ["largest topic of x"]),
    ],
)
def test_the_umap_has_the_panels_for_which_there_is_data(keys, name, panels):
    cells = GeneExpressionData(adata(), **keys)
    model = MODELS[name](NegativeBinomial(), features=cells.features, covariates=cells.covariates)
    figures = FigureWriter().figures(model, cells)
    assert [axis.get_title() for axis in figures["umap"].axes] == panels
    assert ("topics_x" in figures) == (name == "dirichlet")  # by cluster: there are no labels


def test_the_umap_ignores_the_library_size(tmp_path, monkeypatch):
    points_of_umap = []
    monkeypatch.setattr(
        embedding_figures, "umap_coordinates", lambda points: points_of_umap.append(points) or points[:, :2]
    )
    cells = data()
    latents = {"l": LibrarySize(), "z": Gaussian(3)}
    model = MixedVAE(cells.features, NegativeBinomial(), latents=latents, hidden=[4])
    FigureWriter().figures(model, cells)
    z = posterior_summaries(model, cells.dataloader("all"))["z"]
    np.testing.assert_allclose(points_of_umap[0], z.numpy(), rtol=1e-6)


@pytest.mark.usefixtures("quick_umap")
def test_figures_of_images(tmp_path):
    images = ImageData(batch_size=512)
    model = MODELS["gaussian"](Bernoulli(), features=images.features)
    trainer(tmp_path, max_epochs=1, callbacks=[FigureWriter()]).fit(model, datamodule=images)
    assert imread(tmp_path / "figures" / "reconstructions.png")[..., :3].std() > 0.1
    figure = FigureWriter().figures(model, images)["reconstructions"]
    sheet = np.asarray(figure.axes[0].images[0].get_array()).squeeze()  # two rows of twelve images, one pixel apart
    originals = np.stack([sheet[:8, 9 * i : 9 * i + 8] for i in range(12)])
    test = next(iter(images.dataloader("test", batch_size=12))).x
    np.testing.assert_array_equal(originals, test.reshape(-1, 8, 8))


@pytest.mark.usefixtures("quick_umap")
def test_a_resumed_run_continues_the_curves(tmp_path):
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            trainer.should_stop = trainer.current_epoch == 1

    first, second = FigureWriter(), FigureWriter()
    run(tmp_path, first, RunCheckpoint(), Stop(), max_epochs=4)
    assert [epoch for epoch, _ in first.history["val/elbo"]] == [1, 2]
    again = FigureWriter()
    again.load_state_dict(first.state_dict())
    assert again.history == first.history
    run(tmp_path, second, RunCheckpoint(), max_epochs=4, ckpt_path=tmp_path / "last.ckpt")
    for metric in ("val/elbo", "train/elbo", "train/kl_z"):
        assert [epoch for epoch, _ in second.history[metric]] == [1, 2, 3, 4]
        assert second.history[metric][:2] == first.history[metric]


def test_curves_have_the_metrics_of_each_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(FigureWriter, "figures", lambda *_: {})
    writer = FigureWriter()
    finished = run(tmp_path, writer, max_epochs=3)
    for metric, value in finished.callback_metrics.items():
        if metric.startswith(("train/", "val/")):
            assert writer.history[metric][-1] == (3, value.item())
    assert len({value for _, value in writer.history["val/elbo"]}) == 3


class Terminal(io.StringIO):
    """A standard error that is, or is not, a terminal."""

    def __init__(self, tty: bool) -> None:
        super().__init__()
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


def progress(tmp_path: Path, monkeypatch, tty: bool = True, bar: TrainingProgressBar | None = None, **kwargs) -> str:
    stderr = Terminal(tty)
    monkeypatch.setattr(sys, "stderr", stderr)
    run_trainer = trainer(
        tmp_path, callbacks=[bar or TrainingProgressBar(), *kwargs.pop("others", [])], **{"max_epochs": 3, **kwargs}
    )
    cells = data()
    try:
        run_trainer.fit(MODELS["gaussian"](NegativeBinomial(), features=cells.features), datamodule=cells)
    finally:
        monkeypatch.undo()
    return stderr.getvalue()


@pytest.mark.parametrize("tty", [True, False])
def test_progress_over_all_steps(tmp_path, monkeypatch, tty):
    text = progress(tmp_path, monkeypatch, tty)
    final = re.split(r"[\r\n]", text.strip())[-1]
    assert "training: 100%" in final
    assert "9/9" in final
    assert "epoch=3" in final
    assert re.search(r"val/elbo=-\d+\.\d\d", final)
    if not tty:
        assert len(re.split(r"[\r\n]+", text.strip())) <= 3  # few lines in a log file


def test_progress_without_a_known_end(tmp_path, monkeypatch):
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            trainer.should_stop = True

    assert "3step" in progress(tmp_path, monkeypatch, others=[Stop()], max_epochs=-1)


def test_progress_of_an_exception_closes_the_bar(tmp_path, monkeypatch):
    class Fail(pl.Callback):
        def on_train_batch_start(self, trainer, *args) -> None:
            if trainer.global_step == 2:
                raise ArithmeticError

    bar = TrainingProgressBar()
    with pytest.raises(ArithmeticError):
        progress(tmp_path, monkeypatch, bar=bar, others=[Fail()])
    assert bar._bar is None
    assert "9/9" in progress(tmp_path, monkeypatch, bar=bar)  # and can be used again


def test_progress_of_an_exception_before_training(tmp_path, monkeypatch):
    class Fail(pl.Callback):
        def on_fit_start(self, *args) -> None:
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        progress(tmp_path, monkeypatch, others=[Fail()])


def test_disabled_progress_shows_nothing(tmp_path, monkeypatch):
    bar = TrainingProgressBar()
    bar.disable()
    assert "training" not in progress(tmp_path, monkeypatch, bar=bar)
    bar.enable()
    assert "training" in progress(tmp_path, monkeypatch, bar=bar)


def test_print_goes_above_the_bar(capsys):
    TrainingProgressBar().print("best", 3)
    assert capsys.readouterr() == ("", "best 3\n")


def test_validation_alone_shows_no_bar(tmp_path, monkeypatch):
    cells = data()
    model = MODELS["gaussian"](NegativeBinomial(), features=cells.features)
    stderr = Terminal(True)
    monkeypatch.setattr(sys, "stderr", stderr)
    trainer(tmp_path, callbacks=[TrainingProgressBar()]).validate(model, datamodule=cells, verbose=False)
    assert "training" not in stderr.getvalue()


@pytest.mark.parametrize("clip", [None, 5.0])
def test_a_resumed_run_has_the_same_training_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float | None
) -> None:
    """Clipping and seed must be the same; length, callbacks and logger may change."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    run(tmp_path, RunCheckpoint(), max_epochs=1, gradient_clip_val=clip)
    last = tmp_path / "last.ckpt"
    settings = {"gradient_clip_val": clip, "seed_everything": 3, "accumulate_grad_batches": 1}
    assert torch.load(last, weights_only=True)["training"] == settings
    message = rf"of the training: gradient_clip_val was {clip}, is 0\.1"
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, RunCheckpoint(), max_epochs=2, ckpt_path=last, gradient_clip_val=0.1)
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    with pytest.raises(CheckpointError, match="of the training: seed_everything was 3, is 4"):
        run(tmp_path, RunCheckpoint(), max_epochs=2, ckpt_path=last, gradient_clip_val=clip)
    monkeypatch.delenv("PL_GLOBAL_SEED")  # an unknown seed
    changed = {"max_epochs": 2, "log_every_n_steps": 7, "gradient_clip_val": clip or 0}  # 0 is without clipping, too
    resumed = run(tmp_path, RunCheckpoint(), TrainingProgressBar(), ckpt_path=last, **changed)
    assert resumed.global_step == 6


def test_a_checkpoint_without_training_arguments_is_accepted(tmp_path: Path) -> None:
    run(tmp_path, RunCheckpoint(), max_epochs=1)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del checkpoint["training"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    resumed = run(tmp_path, RunCheckpoint(), max_epochs=2, ckpt_path=tmp_path / "old.ckpt", gradient_clip_val=0.1)
    assert resumed.global_step == 6
