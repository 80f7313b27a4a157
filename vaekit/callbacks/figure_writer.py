"""Pictures of a trained model, as PNG files in the run's folder and as media in Weights & Biases."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from vaekit._core.atomic import atomic_write
from vaekit.callbacks.history import History
from vaekit.callbacks.image_figures import image_figures
from vaekit.diagnostics import latent_usage, most_probable_codes, posterior_summaries
from vaekit.diagnostics.usage import coordinates
from vaekit.exceptions import ConfigError
from vaekit.latents.activity import ACTIVE_VARIANCE
from vaekit.plotting import model_figures

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class FigureWriter(Callback):
    """Draws what people look at, at the end of training and after any epochs before it.

    ``loss_curves.png``; ``schedules.png``, the KL weight and the temperatures; ``umap.png`` of all rows, coloured by
    label, code and split (at the end alone, for it takes long); ``code_usage_<name>.png`` of each discrete latent;
    ``active_units.png`` of the continuous ones; for images ``reconstructions.png``, ``samples.png``,
    ``categories_<name>.png`` and ``traversals_<name>.png``. They land in ``figures/`` of the run's folder, those of
    epoch 5 in ``figures/epoch_5/``, and in Weights & Biases as ``figures/<name>``.

    Parameters
    ----------
    dirpath
        The run's folder; None for the trainer's ``default_root_dir``.
    epochs
        Epochs, counted from 1, after which pictures are drawn as well.

    Raises
    ------
    ConfigError
        If an epoch is below 1.
    """

    def __init__(self, dirpath: str | None = None, epochs: list[int] | None = None) -> None:
        if epochs and min(epochs) < 1:
            raise ConfigError(f"Pictures: epochs is {epochs}; they count from 1, such as [1, 10, 50]")
        self.dirpath, self.epochs = dirpath, tuple(epochs or ())
        self.history: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the epoch's metrics (validation has run by now)."""
        for name, value in trainer.callback_metrics.items():
            self.history[name].append((trainer.current_epoch, float(value)))
        epoch = trainer.current_epoch + 1
        if epoch in self.epochs and trainer.is_global_zero:
            self._draw(trainer, pl_module, Path("figures") / f"epoch_{epoch}", umap=False)

    def state_dict(self) -> dict[str, Any]:
        """Return the curves, so that a resumed run draws whole ones."""
        return {"history": {name: [list(point) for point in points] for name, points in self.history.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the curves of a checkpoint."""
        for name, points in state["history"].items():
            self.history[name] = [(epoch, value) for epoch, value in points]

    @rank_zero_only
    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Draw all pictures."""
        self._draw(trainer, pl_module, Path("figures"), umap=True)

    def _draw(self, trainer: pl.Trainer, model: Any, place: Path, umap: bool) -> None:
        """Write all pictures to a folder of the run, and give them to Weights & Biases."""
        data = getattr(trainer, "datamodule", None)
        if data is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = Path(self.dirpath or trainer.default_root_dir) / place
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in self.figures(model, data, umap).items():
            path = folder / f"{name}.png"
            with atomic_write(path) as temporary:
                figure.savefig(temporary, dpi=130, format="png")
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger | History):
                    logger.log_image(key=f"figures/{name}", images=[str(path)])

    def figures(self, model: Any, data: Any, umap: bool = True) -> dict[str, Figure]:
        """Return the figures by name; their draws leave the training's random numbers as they were."""
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(0)
            return self._figures(model, data, umap)

    def _figures(self, model: Any, data: Any, umap: bool) -> dict[str, Figure]:
        drawn = {"loss_curves": model_figures.curves(self.history), "schedules": model_figures.schedules(self.history)}
        rows = _chosen_rows(len(data.dataset))
        summaries = posterior_summaries(model, data.dataloader("all", batch_size=1024))
        if umap:
            drawn["umap"] = _umap(model, data, summaries, rows)
        for name, usage in latent_usage(model, summaries).code_usage.items():
            drawn[f"code_usage_{name}"] = _code_usage(model, data, name, summaries[name], usage.numpy())
        varied = {
            name: summaries[name].var(0, correction=0).numpy()
            for name, latent in model.latents.items()
            if latent.is_coordinate
        }
        if varied:
            drawn["active_units"] = model_figures.active_units(varied, ACTIVE_VARIANCE)
        if data.kind == "images":
            drawn |= image_figures(model, data)
        return drawn


def _chosen_rows(count: int) -> np.ndarray:
    """Return all row numbers, or as many as a UMAP can show."""
    if count <= model_figures.UMAP_ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, model_figures.UMAP_ROWS, replace=False))


def _umap(model: Any, data: Any, summaries: dict[str, torch.Tensor], rows: np.ndarray) -> Figure:
    import pandas as pd

    points = coordinates(model, summaries).numpy()[rows]
    colours: dict[str, pd.Categorical] = {}
    if data.label_categories:
        colours["label"] = pd.Categorical(data.labels, data.label_categories)[rows]
    for name, latent in model.latents.items():
        if latent.discrete and latent.size <= 64:
            colours[f"code {name}"] = most_probable_codes(latent, summaries[name])[rows]
    split = np.full(len(data.dataset), None, dtype=object)
    for name, indices in data.split_indices.items():
        split[indices.numpy()] = name
    colours["split"] = pd.Categorical(split, list(data.split_indices))[rows]
    total = len(data.dataset)
    shown = f"all {total} rows" if len(rows) == total else f"{len(rows)} of {total} rows"
    return model_figures.scatter(model_figures.umap_coordinates(points), colours, f"UMAP of the latents, {shown}")


def _code_usage(model: Any, data: Any, name: str, summary: torch.Tensor, usage: np.ndarray) -> Figure:
    latent = model.latents[name]
    if latent.is_single_categorical and data.label_categories:
        labels = data.labels
        present = [category for category in data.label_categories if (labels == category).any()]
        means = np.stack([summary.numpy()[labels == category].mean(0) for category in present])
        return model_figures.code_usage(name, means, present, "label")
    return model_figures.code_usage(name, usage, [str(i) for i in range(len(usage))], "variable")
