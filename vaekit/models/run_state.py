"""State of a run that Lightning's own checkpoints do not hold: within an epoch, and of random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.trainer.states import TrainerFn

from vaekit.models.distributed import gather, get_rank_rng_state
from vaekit.models.resume import check_same_arguments
from vaekit.models.rng_state import get_rng_state, set_rng_state

if TYPE_CHECKING:
    from vaekit.models.metric_accumulator import MetricAccumulator


def store(
    checkpoint: dict[str, Any], trainer: pl.Trainer | None, module: pl.LightningModule, means: MetricAccumulator
) -> None:
    """Put the state of each process into a checkpoint."""
    states = gather({"random": get_rng_state(), "within_epoch": within_epoch(trainer, module, means)})
    checkpoint["random_state"], *others = (state["random"] for state in states)
    if others:
        checkpoint["random_states_of_others"] = others
    checkpoint["within_epoch"] = [state["within_epoch"] for state in states]  # of each process


def accept(checkpoint: Mapping[str, Any], trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """Check that a run can resume from a checkpoint, and set this process's random state.

    Returns
    -------
    dict
        What :func:`resume` needs.

    Raises
    ------
    CheckpointError
        If the run started with other arguments, or on another number of processes.
    """
    check_same_arguments(checkpoint.get("hyper_parameters", {}), dict(module.hparams), "model")
    data: Any = getattr(trainer, "datamodule", None)
    same = checkpoint.get("datamodule_hyper_parameters", {})
    check_same_arguments(same, {} if data is None else dict(data.hparams), "data")
    state = get_rank_rng_state(checkpoint, trainer.global_rank, trainer.world_size)
    if state is None:
        return {}
    set_rng_state(state)
    # as the first process wrote them, except for the generator
    found = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).get("combined_loader", [])
    return {
        "within_epoch": dict(enumerate(checkpoint.get("within_epoch", []))).get(trainer.global_rank, {}),
        "loaders": [{**each, "now": state["torch"]} if "now" in each else each for each in found],
    }


def resume(
    trainer: pl.Trainer, module: pl.LightningModule, means: MetricAccumulator, resumed: Mapping[str, Any]
) -> None:
    """Continue, at the start of training, from what :func:`accept` returned.

    Lightning may have made the data's loader before it knew where it was.
    """
    resume_within_epoch(trainer, module, means, resumed.get("within_epoch", {}))
    restarting, loader = trainer.fit_loop.restarting, trainer.train_dataloader
    ended = skip_finished_epoch(trainer)
    if resumed.get("loaders") and restarting and loader is not None and hasattr(loader, "load_state_dict"):
        state = resumed["loaders"][0]
        # limit_train_batches omits the rest of the epoch
        loader.load_state_dict({**state, "position": 0} if ended and "position" in state else state)


def within_epoch(trainer: pl.Trainer | None, module: pl.LightningModule, means: MetricAccumulator) -> dict[str, Any]:
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
    trainer: pl.Trainer, module: pl.LightningModule, means: MetricAccumulator, state: Mapping[str, Any]
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


def skip_finished_epoch(trainer: pl.Trainer) -> bool:
    """Start the next epoch if a run with ``max_steps`` is resumed at the end of one; return whether it was.

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
        return True
    return False
