"""Curve of the validation ELBO over training steps and time."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from typing_extensions import override


class Point(NamedTuple):
    """Validation ELBO at one point of a run.

    Attributes
    ----------
    step : int
        Number of training steps.
    seconds : float
        Wall-clock time of these steps, without validation.
    elbo : float
        Validation ELBO in nats.
    """

    step: int
    seconds: float
    elbo: float


class ELBOCurve(Callback):
    """Callback that stores the ELBO of each validation, with the training steps and time before it.

    Attributes
    ----------
    points : list of Point
        The curve.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> curve = vaekit.callbacks.ELBOCurve()
    >>> pl.Trainer(max_epochs=2, callbacks=[curve], logger=False, enable_progress_bar=False).fit(model, data)
    >>> [point.step for point in curve.points]
    [0, 4, 8]
    """

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._seconds = 0.0
        self._start: float | None = None

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = time.perf_counter()  # a run that is resumed within an epoch does not start one

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = time.perf_counter()

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop_clock()

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "val/elbo" in trainer.callback_metrics:
            elbo = trainer.callback_metrics["val/elbo"].item()
            self.points.append(Point(trainer.global_step, self._seconds, elbo))
        self._start = time.perf_counter()

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._stop_clock()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"points": [list(point) for point in self.points], "seconds": self._seconds + self._elapsed()}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.points, self._seconds = [Point(*point) for point in state["points"]], state["seconds"]

    def _elapsed(self) -> float:
        return 0.0 if self._start is None else time.perf_counter() - self._start

    def _stop_clock(self) -> None:
        self._seconds += self._elapsed()
        self._start = None
