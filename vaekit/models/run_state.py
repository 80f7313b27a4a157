"""State of a run that Lightning's checkpoints omit: RNG states, metrics and gradients within an epoch."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.trainer.states import TrainerFn

from vaekit.models.distributed import gather, get_rank_rng_state
from vaekit.models.metric_accumulator import MetricAccumulator
from vaekit.models.parameter_groups import match_precision
from vaekit.models.resume import check_same_arguments


def store_run_state(
    checkpoint: dict[str, Any], module: pl.LightningModule, trainer: pl.Trainer | None, metrics: MetricAccumulator
) -> None:
    """Store the data registry, and the RNG state, metrics and accumulated gradients of each rank."""
    gradients = {}
    if trainer is not None and trainer.state.fn == TrainerFn.FITTING and trainer.fit_loop._should_accumulate():
        gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    within_epoch = {"means": metrics.state_dict(), "gradients": gradients}
    states = gather({"random": get_rng_state(), "within_epoch": within_epoch})
    checkpoint["data_registry"] = module.data_registry
    checkpoint["random_state"], *others = (state["random"] for state in states)
    if others:
        checkpoint["random_states_of_others"] = others
    checkpoint["within_epoch"] = [state["within_epoch"] for state in states]


def restore_run_state(
    checkpoint: Mapping[str, Any], module: pl.LightningModule, trainer: pl.Trainer | None
) -> dict[str, Any]:
    """Match the precision of the weights; if ``fit`` is resumed, check its arguments and restore the RNG state.

    The RNG state must be restored before the data loader draws its order.

    Returns
    -------
    dict
        State for :func:`resume_epoch`.

    Raises
    ------
    CheckpointError
        If the run started with other arguments or another world size.
    """
    match_precision(module, checkpoint["state_dict"])
    if trainer is None or trainer.state.fn != TrainerFn.FITTING:
        return {}
    check_same_arguments(checkpoint.get("hyper_parameters", {}), dict(module.hparams), "model")
    data: Any = getattr(trainer, "datamodule", None)
    current = {} if data is None else dict(data.hparams)
    check_same_arguments(checkpoint.get("datamodule_hyper_parameters", {}), current, "data")
    state = get_rank_rng_state(checkpoint, trainer.global_rank, trainer.world_size)
    if state is None:
        return {}
    set_rng_state(state)
    # rank 0 wrote the loader's state; only its RNG state differs between ranks
    loaders = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).get("combined_loader", [])
    return {
        "within_epoch": dict(enumerate(checkpoint.get("within_epoch", []))).get(trainer.global_rank, {}),
        "loaders": [{**each, "now": state["torch"]} if "now" in each else each for each in loaders],
    }


def resume_epoch(
    module: pl.LightningModule, trainer: pl.Trainer, metrics: MetricAccumulator, state: dict[str, Any]
) -> None:
    """Restore, at the start of training, the state from :func:`restore_run_state`, and clear it."""
    metrics.reset()
    if within_epoch := state.get("within_epoch"):
        metrics.load_state_dict(within_epoch["means"])
        for name, parameter in module.named_parameters():
            if name in within_epoch["gradients"]:
                parameter.grad = within_epoch["gradients"][name].to(parameter)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler):  # acts at the start of an epoch only
                callback.on_train_epoch_start(trainer)
    restarting, loader = trainer.fit_loop.restarting, trainer.train_dataloader
    epoch_ended = skip_finished_epoch(trainer)
    # Lightning may have created the loader before it restored the position
    if state.get("loaders") and restarting and loader is not None and hasattr(loader, "load_state_dict"):
        position = state["loaders"][0]
        # limit_train_batches omits the rest of the epoch
        loader.load_state_dict({**position, "position": 0} if epoch_ended and "position" in position else position)
    state.clear()


def skip_finished_epoch(trainer: pl.Trainer) -> bool:
    """Start the next epoch if a run with ``max_steps`` is resumed at the end of one, and return whether it was.

    Lightning would end this epoch twice, the second time without a batch, and count it twice towards ``max_epochs``.
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


def ends_epoch(trainer: pl.Trainer) -> bool:
    """Return whether the epoch ends with the current training step."""
    stops = trainer.should_stop and trainer.fit_loop._can_stop_early
    return stops or trainer.is_last_batch or trainer.global_step >= trainer.max_steps >= 0


def get_rng_state() -> dict[str, Any]:
    """Return the RNG states of torch (and of CUDA if used), NumPy and Python, loadable with ``weights_only=True``."""
    name, keys, *rest = np.random.get_state(legacy=True)
    version, numbers, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": [version, list(numbers), gauss],
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Set the RNG states from :func:`get_rng_state`.

    Examples
    --------
    >>> state = get_rng_state()
    >>> first = torch.rand(2), np.random.rand(), random.random()
    >>> set_rng_state(state)
    >>> second = torch.rand(2), np.random.rand(), random.random()
    >>> first[0].equal(second[0]), first[1:] == second[1:]
    (True, True)
    """
    torch.set_rng_state(state["torch"].cpu())
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    cuda = state.get("cuda", [])
    if cuda and torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([each.cpu() for each in cuda])
