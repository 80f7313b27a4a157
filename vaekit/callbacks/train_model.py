"""Training of a model in Python: its trainer, the best weights, and the interrupt."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from vaekit._core.run_context import restored_interrupt
from vaekit.callbacks.best_weights import BestWeights
from vaekit.callbacks.figure_writer import FigureWriter
from vaekit.callbacks.run_archive import report_archive
from vaekit.callbacks.run_callbacks import add_defaults, run_callbacks
from vaekit.callbacks.run_record import RunRecord
from vaekit.callbacks.trainer_values import check_trainer_values
from vaekit.callbacks.training_errors import translate_errors, translate_setting_errors
from vaekit.exceptions import ConfigError
from vaekit.models import VAE
from vaekit.models.resume import run_content

DEFAULTS = {"logger": False, "devices": 1, "enable_model_summary": False, "num_sanity_val_steps": 0}


def check_settings(settings: Mapping[str, Any], writes: bool) -> None:
    """Check the settings of a trainer before the cells are read.

    Parameters
    ----------
    settings : Mapping[str, Any]
        Arguments of ``pytorch_lightning.Trainer``.
    writes : bool
        Whether the run has a directory.

    Raises
    ------
    ConfigError
        If one cannot be used.
    """
    if settings.get("enable_checkpointing") and not writes:
        raise ConfigError("enable_checkpointing=True requires directory, which the checkpoints are written to.")
    check_trainer_values(settings, writes)
    add_defaults(settings.get("callbacks"), [])


def train_model(model: VAE, data: Any, settings: Mapping[str, Any], directory: Path | None, record: RunRecord) -> None:
    """Train a model, and load the weights of the best validation; an interrupt ends the training.

    Parameters
    ----------
    model : VAE
        Model, trained in place.
    data : LightningDataModule
        Its data.
    settings : Mapping[str, Any]
        Arguments of ``pytorch_lightning.Trainer``.
    directory : Path or None
        Locked run directory, whose earlier run is archived as soon as the trainer exists.
    record : RunRecord
        Callback with the settings and warnings of the run.

    Raises
    ------
    ConfigError
        If a setting cannot be used.
    KeyboardInterrupt
        If an interrupt comes before the first step: the model is not trained.
    """
    writes = directory is not None and not settings.get("fast_dev_run")
    common = run_callbacks(writes, settings.get("enable_progress_bar") is not False)
    callbacks = add_defaults(settings.get("callbacks"), [record, BestWeights(), *common])
    own = {"default_root_dir": directory, "enable_checkpointing": writes, "callbacks": callbacks}
    with translate_setting_errors():
        trainer = pl.Trainer(**{**DEFAULTS, **settings, **own})
    if directory is not None and writes and trainer.is_global_zero:
        report_archive(directory)
    best = next(each for each in callbacks if isinstance(each, BestWeights))
    with restored_interrupt(), translate_errors(trainer):
        try:
            trainer.fit(model, datamodule=data)
        except SIGTERMException:  # a SystemExit: the process has to end
            raise
        except SystemExit:  # raised by Lightning after Ctrl-C
            if not trainer.interrupted:
                raise
            if trainer.global_step == 0:
                raise KeyboardInterrupt from None
            warnings.warn(_interrupted(trainer, best), UserWarning, stacklevel=4)
    best.restore(model)
    model.run_content = run_content(trainer, [each for each in callbacks if isinstance(each, RunRecord | FigureWriter)])
    model._trainer = None  # refers to the data
    model.eval()


def _interrupted(trainer: pl.Trainer, best: BestWeights) -> str:
    weights = "the last step" if best.step is None else f"step {best.step}, of the best validation so far"
    return (
        f"Training interrupted at step {trainer.global_step} of {trainer.max_steps}. The model has the weights of "
        f"{weights}. Run fit again for a complete training."
    )
