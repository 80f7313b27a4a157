"""``vaekit fit | validate | test | predict``: LightningCLI with the data's sizes linked into the model."""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from filelock import FileLock
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from vaekit._core.atomic import atomic_write, remove_partial_files, try_writing
from vaekit._core.threads import keep_threads
from vaekit.callbacks import (
    FigureWriter,
    GradientClippingMonitor,
    PosteriorCollapseMonitor,
    RunCheckpoint,
    TerminateOnNonFinite,
    TrainingProgressBar,
)
from vaekit.callbacks.run_lock import may_be_first_process, unlock_run
from vaekit.cli.class_flags import expand_class_defaults
from vaekit.cli.config_errors import translate_errors
from vaekit.cli.console import silence_libraries
from vaekit.cli.estimator_flag import name_latent
from vaekit.cli.foreign import check_trainer, check_wandb_files
from vaekit.cli.logger import continue_run, finish_run, wandb_logger
from vaekit.cli.raw_config import LINKED, check_arguments, check_parsed, configs, refuse_sizes
from vaekit.cli.run_directory import archive_previous_run, claim, make_folder, run_label
from vaekit.cli.short_commands import RUN_FOLDER, fill_defaults
from vaekit.cli.trainer_values import check_values
from vaekit.cli.training_errors import explained, start_loggers
from vaekit.data.data_module import DataModule
from vaekit.exceptions import CheckpointError, ConfigError, OutputError
from vaekit.models import VAE
from vaekit.models.checkpoint import read_checkpoint

yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_str(str(member.value)))


