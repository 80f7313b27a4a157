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

from vaekit.diagnostics import codes_of, latent_use, plots, posterior_summaries
from vaekit.latents import Categorical

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Pictures(Callback):
    """Draws, at the end of training, what people look at.

    ``loss_curves.png``; ``umap.png`` of all rows, coloured by label, code and split; ``code_usage_<name>.png``
    of each discrete latent; ``reconstructions.png`` for images. They land in ``figures/`` of the run's folder.

    Parameters
    ----------
    dirpath
        The run's folder; None for the trainer's ``default_root_dir``.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self.history: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the epoch's metrics (validation has run by now)."""
        for name, value in trainer.callback_metrics.items():
            self.history[name].append((trainer.current_epoch, float(value)))

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
        data = getattr(trainer, "datamodule", None)
        if data is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = Path(self.dirpath or trainer.default_root_dir) / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in self.figures(pl_module, data).items():
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=130)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(key=f"figures/{name}", images=[str(path)])

    def figures(self, model: Any, data: Any) -> dict[str, Figure]:
        """Return the figures by name."""
        drawn = {"loss_curves": plots.curves(self.history)}
        rows = _chosen_rows(len(data.dataset))
        summaries = posterior_summaries(model, data.dataloader("all", batch_size=1024))
        drawn["umap"] = _umap(model, data, summaries, rows)
        for name, usage in latent_use(model, summaries).code_usage.items():
            drawn[f"code_usage_{name}"] = _code_usage(model, data, name, summaries[name], usage.numpy())
        if data.kind == "images":
            drawn["reconstructions"] = _reconstructions(model, data)
        return drawn


def _chosen_rows(count: int) -> np.ndarray:
    """Return all row numbers, or as many as a UMAP can show."""
    if count <= plots.UMAP_ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, plots.UMAP_ROWS, replace=False))


def _umap(model: Any, data: Any, summaries: dict[str, torch.Tensor], rows: np.ndarray) -> Figure:
    continuous = [summaries[name] for name, latent in model.latents.items() if not latent.discrete]
    points = torch.cat(continuous or list(summaries.values()), -1).numpy()[rows]
    colours: dict[str, Any] = {}
    if data.label_categories:
        colours["label"] = data.labels[rows]
    for name, latent in model.latents.items():
        if latent.discrete and latent.size <= 64:
            colours[f"code {name}"] = codes_of(latent, summaries[name])[rows]
    split = np.full(len(data.dataset), None, dtype=object)
    for name, indices in data.split_indices.items():
        split[indices.numpy()] = name
    colours["split"] = split[rows]
    total = len(data.dataset)
    shown = f"all {total} rows" if len(rows) == total else f"{len(rows)} of {total} rows"
    return plots.scatter(plots.umap_coordinates(points), colours, f"UMAP of the latents, {shown}")


def _code_usage(model: Any, data: Any, name: str, summary: torch.Tensor, usage: np.ndarray) -> Figure:
    latent = model.latents[name]
    if isinstance(latent, Categorical) and latent.shape[0] == 1 and data.label_categories:
        labels = data.labels
        present = [category for category in data.label_categories if (labels == category).any()]
        means = np.stack([summary.numpy()[labels == category].mean(0) for category in present])
        return plots.code_usage(name, means, present, "label")
    return plots.code_usage(name, usage, [str(i) for i in range(len(usage))], "variable")


@torch.no_grad()
def _reconstructions(model: Any, data: Any) -> Figure:
    count = 12
    batch = next(iter(data.dataloader("test", batch_size=count))).to(model.device)
    model.eval()
    values = {name: q.sample() for name, q in model.posteriors(batch).items()}
    means = model.networks.observation(values, batch).mean
    shape = (-1, *data.image_shape)
    return plots.reconstructions(batch.x.reshape(shape).cpu().numpy(), means.reshape(shape).cpu().numpy())
