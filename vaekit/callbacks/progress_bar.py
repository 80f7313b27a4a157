"""The progress bar of a training run."""

from __future__ import annotations

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar


class TrainingProgressBar(ProgressBar):
    """One bar over all training steps, with the epoch and the latest bounds beside it.

    Lightning's own shows a bar an epoch, which on small data flickers by the hundred. Evaluation loops, which
    are short beside training, show none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._enabled = True

    def disable(self) -> None:
        """Show nothing (Lightning's hook, for all ranks but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar again (Lightning's hook)."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        from tqdm import tqdm

        tqdm.write(" ".join(map(str, args)), file=sys.stderr)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        from tqdm.auto import tqdm

        total = trainer.estimated_stepping_batches
        self._bar = tqdm(
            total=int(total) if 0 < total < float("inf") else None,
            initial=trainer.global_step,
            desc="training",
            unit="step",
            disable=not self._enabled,
            mininterval=0.2
            if sys.stderr.isatty() or "ipykernel" in sys.modules
            else 10,  # few lines where they pile up in a log file
            dynamic_ncols=True,
        )

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Advance the bar."""
        self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch and the bounds."""
        if self._bar is None:
            return
        shown = {"epoch": f"{trainer.current_epoch + 1}"}
        for name in ("train/elbo", "val/elbo"):
            if name in trainer.callback_metrics:
                shown[name] = f"{trainer.callback_metrics[name].item():.2f}"
        self._bar.set_postfix(shown, refresh=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._bar.refresh()
        self._bar.close()
        self._bar = None

    def on_exception(self, *args: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
