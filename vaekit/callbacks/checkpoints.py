"""Checkpoints of a run: the last and the best one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from filelock import FileLock
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.trainer.states import TrainerFn
from typing_extensions import override

from vaekit._core.atomic import atomic_write, remove_partial_files
from vaekit.callbacks.run_lock import lock_run, unlock_run
from vaekit.exceptions import ConfigError
from vaekit.models.checkpoint import check_undamaged
from vaekit.models.resume import check_same_arguments, training_arguments


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint plugin that writes to a temporary file in the directory, and renames it when it is complete.

    Lightning writes to the directory of temporary files, which may be on another disk. Moving the file from there is a
    copy: a process that is killed meanwhile leaves an incomplete checkpoint with the name of the last complete one.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save a checkpoint, or raise an OutputError and keep the previous one, for example on a full disk."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    @override
    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint, or raise a CheckpointError if the file is damaged."""
        if Path(path).is_file():
            check_undamaged(Path(path))
        return super().load_checkpoint(path, *args, **kwargs)


class RunCheckpoint(ModelCheckpoint):
    """Callback that saves ``last.ckpt``, and ``best.ckpt`` by the validation ELBO, in the run directory.

    Both files are complete at any time (:class:`AtomicCheckpointIO`). The best one is saved only after the mixture
    prior of a :class:`vaekit.latents.MixtureComponent` has started. The last checkpoint is saved together with each
    best one, at the end of training, and ``every_n_steps`` steps after the previous one, also within an epoch. A run
    that is resumed from it ends with the same weights as an uninterrupted one. Another seed, gradient clipping or
    accumulation of gradients is rejected.

    Parameters
    ----------
    dirpath : str, optional
        Run directory; by default the trainer's ``default_root_dir``.
    every_n_steps : int
        Maximum number of training steps between saves of ``last.ckpt``.

    Raises
    ------
    ConfigError
        If ``every_n_steps`` is below 1; at the start of training, if another run writes to the directory.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> checkpoint = vaekit.callbacks.RunCheckpoint("run")
    >>> pl.Trainer(max_epochs=2, callbacks=[checkpoint], logger=False, enable_progress_bar=False).fit(model, data)
    >>> vaekit.load("run/last.ckpt").features
    60
    """

    def __init__(self, dirpath: str | None = None, every_n_steps: int = 1000) -> None:
        if every_n_steps < 1:
            raise ConfigError(f"RunCheckpoint: every_n_steps={every_n_steps} must be at least 1.")
        super().__init__(dirpath, filename="best", monitor="val/elbo", mode="max", save_last=True, save_top_k=1,
                         save_on_train_epoch_end=False, enable_version_counter=False)  # fmt: skip
        self.every_n_steps = every_n_steps
        self._lock: FileLock | None = None
        self._last_save = 0  # training step
        self._saves_best = False  # the checkpoint that is being saved has the best validation so far
        self._awaits_epoch_end = False  # validated at the last batch of the epoch

    @property
    def _directory(self) -> Path:
        assert self.dirpath is not None  # setup() has set it
        return Path(self.dirpath)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.dirpath is None:
            self.dirpath = trainer.default_root_dir
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # keep a plugin that the user selected
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if stage == "fit" and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            is_new = not self._directory.exists()
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock = lock_run(self._directory, is_new)
            if self._lock is None:
                raise ConfigError(
                    f"RunCheckpoint: dirpath={str(self.dirpath)!r} is in use by another run. Wait until that run has "
                    "ended, or choose another directory."
                )
            remove_partial_files(self._directory, "*.ckpt")

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._unlock()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            unlock_run(self._lock)
            self._lock = None

    @override
    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["training"] = training_arguments(trainer)

    @override
    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            check_same_arguments(checkpoint.get("training", {}), training_arguments(trainer), "training")

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the ELBOs, and whether the checkpoint is the best one; no paths, as the run directory may be moved."""
        scores = {"best": self.best_model_score, "current": self.current_score}
        return {**scores, "is_best": self._saves_best}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        path, self.current_score = self._directory / "best.ckpt", state_dict["current"]
        if state_dict["best"] is not None and path.is_file():
            self.best_model_score = self.kth_value = state_dict["best"]
            self.best_model_path = self.kth_best_model_path = str(path)
            self.best_k_models = {str(path): state_dict["best"]}

    @override
    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_start(trainer, *args)
        self._last_save = trainer.global_step  # of the checkpoint that the run is resumed from

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_batch_end(trainer, *args)
        fit_loop: Any = trainer.fit_loop
        validates = fit_loop.epoch_loop._should_check_val_fx(fit_loop._data_fetcher)
        if not trainer.is_last_batch and not validates:  # a run resumed from here would skip the validation
            self._save_if_due(trainer)

    @override
    def on_validation_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if trainer.is_last_batch:  # save at the end of the epoch, which logs metrics that the checkpoint contains
            self._awaits_epoch_end = True
            return
        self._save_best(trainer, *args)
        self._save_if_due(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self._awaits_epoch_end:
            self._awaits_epoch_end = False
            self._save_best(trainer, *args)
        self._save_if_due(trainer)

    @override
    def on_train_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super().on_train_end(trainer, *args)
            self._save_last(trainer)

    def _save_best(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.lightning_module.held_priors:  # a mixture without components has no codes
            return
        self._saves_best = True
        super().on_validation_end(trainer, *args)
        self._saves_best = False

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        last_save = max(self._last_save, self._last_global_step_saved)  # Lightning saves last.ckpt with the best one
        is_due = trainer.global_step - last_save >= self.every_n_steps
        if is_due and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save_last(trainer)

    def _save_last(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self._directory / "last.ckpt")
        self._last_save = trainer.global_step
