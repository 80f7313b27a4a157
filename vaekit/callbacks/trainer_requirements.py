"""Requirements of callbacks on the trainer."""

from __future__ import annotations

import pytorch_lightning as pl

from vaekit.exceptions import ConfigError


def require_plain_steps(callback: str, trainer: pl.Trainer) -> None:
    """Raise an error unless each step is of one mini-batch, on one device and in float32."""
    requirements = {
        "devices": (trainer.world_size, 1),
        "precision": (trainer.precision, "32-true"),
        "accumulate_grad_batches": (trainer.accumulate_grad_batches, 1),
    }
    for name, (value, required) in requirements.items():
        if value != required:
            raise ConfigError(f"{callback}: trainer.{name}={value!r} is not supported. Set it to {required!r}.")
