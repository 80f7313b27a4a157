"""Checks that a resumed run, or a new run from trained weights, has the same data and arguments."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, GradientAccumulationScheduler

from vaekit.exceptions import CheckpointError

FEATURE_KEYS = {
    "feature_names": "features (genes)",
    "batch_categories": "batches",
    "categorical_covariate_keys": "categorical covariates",
    "continuous_covariate_keys": "continuous covariates",
}
LOCATION_KEYS = {"path", "root", "adata"}  # may change: the fingerprint identifies the data


def check_same_features(trained: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raise a CheckpointError if two data registries differ in their features or covariates."""
    pairs = [(noun, trained.get(key), current.get(key)) for key, noun in FEATURE_KEYS.items()]
    before, now = (registry.get("categorical_covariate_keys") or {} for registry in (trained, current))
    pairs += [(f"categories of the covariate {name!r}", before[name], now[name]) for name in before if name in now]
    for noun, old, new in pairs:
        if old is not None and new is not None and list(old) != list(new):
            first = next((f"{o!r} and {n!r}" for o, n in zip(old, new, strict=False) if o != n), "the end of the list")
            raise CheckpointError(
                f"the model was trained on {len(old)} {noun}, but the data have {len(new)}, or in another order. The "
                f"first difference: {first}. Provide the same {noun} in the same order."
            )


def check_same_arguments(trained: Mapping[str, Any], current: Mapping[str, Any], owner: str) -> None:
    """Raise a CheckpointError if a run is resumed with other arguments than it started with."""
    common = (trained.keys() & current.keys()) - LOCATION_KEYS
    different = [key for key in sorted(common) if trained[key] != current[key]]
    if different:
        values = "; ".join(f"{key} was {trained[key]!r}, is {current[key]!r}" for key in different)
        raise CheckpointError(
            f"the run of this checkpoint cannot be resumed with other arguments of the {owner}: {values}. Restore "
            "them, or load the weights with vaekit.load and start a new run."
        )


def run_content(trainer: pl.Trainer, callbacks: Iterable[Callback]) -> dict[str, Any]:
    """Return what a checkpoint contains about a run, except for the weights: states of callbacks, steps, arguments."""
    return {
        "callbacks": {callback.state_key: callback.state_dict() for callback in callbacks},
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "training": training_arguments(trainer),
    }


def training_arguments(trainer: pl.Trainer) -> dict[str, Any]:
    """Return, as plain data, the trainer's arguments that a resumed run must keep.

    The number of epochs, devices, loggers and callbacks may change. The seed is included if Lightning's
    ``seed_everything`` was called.
    """
    arguments: dict[str, Any] = {"gradient_clip_val": trainer.gradient_clip_val or None}  # 0 means no clipping, too
    scheduled = any(isinstance(each, GradientAccumulationScheduler) for each in trainer.callbacks)  # type: ignore[attr-defined]
    if not scheduled:  # a scheduler changes the number between epochs
        arguments["accumulate_grad_batches"] = trainer.accumulate_grad_batches
    if (seed := os.environ.get("PL_GLOBAL_SEED")) is not None:
        arguments["seed_everything"] = int(seed)
    return arguments
