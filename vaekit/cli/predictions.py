"""Output of ``vaekit predict``: the latents of all observations, in their order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from vaekit._core.atomic import atomic_write, try_writing
from vaekit.callbacks.run_archive import make_directory


def write_predictions(trainer: pl.Trainer, directory: Path, predict: Callable[[], Any]) -> None:
    """Write the latents of all observations to ``predictions.pt``.

    Parameters
    ----------
    trainer : Trainer
        The trainer; the first of its processes writes.
    directory : Path
        Run directory. It is checked before the prediction.
    predict : callable
        Returns the latents of each mini-batch by name.

    Raises
    ------
    ConfigError
        If the directory cannot be created.
    OutputError
        If the file cannot be written.
    """
    path = directory / "predictions.pt"
    if trainer.is_global_zero:
        make_directory(directory)
        try_writing(path)
    batches = in_order(predict())
    if not trainer.is_global_zero:
        return
    latents = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    with atomic_write(path) as temporary:
        torch.save(latents, temporary)
    print(f"Wrote {path}: " + ", ".join(f"{name} {list(value.shape)}" for name, value in latents.items()))


def in_order(batches: Any) -> list[Any]:
    """Return the predictions of all ranks in the order of the observations; ranks have the batches round-robin."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return list(batches)
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, batches)
    return [batch for group in zip(*gathered, strict=True) for batch in group]
