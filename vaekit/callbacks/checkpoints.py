"""Checkpoints of a run: the last one and the best one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from filelock import FileLock
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.trainer.states import TrainerFn

from vaekit._core.atomic import atomic_write, remove_partial_files
from vaekit.callbacks.run_lock import lock_run, unlock_run
from vaekit.exceptions import ConfigError
from vaekit.models.checkpoint import check_undamaged
from vaekit.models.resume import check_same_arguments, training_arguments


class AtomicCheckpointIO(TorchCheckpointIO):
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
        with atomic_write(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises
        ------
        CheckpointError
            If it is damaged: a resumed run would start from other weights.
        """
        if Path(path).is_file():
            check_undamaged(Path(path))
        return super().load_checkpoint(path, *args, **kwargs)


class RunCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt`` and, by the validation bound, ``best.ckpt`` in the run's folder.

    Both are there whole or not at all, whenever the process is killed (:class:`AtomicCheckpointIO`). The last one is
    written with each best one, at the end of training, and when ``every_n_steps`` steps have gone by without: at the
    end of an epoch or within it. A training that goes on from it ends with the weights of one that was never stopped,
    and is refused with another seed, or another clipping or accumulation of gradients.

    Parameters
    ----------
    dirpath
        The run's folder; None for the trainer's ``default_root_dir``.
    every_n_steps
        Training steps after which ``last.ckpt`` is written again: the most that is lost if the process is killed.

    Raises
    ------
    ConfigError
        If ``every_n_steps`` is below 1; at the start of training, if another run writes to the directory.
    """

    def __init__(self, dirpath: str | None = None, every_n_steps: int = 1000) -> None:
        if every_n_steps < 1:
            raise ConfigError(f"RunCheckpoint: every_n_steps is {every_n_steps}; 1 at least")
        super().__init__(dirpath, filename="best", monitor="val/elbo", mode="max", save_last=True, save_top_k=1,
                         save_on_train_epoch_end=False, enable_version_counter=False)  # fmt: skip
        self.every_n_steps = every_n_steps
        self._lock: FileLock | None = None  # while it trains
        self._saved_at = 0  # training steps
        self._validated = False  # at the last batch of the epoch that is about to end

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Settle folder and writer (Lightning's hook)."""
        if self.dirpath is None:
            self.dirpath = trainer.default_root_dir
        super().setup(trainer, pl_module, stage)
        assert self.dirpath is not None
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # and not one that somebody chose
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if stage == "fit" and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            made = not Path(self.dirpath).exists()
            Path(self.dirpath).mkdir(parents=True, exist_ok=True)
            self._lock = lock_run(self.dirpath, made)
            if self._lock is None:
                raise ConfigError(
                    f"RunCheckpoint: dirpath={str(self.dirpath)!r} is in use by another run. Wait until that has "
                    "ended, or choose another directory."
                )
            remove_partial_files(self.dirpath, "*.ckpt")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release the run directory (Lightning's hook)."""
        super().teardown(trainer, pl_module, stage)
        self._unlock()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Release the run directory (Lightning's hook)."""
        super().on_exception(trainer, pl_module, exception)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            unlock_run(self._lock)
            self._lock = None

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

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Count steps from where a resumed run starts, which is on the disk (Lightning's hook)."""
        super().on_train_start(trainer, *args)
        self._saved_at = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """Return the bounds: the paths follow from the run directory, which may have been moved."""
        return {"best": self.best_model_score, "current": self.current_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the bounds of a checkpoint, if the best one is there."""
        assert self.dirpath is not None  # setup() came first
        path, self.current_score = os.path.join(self.dirpath, "best.ckpt"), state_dict["current"]
        if state_dict["best"] is not None and os.path.isfile(path):
            self.best_model_score = self.kth_value = state_dict["best"]
            self.best_model_path = self.kth_best_model_path = path
            self.best_k_models = {path: state_dict["best"]}

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write the last state within an epoch, if it is time (Lightning's hook)."""
        super().on_train_batch_end(trainer, *args)
        fit_loop: Any = trainer.fit_loop
        validates = fit_loop.epoch_loop._should_check_val_fx(fit_loop._data_fetcher)
        if not trainer.is_last_batch and not validates:  # a resumed run would leave out the validation
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write the best and the last state, or the last alone, if it is time (Lightning's hook)."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if trainer.is_last_batch:  # the end of the epoch, which is next, logs what a checkpoint should contain
            self._validated = True
            return
        super().on_validation_end(trainer, *args)
        self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write the best and the last state, or the last alone, if it is time (Lightning's hook)."""
        if self._validated:
            self._validated = False
            super().on_validation_end(trainer, *args)
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
