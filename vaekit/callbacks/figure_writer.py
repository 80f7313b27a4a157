"""Figures of a run, as PNG files and in Weights & Biases."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.seed import isolate_rng
from typing_extensions import override

from vaekit.diagnostics import posterior_summaries
from vaekit.diagnostics.image_figures import image_figures
from vaekit.diagnostics.latent_figures import latent_figures
from vaekit.exceptions import ConfigError
from vaekit.plotting import model_figures, save_figure

if TYPE_CHECKING:
    from vaekit.plotting.model_figures import Figure


class FigureWriter(Callback):
    """Callback that writes figures of a model at the end of training, and after selected epochs.

    These are ``loss_curves.png``; ``schedules.png`` of the KL weight and the temperatures; ``umap.png`` of the
    latents, colored by batch, label, codes and largest topic (only at the end, because it is slow);
    ``code_usage_<name>.png`` of each discrete latent; ``topics_<name>.png`` of each Dirichlet latent, by label or by
    Leiden cluster (at the end); and ``active_units.png`` of the continuous ones. Images also have
    ``reconstructions.png``,
    ``samples.png``, ``categories_<name>.png`` and ``traversals_<name>.png``. The files are in ``figures/`` of the run
    directory, after epoch 5 in ``figures/epoch_5/``. In Weights & Biases their names are ``figures/<name>``.

    Parameters
    ----------
    dirpath : str, optional
        Run directory; by default the trainer's ``default_root_dir``.
    epochs : list of int, optional
        Epochs, counted from 1, after which figures are written; by default only at the end.

    Raises
    ------
    ConfigError
        If an epoch is below 1.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> writer = vaekit.callbacks.FigureWriter("run")  # figures in run/figures
    >>> trainer = pl.Trainer(max_epochs=100, callbacks=[writer])
    >>> trainer.fit(model, datamodule=data)  # doctest: +SKIP
    """

    def __init__(self, dirpath: str | None = None, epochs: list[int] | None = None) -> None:
        if epochs and min(epochs) < 1:
            raise ConfigError(f"FigureWriter: epochs={epochs} must be at least 1. Count epochs from 1: [1, 10, 50].")
        self.dirpath, self.epochs = dirpath, tuple(epochs or ())
        self.history: dict[str, list[tuple[float, float]]] = defaultdict(list)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, value in trainer.callback_metrics.items():
            self.history[name].append((trainer.current_epoch, float(value)))
        epoch = trainer.current_epoch + 1
        if epoch in self.epochs and trainer.is_global_zero:
            self._write(trainer, pl_module, Path("figures") / f"epoch_{epoch}", umap=False)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"history": {name: [list(point) for point in points] for name, points in self.history.items()}}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, points in state["history"].items():
            self.history[name] = [(epoch, value) for epoch, value in points]

    @override
    @rank_zero_only
    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._write(trainer, pl_module, Path("figures"), umap=True)

    def _write(self, trainer: pl.Trainer, model: Any, subdirectory: Path, umap: bool) -> None:
        data = getattr(trainer, "datamodule", None)
        if data is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        directory = Path(self.dirpath or trainer.default_root_dir) / subdirectory
        directory.mkdir(parents=True, exist_ok=True)
        for name, figure in self.figures(model, data, umap).items():
            path = directory / f"{name}.png"
            save_figure(figure, path)
            for logger in trainer.loggers:
                if log_image := getattr(logger, "log_image", None):
                    log_image(key=f"figures/{name}", images=[str(path)])

    def figures(self, model: Any, data: Any, umap: bool = True) -> dict[str, Figure]:
        """Return the figures by name, and restore the RNG states."""
        with isolate_rng(include_cuda=torch.cuda.is_initialized()):
            torch.manual_seed(0)
            figures = {
                "loss_curves": model_figures.curves(self.history),
                "schedules": model_figures.schedules(self.history),
            }
            summaries = posterior_summaries(model, data.dataloader("all", batch_size=1024))
            figures |= latent_figures(model, data, summaries, umap)
            return figures | (image_figures(model, data) if data.kind == "images" else {})
