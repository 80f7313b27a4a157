"""Checks of settings of a trainer that Lightning accepts without an effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from vaekit._core.arguments import check_arguments, check_minimum
from vaekit.exceptions import ConfigError

MINIMUM = {
    **dict.fromkeys(("accumulate_grad_batches", "check_val_every_n_epoch", "num_nodes"), 1),
    **dict.fromkeys(("max_epochs", "max_steps", "num_sanity_val_steps"), -1),
    **dict.fromkeys(("min_epochs", "min_steps", "log_every_n_steps", "gradient_clip_val", "fast_dev_run",
                     "overfit_batches", "limit_train_batches", "limit_val_batches", "limit_test_batches",
                     "limit_predict_batches", "reload_dataloaders_every_n_epochs"), 0),
}  # fmt: skip


def check_trainer_values(values: Mapping[str, Any], writes: bool = True) -> None:
    """Check settings of a trainer that Lightning accepts without an effect.

    Parameters
    ----------
    values : Mapping[str, Any]
        Arguments of ``pytorch_lightning.Trainer``.
    writes : bool
        Whether the run has a directory, and therefore checkpoints.

    Raises
    ------
    ConfigError
        If a number is not finite or out of its range, or if the checkpoints are switched off.
    """
    check_arguments(pl.Trainer.__init__, values, "trainer.")
    for name, minimum in MINIMUM.items():
        check_minimum(minimum, **{f"trainer.{name}": values.get(name)})
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if values.get(name) == 0:
            raise ConfigError(f"trainer.{name}={values[name]} must not be 0: nothing would be trained.")
    for unit in ("epochs", "steps"):
        low, high = values.get(f"min_{unit}"), values.get(f"max_{unit}")
        if low is not None and high is not None and 0 <= high < low:
            raise ConfigError(f"trainer.min_{unit}={low} must not exceed trainer.max_{unit}={high}.")
    if "://" in str(values.get("default_root_dir")):
        raise ConfigError(f"trainer.default_root_dir={values['default_root_dir']!r} must be a local directory.")
    interval = values.get("val_check_interval")
    if isinstance(interval, int | float) and interval <= 0:
        raise ConfigError(
            f"trainer.val_check_interval={interval} must be positive: a fraction of an epoch, or a number of batches."
        )
    if values.get("gradient_clip_algorithm") not in (None, "norm"):
        raise ConfigError(
            f"trainer.gradient_clip_algorithm={values['gradient_clip_algorithm']!r} is not supported. Omit it: "
            "gradients are clipped by their norm."
        )
    if values.get("barebones"):
        raise ConfigError("trainer.barebones=True is not supported: each run validates. Omit it.")
    if writes and values.get("enable_checkpointing") is False:
        raise ConfigError("trainer.enable_checkpointing=False is not supported: each run writes last.ckpt. Omit it.")
