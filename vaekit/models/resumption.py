"""State of a training within an epoch, which Lightning's own checkpoints do not hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.trainer.states import TrainerFn

if TYPE_CHECKING:
    from vaekit.models.running_means import RunningMeans


def within_epoch(trainer: pl.Trainer | None, module: pl.LightningModule, means: RunningMeans) -> dict[str, Any]:
    """Return the state of this process that an epoch builds up, as plain data.

    Returns
    -------
    dict
        ``means``: the sums of the metrics; ``gradients``: those that are accumulated until the next step, by name.
    """
    gradients = {}
    if trainer is not None and trainer.state.fn == TrainerFn.FITTING and trainer.fit_loop._should_accumulate():
        gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    return {"means": means.state_dict(), "gradients": gradients}


def resume_within_epoch(
    trainer: pl.Trainer, module: pl.LightningModule, means: RunningMeans, state: Mapping[str, Any]
) -> None:
    """Continue, at the start of training, from the state that :func:`within_epoch` returned."""
    if not state:
        return
    means.load_state_dict(state["means"])
    for name, parameter in module.named_parameters():
        if name in state["gradients"]:
            parameter.grad = state["gradients"][name].to(parameter)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler):  # it acts at the start of an epoch alone
            callback.on_train_epoch_start(trainer)


def skip_finished_epoch(trainer: pl.Trainer) -> None:
    """Begin the next epoch if a training with ``max_steps`` is resumed at the end of one.

    Lightning would end that epoch a second time, without a batch: it would count twice towards ``max_epochs``.
    """
    loop = trainer.fit_loop
    current: Any = loop.epoch_progress.current
    if loop.restarting and loop.restarted_on_epoch_end and current.ready == current.started == current.processed:
        loop.epoch_progress.increment_completed()
        current.completed = current.processed
        loop.reset_restart_stage()
        loop.epoch_loop.reset_restart_stage()
        loop._restarting = False
        loop.epoch_loop.restarting = False
