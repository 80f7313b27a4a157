"""Start of the loggers of a run."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from vaekit.callbacks.history import History
from vaekit.callbacks.training_errors import first_line
from vaekit.cli.logger import start_run
from vaekit.exceptions import ConfigError, OutputError


def start_loggers(trainer: pl.Trainer) -> None:
    """Start the loggers before the training begins.

    Raises
    ------
    ConfigError
        If a logger cannot start: its server rejects the login, or an argument is wrong.
    OutputError
        If a CSVLogger would delete the metrics of an earlier run.
    """
    for index, logger in enumerate(trainer.loggers):
        if isinstance(logger, History):
            logger.start()
            continue
        if isinstance(logger, CSVLogger):
            if (path := Path(logger.log_dir) / "metrics.csv").exists():
                raise OutputError(
                    f"{path} exists, and CSVLogger would delete it. Pass another --trainer.logger.version, or none."
                )
            if (interval := logger._flush_logs_every_n_steps) < 1:
                raise ConfigError(f"trainer.logger.flush_logs_every_n_steps={interval} must be at least 1.")
        try:
            if isinstance(logger, WandbLogger):
                start_run(logger)
            else:
                _ = getattr(logger, "experiment", None)
        except OSError:
            raise
        except Exception as error:
            key = "trainer.logger" if len(trainer.loggers) == 1 else f"trainer.logger[{index}]"
            raise ConfigError(
                f"{key}: {type(logger).__name__} cannot start: {first_line(error)}. --trainer.logger CSVLogger writes "
                "files only."
            ) from error
