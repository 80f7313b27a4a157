"""Numbers that Lightning's trainer accepts and that would have no effect, or another one than it seems."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from vaekit._core.arguments import check_arguments
from vaekit.exceptions import ConfigError

LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "num_nodes": 1,
    "max_epochs": -1,
    "max_steps": -1,
    "min_epochs": 0,
    "min_steps": 0,
    "num_sanity_val_steps": -1,
    "log_every_n_steps": 0,
    "gradient_clip_val": 0,
    "fast_dev_run": 0,
    "overfit_batches": 0,
    "limit_train_batches": 0,
    "limit_val_batches": 0,
    "limit_test_batches": 0,
    "limit_predict_batches": 0,
    "reload_dataloaders_every_n_epochs": 0,
}


def check_values(trainer: Any) -> None:
    """Check the numbers of a parsed ``trainer`` section.

    Raises
    ------
    ConfigError
        If one is out of its range, or not finite.
    """
    values = vars(trainer)
    check_arguments(pl.Trainer.__init__, values, "trainer.")
    for name, least in LEAST.items():
        value = values.get(name)
        if value is not None and value < least:
            raise ConfigError(f"trainer.{name}={value} must be at least {least}.")
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if values.get(name) == 0:
            raise ConfigError(f"trainer.{name}={values[name]} must not be 0: nothing would be trained.")
    for unit in ("epochs", "steps"):
        least, most = values.get(f"min_{unit}"), values.get(f"max_{unit}")
        if least is not None and most is not None and 0 <= most < least:
            raise ConfigError(f"trainer.min_{unit}={least} must not exceed trainer.max_{unit}={most}.")
    if "://" in str(values.get("default_root_dir")):
        raise ConfigError(f"trainer.default_root_dir={values['default_root_dir']!r} must be a local directory.")
    interval = values.get("val_check_interval")
    if isinstance(interval, int | float) and interval <= 0:
        raise ConfigError(
            f"trainer.val_check_interval={interval} must be positive: a fraction of an epoch, or a number of batches."
        )
    if values.get("gradient_clip_algorithm") not in (None, "norm"):
        raise ConfigError(
            f"trainer.gradient_clip_algorithm={values['gradient_clip_algorithm']!r} is not supported. Leave it out: "
            "gradients are clipped by their norm."
        )
    if values.get("enable_checkpointing") is False or values.get("barebones"):
        name = "barebones" if values.get("barebones") else "enable_checkpointing"
        raise ConfigError(f"trainer.{name}={values[name]} is not supported: each run writes last.ckpt. Leave it out.")
