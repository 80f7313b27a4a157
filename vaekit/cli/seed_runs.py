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

from vaekit._core.atomic import atomic_write
from vaekit.cli.compare import half_width
from vaekit.cli.config_files import read_config
from vaekit.cli.run_directory import SEEDS_TABLE, seed_directory
from vaekit.cli.saved_config import same_training
from vaekit.cli.values import check_seed
from vaekit.exceptions import CheckpointError, ConfigError


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
    """

    seed: int
    val_elbo: float
    steps: int


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
        """Return the finished runs by seed; a row that is not readable counts as not finished."""
        runs = {}
        if self.table.is_file():
            with self.table.open(newline="", encoding="utf-8", errors="replace") as file:
                for row in csv.DictReader(file):
                    try:
                        run = SeedRun(int(row["seed"]), float(row["val_elbo"]), int(row["steps"]))
                    except (KeyError, TypeError, ValueError):
                        continue
                    if self.last_checkpoint(run.seed) is not None:
                        runs[run.seed] = run
        return runs

    def is_finished(self, seed: int, config: Mapping[str, Any]) -> bool:
        """Return whether the run of a seed has ended with this configuration.

        Parameters
        ----------
        seed : int
            The seed.
        config : mapping
            Complete configuration. A run with another one is not finished: more epochs continue it.
        """
        if seed not in self.finished():
            return False
        _, saved = read_config(str(seed_directory(self.directory, seed) / "config.yaml"))
        return same_training(saved, config)

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
        for number, seed in enumerate(self.seeds, 1):
            rows, checkpoint = self.finished(), self.last_checkpoint(seed)
            is_finished = resumes and self.is_finished(seed, config)
            if is_first:
                state = f"resumed from {checkpoint}" if checkpoint else "started"
                state = "kept, because it is finished" if is_finished else state
                print(f"seed {seed} (run {number} of {len(self.seeds)}): {state}", file=sys.stderr)
            if is_finished:
                continue
            before = rows.pop(seed, None)
            if before is not None and is_first:  # not finished until it ends
                self._write(rows)
            trainer = run(self.flags(seed, checkpoint))
            if is_first:
                self._write({**rows, seed: self._row(seed, trainer, before)})
            del trainer
            gc.collect()  # data, model and trainer refer to each other; the next run reads the data again

    def _row(self, seed: int, trainer: pl.Trainer, before: SeedRun | None) -> SeedRun:
        """Return the row of a run that has ended; a run that was at its end already keeps its row."""
        if before is not None and before.steps == trainer.global_step:
            return before
        elbo = trainer.callback_metrics.get("val/elbo")
        return SeedRun(seed, math.nan if elbo is None else float(elbo), trainer.global_step)

    def _write(self, runs: Mapping[int, SeedRun]) -> None:
        with atomic_write(self.table) as temporary, temporary.open("w", newline="") as file:
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
        lines.append(f"{'mean':<12}{statistics.fmean(values):>12.2f} +- {half_width(values):.2f} (95 %)")
        return "\n".join([*lines, f"Wrote {self.table}"])