class SaveRunConfig(SaveConfigCallback):
    """Keeps the whole configuration in the run's folder, and gives it to the logger with the data's fingerprint."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tell the loggers (Lightning's hook, on the first rank only)."""
        text = self.parser.dump(self.config, skip_none=False)
        data = trainer.datamodule  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            logger.log_hyperparams(
                {"config": yaml.safe_load(text), "data": {"source": data.source, "fingerprint": data.fingerprint}}
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``config.yaml``: now, as a run that may not go on from its checkpoint keeps the file that it has."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with atomic_write(Path(trainer.default_root_dir) / self.config_filename) as temporary:
                temporary.write_text(self.parser.dump(self.config, skip_none=False))


class VaekitCLI(LightningCLI):
    """The training commands."""

    parser: LightningArgumentParser
    writes = True  # to the run directory

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.lock: FileLock | None = None
        self._command = kwargs["args"][0]
        try:
            super().__init__(*args, **kwargs)  # the whole command
        finally:
            if self.lock is not None:
                unlock_run(self.lock)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the subcommand that is asked for: a parser of each of the others would cost as much time."""
        found = LightningCLI.subcommands()
        return {self._command: found[self._command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the data's sizes to the model, so that no configuration repeats them."""
        for size in LINKED:
            parser.link_arguments(f"data.{size}", f"model.init_args.{size}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Keep the arguments: what a flag sets is the user's own."""
        self._arguments = list(args)
        super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as it was given: Lightning's own would silently prefer the checkpoint's."""

    def before_instantiate_classes(self) -> None:
        """Refuse what is no class, and prepare the run's folder and everything in it, before data are read."""
        config = self.config[self.subcommand]
        check_parsed(config)
        trainer = config.trainer
        check_values(trainer)
        sizes = getattr(config.model, "init_args", None) or {}
        refuse_sizes([name for name in LINKED if sizes.get(name)], "a file that the configuration names")
        self.folder = Path(trainer.default_root_dir or "runs/vaekit")
        self._check_checkpoint(config)
        if self.writes and self.subcommand == "fit" and not trainer.fast_dev_run and may_be_first_process():
            self.folder, self.lock = claim(self.folder, resumes=config.get("ckpt_path") is not None)
        trainer.default_root_dir = str(self.folder)
        for logger in trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]:
            arguments = getattr(logger, "init_args", None)
            if arguments is not None and arguments.get("save_dir") == RUN_FOLDER:
                arguments.save_dir = str(self.folder)
        check_trainer(trainer, self._arguments, self.folder)

    def _check_checkpoint(self, config: Any) -> None:
        """Check the checkpoint that the command starts from."""
        self._steps: int | None = None  # of the checkpoint, if the run in this folder is resumed
        if config.get("weights_only") is False:
            raise ConfigError("weights_only=False: pickled objects are never loaded. Leave it out.")
        if config.get("ckpt_path") == "last":
            config.ckpt_path = str(self.folder / "last.ckpt")
        if config.get("ckpt_path") is not None:
            try:  # a foreign or truncated one is refused before data are read
                checkpoint = read_checkpoint(config.ckpt_path)
            except CheckpointError as error:
                raise CheckpointError(f"ckpt_path: {error}") from error
            if Path(config.ckpt_path).is_dir():
                raise CheckpointError(
                    f"{config.ckpt_path} is what vaekit export wrote: weights alone, for evaluate, embed and "
                    f"vaekit.load; {self.subcommand} needs the checkpoint itself"
                )
            if Path(config.ckpt_path).resolve().parent == self.folder.resolve():
                self._steps = int(checkpoint.get("global_step", 0))
            config.weights_only = True

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Return the trainer, with Weights & Biases where no logger was asked for."""
        config = self.config[self.subcommand].trainer
        given = self._get(self.config_init, "trainer").get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        own = [
            TerminateOnNonFinite(),
            GradientClippingMonitor(),
            RunCheckpoint(),
            FigureWriter(),
            PosteriorCollapseMonitor(),
        ] + [TrainingProgressBar()] * (config.enable_progress_bar is not False)
        kwargs["callbacks"] = given + [c for c in own if not any(isinstance(g, type(c)) for g in given)]
        if config.logger in (None, True):
            kwargs["logger"] = wandb_logger(self.folder, self._wandb_name()) if self.subcommand == "fit" else False
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, OSError, ImportError, MisconfigurationException) as error:
            raise ConfigError(f"the trainer cannot be set up so: {' '.join(str(error).split())}") from error

    @property
    def run_name(self) -> str:
        """Name of the configuration file, or else of the run directory."""
        files = [text for text in configs(self._arguments) if "{" not in text]
        return Path(files[-1]).stem if files else run_label(self.folder)

    def _wandb_name(self) -> str:
        """Return the name of the directory; the runs of a sweep share it and are named by their settings."""
        if not os.environ.get("WANDB_SWEEP_ID"):
            return run_label(self.folder)
        estimators = sorted({type(estimator).__name__ for estimator in self.model.estimators.values()})
        return " ".join([self.run_name, *estimators, f"seed {self._get(self.config, 'seed_everything')}"])

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it, and say after Ctrl-C what is there to go on from.

        Raises
        ------
        OutputError
            If the system's error, such as a full disk under a logger, does not say where.
        """
        check_wandb_files(self.trainer.loggers)
        try:
            with explained(self.trainer):
                super()._run_subcommand(subcommand)
        except OSError as error:
            if error.filename is not None or isinstance(error, BrokenPipeError):
                raise
            places = dict.fromkeys([str(self.folder), *(str(x.save_dir) for x in self.trainer.loggers if x.save_dir)])
            raise OutputError(
                f"{' or '.join(places)} could not be written: {error}. Free some space, or set "
                "trainer.default_root_dir to another place."
            ) from error
        except SystemExit:  # what Lightning makes of it
            if not self.trainer.interrupted:
                raise
            last = self.folder / "last.ckpt"
            if subcommand == "fit" and last.is_file() and self.trainer.is_global_zero:
                print(f"training was interrupted; {last} is whole: go on with --ckpt_path last", file=sys.stderr)
            raise KeyboardInterrupt from None

    def before_fit(self) -> None:
        """Refuse what cannot end well, move an earlier run aside, and say what is about to be trained."""
        if self.trainer.max_epochs == -1 and self.trainer.max_steps == -1:
            self.model.objective.check_steps(float("inf"))
        self.model.networks.likelihood.check(self.datamodule.example)
        if not self.trainer.is_global_zero:
            return
        if not self.trainer.fast_dev_run and self.lock is None:  # type: ignore[attr-defined]  # by an odd launcher
            self.folder, self.lock = claim(self.folder, resumes=True)
        for pattern in ("*", "figures/**/*"):
            remove_partial_files(self.folder, pattern)
        start = self.config.fit.get("ckpt_path")
        resumes = start is not None and Path(start).resolve().parent == self.folder.resolve()
        if not resumes and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            aside = archive_previous_run(self.folder)
            if aside is not None:
                print(f"the earlier run in {self.folder} is now in {aside}", file=sys.stderr)
        self.trainer.loggers = continue_run(self.trainer.loggers, self.folder, self._steps)
        start_loggers(self.trainer)
        print(self.datamodule.description, file=sys.stderr)
        print(keep_threads(), file=sys.stderr)
        for name, latent in self.model.latents.items():
            parent = f", given {', '.join(latent.parents)}" if latent.parents else ""
            print(
                f"latent {name}: {type(latent).__name__}, estimator {type(latent.estimator).__name__}{parent}",
                file=sys.stderr,
            )

    def after_fit(self) -> None:
        """Say what was written."""
        if not self.trainer.is_global_zero:
            return
        for line in filter(None, map(finish_run, self.trainer.loggers)):
            print(line)
        files = [n for n in ("last.ckpt", "best.ckpt", "config.yaml", "figures") if (self.folder / n).exists()]
        print(f"wrote {self.folder}: {', '.join(files)}")

    def predict(self, model: VAE, **kwargs: Any) -> None:
        """Write each latent's posterior means or probabilities of all rows to ``predictions.pt``."""
        path = self.folder / "predictions.pt"
        if self.trainer.is_global_zero:
            make_folder(self.folder)
            try_writing(path)
        batches = in_order(self.trainer.predict(model, **kwargs))
        if not self.trainer.is_global_zero:
            return
        latents = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        with atomic_write(path) as temporary:
            torch.save(latents, temporary)
        print(f"wrote {path}: " + ", ".join(f"{name} {list(value.shape)}" for name, value in latents.items()))


def in_order(batches: Any) -> list[Any]:
    """Return what all processes have predicted, in the order of the rows: batches were dealt out to them in turn."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return list(batches)
    shares: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shares, batches)
    return [batch for turn in zip(*shares, strict=True) for batch in turn]


def run(arguments: list[str]) -> None:
    """Run a training command.

    Raises
    ------
    ConfigError
        If the configuration names a class, key or value that does not exist.
    """
    silence_libraries()
    torch.set_float32_matmul_precision("high")
    command_line(fill_defaults(arguments))


def command_line(arguments: list[str], kind: type[VaekitCLI] = VaekitCLI) -> VaekitCLI:
    """Return a command line that has parsed its arguments, made model, data and trainer, and run its subcommand.

    Parameters
    ----------
    arguments
        The subcommand and its options.
    kind
        What the command line is.

    Raises
    ------
    ConfigError
        If the configuration names a class, key or value that does not exist, or that is not allowed.
    """
    check_arguments(arguments)
    trainer_defaults = {
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    with translate_errors(arguments[0]):
        return kind(
            model_class=VAE,
            datamodule_class=DataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"save_to_log_dir": False},  # prepare() has moved an earlier run aside
            trainer_defaults=trainer_defaults,
            seed_everything_default=0,
            load_from_checkpoint_support=False,
            auto_configure_optimizers=False,
            parser_kwargs={"exit_on_error": False},
            args=expand_class_defaults(name_latent(arguments)),
        )
