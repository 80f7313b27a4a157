"""Figures of a run, as PNG files and in Weights & Biases."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.seed import isolate_rng
from typing_extensions import override

from vaekit._core.figure_formats import FIGURE_FORMATS, FigureFormat
from vaekit._core.optional_results import warn_of_errors
from vaekit.diagnostics import posterior_summaries
from vaekit.diagnostics.image_figures import image_figures
from vaekit.diagnostics.latent_figures import latent_figures
from vaekit.exceptions import ConfigError, did_you_mean
from vaekit.plotting import model_figures, save_figure

if TYPE_CHECKING:
    from vaekit.plotting.model_figures import Figure


class FigureWriter(Callback):
    """Callback that writes figures of a model at the end of training, and after selected epochs.

    These are ``loss_curves``; ``schedules`` of the KL weight and the temperatures; ``umap`` of the latents, colored by
    batch, label, ``color``, codes and largest topic (only at the end, because it is slow); ``code_usage_<name>`` of
    each discrete latent; ``topics_<name>`` of each Dirichlet latent, by label or by Leiden cluster (at the end); and
    ``active_units`` of the continuous ones. Images also have ``reconstructions``, ``samples``, ``categories_<name>``
    and ``traversals_<name>``. The files are in ``figures/`` of the run directory, after epoch 5 in
    ``figures/epoch_5/``. In Weights & Biases their names are ``figures/<name>``; it receives PNG files, which are in
    ``wandb/figures/`` if the run writes another format.

    A figure that cannot be drawn does not end the run: the error is a warning.

    Parameters
    ----------
    dirpath : str, optional
        Run directory; by default the trainer's ``default_root_dir``.
    epochs : list of int, optional
        Epochs, counted from 1, after which figures are written; by default only at the end.
    color : list of str, optional
        Further columns of ``obs``, or genes, that color the UMAP. They are read when training starts.
    figure : str, optional
        Format of the files: png, pdf or svg; none: no figure is written. By default png. A resumed run keeps its
        ``color`` and ``figure`` unless others are passed.

    Raises
    ------
    ConfigError
        If an epoch is below 1, or the format is unknown.
    DataError
        If a name of ``color`` is neither a column nor a gene.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> writer = vaekit.callbacks.FigureWriter("run", color=["n_counts"])  # figures in run/figures
    >>> trainer = pl.Trainer(max_epochs=100, callbacks=[writer])
    >>> trainer.fit(model, datamodule=data)  # doctest: +SKIP
    """

    def __init__(
        self,
        dirpath: str | None = None,
        epochs: list[int] | None = None,
        color: list[str] | None = None,
        figure: FigureFormat | None = None,
    ) -> None:
        if figure not in (None, *FIGURE_FORMATS):
            raise ConfigError(
                f"FigureWriter: figure={figure!r} is unknown. {did_you_mean(str(figure), FIGURE_FORMATS)}"
            )
        if epochs and min(epochs) < 1:
            raise ConfigError(f"FigureWriter: epochs={epochs} must be at least 1. Count epochs from 1: [1, 10, 50].")
        self.dirpath, self.epochs, self.color, self._figure = dirpath, tuple(epochs or ()), color, figure
        self._columns: Any = None
        self.history: dict[str, list[tuple[float, float]]] = defaultdict(list)

    @property
    def figure(self) -> FigureFormat:
        """Format of the files."""
        return self._figure or "png"

    @override
    @rank_zero_only
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.read_columns(getattr(trainer, "datamodule", None))

    def read_columns(self, data: Any) -> None:
        """Read the colors from a data module; raise a DataError if one of them does not exist."""
        if self.color and data is not None and self.figure != "none":
            self._columns = data.figure_columns(self.color)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._record(trainer, "train/")
        epoch = trainer.current_epoch + 1
        if epoch in self.epochs and trainer.is_global_zero:
            self._write(trainer, pl_module, Path("figures") / f"epoch_{epoch}", umap=False)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._record(trainer, "val/")

    def _record(self, trainer: pl.Trainer, prefix: str) -> None:
        """Append the metrics of an epoch or a validation at the number of epochs, which may be a fraction."""
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        epoch = trainer.current_epoch + batches / trainer.num_training_batches
        for name, value in trainer.callback_metrics.items():
            if name.startswith(prefix):
                self.history[name].append((epoch, float(value)))

    @override
    def state_dict(self) -> dict[str, Any]:
        history = {name: [list(point) for point in points] for name, points in self.history.items()}
        return {"history": history, "color": self.color, "figure": self.figure}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the curves of a resumed run, with its colors and format unless others are chosen."""
        self.color, self._figure = self.color or state.get("color"), self._figure or state.get("figure")
        for name, points in state["history"].items():
            self.history[name] = [(epoch, value) for epoch, value in points]

    @override
    @rank_zero_only
    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._write(trainer, pl_module, Path("figures"), umap=True)

    def _write(self, trainer: pl.Trainer, model: Any, subdirectory: Path, umap: bool) -> None:
        data = getattr(trainer, "datamodule", None)
        if data is None or self.figure == "none" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        run = Path(self.dirpath or trainer.default_root_dir)
        loggers = [logger for logger in trainer.loggers if hasattr(logger, "log_image")]
        with warn_of_errors("Figures were not written", "The training and its checkpoints are not affected."):
            for name, figure in self.figures(model, data, umap).items():
                _save(figure, path := run / subdirectory / f"{name}.{self.figure}")
                if loggers and self.figure != "png":
                    _save(figure, path := run / "wandb" / subdirectory / f"{name}.png")
                for logger in loggers:
                    logger.log_image(key=f"figures/{name}", images=[str(path)])

    def figures(self, model: Any, data: Any, umap: bool = True) -> dict[str, Figure]:
        """Return the figures by name, and restore the RNG states."""
        with isolate_rng(include_cuda=torch.cuda.is_initialized()):
            torch.manual_seed(0)
            figures = {
                "loss_curves": model_figures.curves(self.history),
                "schedules": model_figures.schedules(self.history),
            }
            summaries = posterior_summaries(model, data.dataloader("all", batch_size=1024))
            figures |= latent_figures(model, data, summaries, umap, self._columns or data.figure_columns(self.color))
            return figures | (image_figures(model, data) if data.kind == "images" else {})


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)
