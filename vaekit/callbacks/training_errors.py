"""Errors of other libraries during a run, as messages with a remedy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from vaekit.exceptions import ConfigError, OutputError, TrainingError, VaekitError, lacks_memory, reason

# torch raises plain RuntimeErrors with these words when another process ends
_LOST_PROCESS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe", "tcpstore")


@contextlib.contextmanager
def translate_setting_errors() -> Iterator[None]:
    """Translate the errors of Lightning on arguments of a trainer, while it is created."""
    try:
        yield
    except VaekitError:
        raise
    except (ValueError, TypeError, OSError, ImportError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def translate_errors(trainer: pl.Trainer) -> Iterator[None]:
    """Translate errors of Lightning, memory, loggers and other processes; others pass unchanged."""
    try:
        yield
    except MisconfigurationException as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
    except (MemoryError, RuntimeError, OverflowError) as error:
        text = str(error).lower()
        if lacks_memory(error):
            raise ConfigError(
                f"training needs more memory than is available: {first_line(error)}. Lower data.batch_size, the "
                "num_samples of estimators and objective, or the sizes of the model."
            ) from error
        if "conditioned on metric" in text:  # Lightning raises a RuntimeError for an unknown metric of a callback
            raise ConfigError(f"trainer.callbacks: {' '.join(str(error).split())}") from error
        if trainer.world_size > 1 and any(words in text for words in _LOST_PROCESS):
            raise TrainingError(
                f"another of the {trainer.world_size} processes has ended, and rank {trainer.global_rank} cannot "
                f"continue without it: {first_line(error)}. See the message of that process, then resume with "
                "--ckpt_path last"
            ) from error
        raise
    except ValueError as error:
        name = str(error).strip().removeprefix("`Trainer(").removeprefix("`")
        if str(error).strip().startswith("`"):  # Lightning begins its messages on arguments with their name
            key = name.replace("=", "`").partition("`")[0]
            raise ConfigError(f"trainer.{key}: {first_line(error)}.") from error
        if "not in fieldnames" not in str(error):  # raised by Python's csv module
            raise
        paths = [f"{logger.log_dir}/metrics.csv" for logger in trainer.loggers if isinstance(logger, CSVLogger)]
        raise OutputError(
            f"CSVLogger: {', '.join(paths)} is incomplete or was changed. Check for a full disk, or another process "
            "that writes there."
        ) from error


@contextlib.contextmanager
def translate_write_errors(trainer: pl.Trainer, directory: Path) -> Iterator[None]:
    """Translate errors of the disk that name no file, such as a full one, into one that names the directories."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or isinstance(error, BrokenPipeError):
            raise
        paths = dict.fromkeys([str(directory), *(str(x.save_dir) for x in trainer.loggers if x.save_dir)])
        raise OutputError(
            f"{' or '.join(paths)} could not be written: {reason(error)}. Free some space, or set "
            "trainer.default_root_dir to another directory."
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty, without the period."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
