"""Errors of other libraries during training, as messages that name the remedy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from vaekit.callbacks.history import History
from vaekit.exceptions import ConfigError, OutputError, TrainingError, lacks_memory

_OTHER_PROCESS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe", "tcpstore")


@contextlib.contextmanager
def explained(trainer: pl.Trainer) -> Iterator[None]:
    """Turn errors of Lightning, of memory, of loggers and of other processes into those of vaekit."""
    try:
        yield
    except MisconfigurationException as error:
        raise ConfigError(f"the trainer cannot work so: {' '.join(str(error).split())}") from error
    except (MemoryError, RuntimeError, OverflowError) as error:
        text = str(error).lower()
        if lacks_memory(error):
            raise ConfigError(
                f"the training needs more memory than there is: {first_line(error)}. Lower data.batch_size, the "
                "num_samples of estimators and objective, or the sizes of the model."
            ) from error
        if "conditioned on metric" in text:
            raise ConfigError(f"trainer.callbacks: {' '.join(str(error).split())}") from error
        if trainer.world_size > 1 and any(word in text for word in _OTHER_PROCESS):
            raise TrainingError(
                f"another of the {trainer.world_size} processes has ended, and process {trainer.global_rank} cannot "
                f"continue without it: {first_line(error)}. Its own message says why; resume with --ckpt_path last."
            ) from error
        raise
    except ValueError as error:
        if match := re.match(r"\s*`(?:Trainer\()?(\w+)", str(error)):  # Lightning's words on an argument
            raise ConfigError(f"trainer.{match[1]}: {first_line(error)}") from error
        if "not in fieldnames" not in str(error):
            raise
        places = [f"{logger.log_dir}/metrics.csv" for logger in trainer.loggers if isinstance(logger, CSVLogger)]
        raise OutputError(
            f"CSVLogger could not continue {', '.join(places)}: it was changed, or is not whole. Is the disk full, or "
            "does another process write there?"
        ) from error


def start_loggers(trainer: pl.Trainer) -> None:
    """Start the loggers before the training begins.

    Raises
    ------
    ConfigError
        If a logger cannot start: its server rejects the login, or an argument is wrong.
    OutputError
        If a CSVLogger would delete the metrics of an earlier run.
    """
    for number, logger in enumerate(trainer.loggers):
        if isinstance(logger, History):
            logger.start()
            continue
        if isinstance(logger, CSVLogger) and (path := Path(logger.log_dir) / "metrics.csv").exists():
            raise OutputError(
                f"{path} exists, and CSVLogger would delete it. Pass another --trainer.logger.version, or none."
            )
        if isinstance(logger, CSVLogger) and logger._flush_logs_every_n_steps < 1:
            raise ConfigError(
                f"trainer.logger.flush_logs_every_n_steps={logger._flush_logs_every_n_steps} must be at least 1."
            )
        try:
            _ = getattr(logger, "experiment", None)
        except OSError:
            raise
        except Exception as error:
            key = "trainer.logger" if len(trainer.loggers) == 1 else f"trainer.logger[{number}]"
            raise ConfigError(
                f"{key}: {type(logger).__name__} cannot start: {first_line(error)}. --trainer.logger CSVLogger writes "
                "files only."
            ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type if the text is empty, without the full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
