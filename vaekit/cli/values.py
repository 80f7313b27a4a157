"""Checks of numbers that a command could use only with a wrong or useless result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vaekit.exceptions import ConfigError

MINIMUM = {
    **dict.fromkeys(("accumulate_grad_batches", "check_val_every_n_epoch", "num_nodes"), 1),
    **dict.fromkeys(("max_epochs", "max_steps", "num_sanity_val_steps"), -1),
    **dict.fromkeys(("min_epochs", "min_steps", "log_every_n_steps", "gradient_clip_val", "fast_dev_run",
                     "overfit_batches", "limit_train_batches", "limit_val_batches", "limit_test_batches",
                     "limit_predict_batches", "reload_dataloaders_every_n_epochs"), 0),
}  # fmt: skip
MAX_SEED = 2**32 - 1  # the limit of NumPy and Lightning


def check_minimum(minimum: float, **values: float | None) -> None:
    """Check that numbers, unless None, are at least a minimum.

    Raises
    ------
    ConfigError
        If one is smaller.
    """
    for name, value in values.items():
        if value is not None and not value >= minimum:
            raise ConfigError(f"{name}={value} must be at least {minimum}.")


def check_seed(seed: int | None, name: str = "seed") -> None:
    """Check that NumPy accepts a seed.

    Raises
    ------
    ConfigError
        If it does not.
    """
    if seed is None or not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"{name}={seed} must be a whole number from 0 to {MAX_SEED}.")


def read_assignments(texts: Sequence[str] | None, name: str) -> dict[str, list[str]]:
    """Return the values of each key in texts such as ``"donor=A"``.

    Raises
    ------
    ConfigError
        If a text is not of this form.

    Examples
    --------
    >>> read_assignments(["donor=A", "donor=B", "age=40"], "covariates")
    {'donor': ['A', 'B'], 'age': ['40']}
    """
    values: dict[str, list[str]] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"{name}={text!r} must have the form NAME=VALUE, such as donor=A.")
        values.setdefault(key, []).append(value)
    return values


def check_trainer_values(trainer: Any) -> None:
    """Check the numbers of a parsed ``trainer`` section that Lightning accepts without an effect.

    Raises
    ------
    ConfigError
        If one is not finite, or out of its range.
    """
    import pytorch_lightning as pl

    from vaekit._core.arguments import check_arguments

    values = vars(trainer)
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
    if values.get("enable_checkpointing") is False or values.get("barebones"):
        name = "barebones" if values.get("barebones") else "enable_checkpointing"
        raise ConfigError(f"trainer.{name}={values[name]} is not supported: each run writes last.ckpt. Omit it.")
