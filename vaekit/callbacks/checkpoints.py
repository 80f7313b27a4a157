"""Checkpoints of a run: the last one and the best one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


class RunCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt`` and, by the validation bound, ``best.ckpt`` in the run's folder.

    Lightning writes both to a temporary name and renames them. The last one is written at the end of training
    too, wherever that falls within an epoch.

    Parameters
    ----------
    dirpath
        The run's folder; None for the trainer's ``default_root_dir``.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        super().__init__(dirpath, filename="best", monitor="val/elbo", mode="max", save_last=True, save_top_k=1,
                         enable_version_counter=False)  # fmt: skip

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Settle the folder (Lightning's hook)."""
        if self.dirpath is None:
            self.dirpath = trainer.default_root_dir
        super().setup(trainer, pl_module, stage)

    def on_train_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write the last state, which may be later than the last validation."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        super().on_train_end(trainer, *args)
        assert self.dirpath is not None  # setup() came first
        trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")
