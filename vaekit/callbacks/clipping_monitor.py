"""Monitor of gradient clipping."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from typing_extensions import override


class GradientClippingMonitor(Callback):
    """Callback that logs ``train/clip_fraction``, the fraction of an epoch's steps whose gradient was clipped.

    Clipping protects against rare steps that would undo the training. A fraction near 1 means that it determines the
    step size: ``trainer.gradient_clip_val`` is too small or the learning rate too large. The norm is the one that
    clipping computes, and the count stays on the device. Without clipping, no metric is logged.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> monitor = vaekit.callbacks.GradientClippingMonitor()
    >>> trainer = pl.Trainer(
    ...     max_epochs=2, callbacks=[monitor], gradient_clip_val=100.0, logger=False, enable_progress_bar=False
    ... )
    >>> trainer.fit(model, datamodule=data)
    >>> "train/clip_fraction" in trainer.callback_metrics
    True
    """

    def __init__(self) -> None:
        self._num_clipped: Tensor | int = 0
        self._num_steps = 0
        self._last_step = -1

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._num_clipped, self._num_steps, self._last_step = 0, 0, trainer.global_step

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        norm, limit = pl_module.gradient_norm, trainer.gradient_clip_val
        is_accumulated = trainer.global_step == self._last_step
        if norm is None or not limit or is_accumulated:
            return
        self._last_step = trainer.global_step
        self._num_clipped = self._num_clipped + (norm > limit)
        self._num_steps += 1

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._num_steps:
            pl_module.log("train/clip_fraction", self._num_clipped / self._num_steps, sync_dist=True)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"clipped": int(self._num_clipped), "steps": self._num_steps, "last": self._last_step}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._num_clipped, self._num_steps, self._last_step = state["clipped"], state["steps"], state["last"]
