"""Whether a training that goes on, or begins from trained weights, has the data and arguments that it had."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import GradientAccumulationScheduler

from vaekit.exceptions import CheckpointError


def check_same_features(trained: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise a CheckpointError if data have other features or covariates than those that a model was trained on."""
    kinds = {
        "feature_names": "features (genes)",
        "batch_categories": "batches",
        "categorical_covariate_keys": "categorical covariates",
        "continuous_covariate_keys": "continuous covariates",
    }
    parts = [(what, trained.get(key), found.get(key)) for key, what in kinds.items()]
    levels, now = (state.get("categorical_covariate_keys") or {} for state in (trained, found))
    parts += [(f"levels of the covariate {name!r}", levels[name], now[name]) for name in levels if name in now]
    for what, before, after in parts:
        if before is not None and after is not None and list(before) != list(after):
            first = next((f"{b!r} and {n!r}" for b, n in zip(before, after, strict=False) if b != n), "the rest")
            raise CheckpointError(
                f"the model was trained on {len(before)} {what} and these data have {len(after)}, or in another order: "
                f"they differ first in {first}; give the data the same ones in the same order"
            )


def check_same_arguments(trained: Mapping[str, Any], found: Mapping[str, Any], of: str) -> None:
    """Raise a CheckpointError if a training goes on with other arguments than it began with.

    Where the data lie may change: that they are the same is told by their fingerprint.
    """
    common = (trained.keys() & found.keys()) - {"path", "root", "adata"}
    different = [key for key in common if trained[key] != found[key]]
    if different:
        values = "; ".join(f"{key} was {trained[key]!r}, is {found[key]!r}" for key in sorted(different))
        raise CheckpointError(
            f"the checkpoint's training cannot go on with other arguments of the {of}: {values}. Leave them as they "
            "were, or start from the trained weights with vaekit.load and a new training"
        )


def training_arguments(trainer: pl.Trainer) -> dict[str, Any]:
    """Return what, besides model and data, a training cannot change when it goes on, as plain data.

    Its length, devices, loggers and callbacks may change. The seed is that of Lightning's ``seed_everything``, and left
    out where this was never called.
    """
    found: dict[str, Any] = {"gradient_clip_val": trainer.gradient_clip_val or None}  # 0 is no clipping either
    scheduled = any(isinstance(each, GradientAccumulationScheduler) for each in trainer.callbacks)  # type: ignore[attr-defined]
    if not scheduled:  # else it is the number of the present epoch
        found["accumulate_grad_batches"] = trainer.accumulate_grad_batches
    if (seed := os.environ.get("PL_GLOBAL_SEED")) is not None:
        found["seed_everything"] = int(seed)
    return found
