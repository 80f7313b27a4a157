"""Runs of one configuration with consecutive seeds (``vaekit fit --seeds 3``): their directories, table and summary."""

from __future__ import annotations

import csv
import gc
import math
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import WandbLogger

from vaekit._core.arguments import check_seed
from vaekit._core.atomic import atomic_write
from vaekit.callbacks.run_archive import SEEDS_TABLE
from vaekit.callbacks.run_directory import seed_directory
from vaekit.cli.intervals import half_width
from vaekit.cli.saved_config import training_hash
from vaekit.exceptions import CheckpointError, ConfigError
from vaekit.models.checkpoint import read_checkpoint


class SeedRun(NamedTuple):
    """Row of the table of finished runs.

    Attributes
    ----------
    seed : int
        Value of ``seed_everything``.
    val_elbo : float
        Validation ELBO in nats per observation after the last epoch; NaN without a validation.
    steps : int
        Number of training steps.
    config_hash : str
        Hash of the configuration without the seed (:func:`vaekit.cli.saved_config.training_hash`).
    """

    seed: int
    val_elbo: float
    steps: int
    config_hash: str


class SeedRuns:
    """Runs in ``RUN/seed_N``, of which the finished ones are rows of ``RUN/seeds.csv``.

    Parameters
    ----------
    directory : Path
        The directory RUN.
    seeds : range
        Values of ``seed_everything``.
    """

    def __init__(self, directory: Path, seeds: range) -> None:
        self.directory, self.seeds = directory, seeds
        self.table = directory / SEEDS_TABLE

    def check_start(self, ckpt_path: str | None) -> None:
        """Check the seeds, the checkpoint and the environment, before data are read.

        Parameters
        ----------
        ckpt_path : str, optional
            ``last`` to continue the runs; None to start them.

        Raises
        ------
        ConfigError
            If a seed is too large, the checkpoint is of one run, or a Weights & Biases run is given.
        CheckpointError
            If there is no run to continue.
        """
        check_seed(self.seeds[-1], "seed_everything + seeds - 1")
        directories = [seed_directory(self.directory, seed) for seed in self.seeds]
        if ckpt_path not in (None, "last"):
            raise ConfigError(
                f"seeds={len(self.seeds)}: ckpt_path={ckpt_path!r} is a checkpoint of one run. Pass --ckpt_path last"
            )
        if ckpt_path is not None and not any(directory.is_dir() for directory in directories):
            raise CheckpointError(
                f"ckpt_path='last': {directories[0].name} to {directories[-1].name} not found in {self.directory}. "
                "Omit it to start these runs."
            )
        for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"):
            if os.environ.get(name):
                raise ConfigError(
                    f"seeds={len(self.seeds)}: {name} is set, so that the runs would be one run of Weights & Biases. "
                    "Unset it, or add seed_everything to the parameters of the sweep."
                )

    def check_trainer(self, trainer: pl.Trainer) -> None:
        """Check that the runs do not share a checkpoint directory or a Weights & Biases run.

        Raises
        ------
        ConfigError
            If they do.
        """
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
                raise ConfigError(
                    f"{type(callback).__name__}: dirpath={str(callback.dirpath)!r} would be the directory of all "
                    f"{len(self.seeds)} runs. Omit it."
                )
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and logger._id is not None:
                raise ConfigError(
                    f"WandbLogger: id={logger._id!r} would be the run of all {len(self.seeds)} seeds. Omit it."
                )

    def finished(self) -> dict[int, SeedRun]:
        """Return the finished runs by seed: rows that can be read, of as many steps as the last checkpoint."""
        runs = {}
        if self.table.is_file():
            with self.table.open(newline="", encoding="utf-8", errors="replace") as file:
                for row in csv.DictReader(file):
                    try:
                        run = SeedRun(int(row["seed"]), float(row["val_elbo"]), int(row["steps"]), row["config_hash"])
                    except (KeyError, TypeError, ValueError):
                        continue
                    path = self.last_checkpoint(run.seed)
                    if path is not None and read_checkpoint(path)["global_step"] == run.steps:
                        runs[run.seed] = run
        return runs

    def last_checkpoint(self, seed: int) -> Path | None:
        """Return the last checkpoint of a run, or None if it does not exist."""
        path = seed_directory(self.directory, seed) / "last.ckpt"
        return path if path.is_file() else None

    def flags(self, seed: int, checkpoint: Path | None) -> list[str]:
        """Return the flags of one run. They follow those of the command and override them."""
        return [
            "--seeds=1",
            f"--seed_everything={seed}",
            f"--trainer.default_root_dir={seed_directory(self.directory, seed)}",
            f"--ckpt_path={'null' if checkpoint is None else checkpoint}",
        ]

    def train(
        self, run: Callable[[list[str]], pl.Trainer], config: Mapping[str, Any], resumes: bool, is_first: bool
    ) -> None:
        """Train the runs one after the other.

        Parameters
        ----------
        run : callable
            Trains one run with the given flags, and returns its trainer.
        config : mapping
            Complete configuration of the runs.
        resumes : bool
            Keep the finished runs, and continue an interrupted one from its last checkpoint.
        is_first : bool
            Whether this is the first process of the runs, which prints their states and writes the table.
        """
        config_hash = training_hash(config)
        for number, seed in enumerate(self.seeds, 1):
            row, checkpoint = self.finished().get(seed), self.last_checkpoint(seed)
            is_finished = resumes and row is not None and row.config_hash == config_hash
            if is_first:
                state = f"resumed from {checkpoint}" if checkpoint else "started"
                state = "kept, because it is finished" if is_finished else state
                print(f"seed {seed} (run {number} of {len(self.seeds)}): {state}", file=sys.stderr)
            if is_finished:
                continue
            trainer = run(self.flags(seed, checkpoint))
            if row is None or row.steps != trainer.global_step:  # else it was at its end already
                elbo = trainer.callback_metrics.get("val/elbo", math.nan)
                row = SeedRun(seed, float(elbo), trainer.global_step, config_hash)
            if is_first:
                self._write({**self.finished(), seed: row._replace(config_hash=config_hash)})
            del trainer
            gc.collect()  # data, model and trainer refer to each other; the next run reads the data again

    def _write(self, runs: Mapping[int, SeedRun]) -> None:
        with atomic_write(self.table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(SeedRun._fields)
            writer.writerows(runs[seed] for seed in sorted(runs))

    def summary(self) -> str:
        """Return the validation ELBO of each seed, and the mean with its 95 % confidence interval."""
        finished = self.finished()
        runs = [finished[seed] for seed in self.seeds]
        lines = [
            "validation ELBO in nats per observation after the last epoch",
            f"{'seed':<12}{'ELBO':>12}{'steps':>10}",
        ]
        lines += [f"{run.seed:<12}{run.val_elbo:>12.2f}{run.steps:>10}" for run in runs]
        values = [run.val_elbo for run in runs]
        if all(map(math.isfinite, values)):  # there was a validation
            lines.append(f"{'mean':<12}{statistics.fmean(values):>12.2f} +- {half_width(values):.2f} (95 %)")
        return "\n".join([*lines, f"Wrote {self.table}"])
