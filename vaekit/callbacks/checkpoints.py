"""Checkpoints of a run: the last one and the best one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.trainer.states import TrainerFn

from vaekit.atomic import remove_parts, written
from vaekit.exceptions import ConfigError
from vaekit.models.agreement import check_same_arguments, training_arguments


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to a temporary name in its own folder, and renames it when it is on the disk.

    Lightning's own writes to the machine's folder for temporary files. Where that is another disk, moving it copies it,
    and a process that is killed meanwhile leaves half a checkpoint under the name of the last good one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises
        ------
        OutputError
            If it cannot be written, on a full disk say; the one that was there is as it was.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path) as temporary:
            torch.save(checkpoint, temporary)


class RunCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt`` and, by the validation bound, ``best.ckpt`` in the run's folder.

    Both are there whole or not at all, whenever the process is killed (:class:`WholeCheckpoints`). The last one is
    written with each best one, at the end of training, and when ``every_n_steps`` steps have gone by without: at the
    end of an epoch or within it. A training that goes on from it ends with the weights of one that was never stopped,
    and is refused with another seed or another clipping of gradients.

    Parameters
    ----------
    dirpath
        The run's folder; None for the trainer's ``default_root_dir``.
    every_n_steps
        Training steps after which ``last.ckpt`` is written again: the most that is lost if the process is killed.

    Raises
    ------
    ConfigError
        If ``every_n_steps`` is below 1.
    """

    def __init__(self, dirpath: str | None = None, every_n_steps: int = 1000) -> None:
        if every_n_steps < 1:
            raise ConfigError(f"RunCheckpoint: every_n_steps is {every_n_steps}; 1 at least")
        super().__init__(dirpath, filename="best", monitor="val/elbo", mode="max", save_last=True, save_top_k=1,
                         enable_version_counter=False)  # fmt: skip
        self.every_n_steps = every_n_steps
        self._saved_at = 0  # training steps

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Settle folder and writer (Lightning's hook)."""
        if self.dirpath is None:
            self.dirpath = trainer.default_root_dir
        super().setup(trainer, pl_module, stage)
        assert self.dirpath is not None
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # and not one that somebody chose
            trainer.strategy.checkpoint_io = WholeCheckpoints()
        if stage == "fit" and trainer.is_global_zero:
            remove_parts(self.dirpath, "*.ckpt")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the trainer's arguments and the seed (Lightning's hook)."""
        checkpoint["training"] = training_arguments(trainer)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to go on as another training (Lightning's hook)."""
        if trainer.state.fn == TrainerFn.FITTING:
            check_same_arguments(checkpoint.get("training", {}), training_arguments(trainer), "training")

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write the last state within an epoch, if it is time (Lightning's hook)."""
        super().on_train_batch_end(trainer, *args)
        if not trainer.is_last_batch:
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write the best and the last state, or the last alone, if it is time (Lightning's hook)."""
        super().on_train_epoch_end(trainer, *args)
        self._save_if_due(trainer)

    def on_train_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write the last state, which may be later than the last validation (Lightning's hook)."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super().on_train_end(trainer, *args)
            self._save_last_state(trainer)

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        since = max(self._saved_at, self._last_global_step_saved)  # Lightning writes the last one with the best
        if trainer.global_step - since >= self.every_n_steps and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save_last_state(trainer)

    def _save_last_state(self, trainer: pl.Trainer) -> None:
        assert self.dirpath is not None  # setup() came first
        trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")
        self._saved_at = trainer.global_step
