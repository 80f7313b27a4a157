"""Messages and results around a training run: data and latents before it; report, uploads and files after it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from vaekit._core.optional_results import warn_of_errors
from vaekit.callbacks.run_archive import REPORT
from vaekit.cli.logger import finish_run
from vaekit.cli.report_command import report_run
from vaekit.cli.wandb_files import log_checkpoints, log_file
from vaekit.cli.wandb_tables import log_tables
from vaekit.data.cells.file_names import FILE_COLUMN
from vaekit.data.data_module import DataModule
from vaekit.models import VAE


def print_subject(data: DataModule, model: VAE) -> None:
    """Print the data and the latents."""
    print(data.description, file=sys.stderr)
    files = data.config["init_args"].get("path")
    if data.kind == "counts" and isinstance(files, list) and len(files) > 1 and not data.covariates:
        print(f"{len(files)} files as one batch; --batch_key {FILE_COLUMN} makes each its own", file=sys.stderr)
    for name, latent in model.latents.items():
        parents = f", given {', '.join(latent.parents)}" if latent.parents else ""
        estimator = type(latent.estimator).__name__
        print(f"latent {name}: {type(latent).__name__}, estimator {estimator}{parents}", file=sys.stderr)


def finish_training(
    trainer: pl.Trainer, model: VAE, data: DataModule, directory: Path, checkpoint_loggers: list[Any]
) -> None:
    """Write the report, log tables, checkpoints and report, and print the files that were written.

    Parameters
    ----------
    trainer, model, data
        Parts of the run that has ended.
    directory : Path
        Run directory.
    checkpoint_loggers : list
        Loggers that receive the checkpoints.
    """
    report_run(trainer, directory, data)
    uploads: dict[str, Callable[[], None]] = {
        "Tables of codes": lambda: log_tables(trainer.loggers, model, data),
        "Checkpoints": lambda: log_checkpoints(checkpoint_loggers, directory),
        "Report": lambda: log_file(trainer.loggers, directory / REPORT, "report"),
    }
    for name, upload in uploads.items():
        with warn_of_errors(f"{name} not logged", f"The run in {directory} is complete."):
            upload()
    for line in filter(None, map(finish_run, trainer.loggers)):
        print(line)
    files = [n for n in ("last.ckpt", "best.ckpt", "config.yaml", "figures") if (directory / n).exists()]
    print(f"Trained; wrote {directory}: {', '.join(files)}")
    if data.kind == "counts" and files:
        best = next(name for name in ("best.ckpt", "last.ckpt") if name in files)
        print(f"Next: vaekit embed {directory / best} -o {directory / 'embedding.h5ad'}")
