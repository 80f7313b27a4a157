"""The validation bound against steps and against the time spent in training."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback


class Point(NamedTuple):
    """The bound after some training.

    Attributes
    ----------
    step
        Training steps.
    seconds
        Wall-clock time of these steps, without validation.
    elbo
        Validation bound, in nats.
    """

    step: int
    seconds: float
    elbo: float


class ELBOCurve(Callback):
    """Keeps the validation bound of each validation, with the steps and the training time up to it.

    Attributes
    ----------
    points
        The curve, a list of :class:`Point`.
    """

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._seconds = 0.0
        self._since: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, also within an epoch that is resumed (Lightning's hook)."""
        self._since = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock (Lightning's hook)."""
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock (Lightning's hook)."""
        self._stop()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the bound, and let the clock go on (Lightning's hook)."""
        if "val/elbo" in trainer.callback_metrics:
            elbo = trainer.callback_metrics["val/elbo"].item()
            self.points.append(Point(trainer.global_step, self._seconds, elbo))
        self._since = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Stop the clock (Lightning's hook)."""
        self._stop()

    def state_dict(self) -> dict[str, Any]:
        """Return the curve and the time, so that a resumed run continues them."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return {"points": [list(point) for point in self.points], "seconds": self._seconds + running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the curve of a checkpoint."""
        self.points, self._seconds = [Point(*point) for point in state["points"]], state["seconds"]

    def _stop(self) -> None:
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None
