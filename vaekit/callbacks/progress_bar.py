"""Progress bar of a training run."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from typing_extensions import override


class TrainingProgressBar(ProgressBar):
    """Progress bar over all training steps, with the epoch and the latest ELBOs.

    The bars of Lightning are per epoch, which flickers on small data. Evaluation loops do not have a bar.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> pl.Trainer(max_epochs=2, callbacks=[vaekit.callbacks.TrainingProgressBar()], logger=False).fit(model, data)
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._is_enabled = True

    @override
    def disable(self) -> None:
        self._is_enabled = False

    @override
    def enable(self) -> None:
        self._is_enabled = True

    @override
    def print(self, *args: Any, **kwargs: Any) -> None:
        from tqdm import tqdm

        tqdm.write(" ".join(map(str, args)), file=sys.stderr)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        from tqdm.auto import tqdm

        total = trainer.estimated_stepping_batches
        interval = 0.2 if sys.stderr.isatty() or "ipykernel" in sys.modules else 10  # few lines in a log file
        self._bar = tqdm(
            total=int(total) if 0 < total < math.inf else None, initial=trainer.global_step, desc="training",
            unit="step", disable=not self._is_enabled, mininterval=interval, dynamic_ncols=True,
        )  # fmt: skip

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._bar.update(trainer.global_step - self._bar.n)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is None:
            return
        metrics = trainer.callback_metrics
        elbos = {name: f"{metrics[name].item():.2f}" for name in ("train/elbo", "val/elbo") if name in metrics}
        self._bar.set_postfix({"epoch": str(trainer.current_epoch + 1)} | elbos, refresh=False)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bar.refresh()
        self._close()

    @override
    def on_exception(self, *args: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
