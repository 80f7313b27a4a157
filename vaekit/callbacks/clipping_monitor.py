"""How often the gradient is clipped."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor


class GradientClippingMonitor(Callback):
    """Logs ``train/clip_fraction``, the share of an epoch's steps whose gradient was clipped.

    Clipping is there for the rare step that would undo the training; a share near 1 says that it sets the step size,
    and ``trainer.gradient_clip_val`` or the learning rate is too small or too large. The norm is that which clipping
    works out anyway, and the count stays on the device. Without clipping nothing is logged.
    """

    def __init__(self) -> None:
        self._clipped: Tensor | int = 0
        self._steps = 0
        self._last = -1

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Begin a count (Lightning's hook)."""
        self._clipped, self._steps, self._last = 0, 0, trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        """Count the step (Lightning's hook)."""
        norm, limit = pl_module.gradient_norm, trainer.gradient_clip_val
        if norm is None or not limit or trainer.global_step == self._last:  # a batch that is only accumulated
            return
        self._last = trainer.global_step
        self._clipped = self._clipped + (norm > limit)
        self._steps += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log the share (Lightning's hook)."""
        if self._steps:
            pl_module.log("train/clip_fraction", self._clipped / self._steps, sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the count, so that a resumed epoch continues it."""
        return {"clipped": int(self._clipped), "steps": self._steps, "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the count of a checkpoint."""
        self._clipped, self._steps, self._last = state["clipped"], state["steps"], state["last"]
