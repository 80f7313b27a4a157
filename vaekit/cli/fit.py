"""``vaekit fit | validate | test | predict``: Lightning's command line, with the data's sizes linked into the model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from filelock import FileLock
from jsonargparse._typehints import ActionTypeHint  # has no public name
from pytorch_lightning.cli import LightningCLI
from typing_extensions import override

from vaekit._core.arguments import check_minimum, check_seed
from vaekit._core.atomic import remove_partial_files
from vaekit._core.figure_formats import FigureFormat
from vaekit._core.warning_log import record_warnings
from vaekit.callbacks import RunRecord
from vaekit.callbacks.figure_writer import FigureWriter
from vaekit.callbacks.run_archive import report_archive
from vaekit.callbacks.run_callbacks import add_defaults, run_callbacks
from vaekit.callbacks.run_directory import claim, member_directory, run_label
from vaekit.callbacks.run_lock import may_be_first_process, unlock_run
from vaekit.callbacks.trainer_values import check_trainer_values
from vaekit.callbacks.training_errors import translate_errors, translate_setting_errors, translate_write_errors
from vaekit.cli.config_diagnosis import FROM_DATA
from vaekit.cli.console import HelpFlag, silence_libraries
from vaekit.cli.figure_flags import move_figure_flags
from vaekit.cli.fit_arguments import complete_arguments
from vaekit.cli.fit_help import COLOR_HELP, FIGURE_HELP, SEEDS_HELP
from vaekit.cli.foreign import check_classes, check_destinations, check_wandb_files
from vaekit.cli.logger import (
    complete_loggers,
    continue_run,
    default_logger,
    group_runs,
    in_sweep,
    marked_run,
    place_loggers,
    record_failure,
)
from vaekit.cli.logger_start import start_loggers
from vaekit.cli.observed_key import pass_observed_key
from vaekit.cli.predictions import write_predictions
from vaekit.cli.run_parser import (
    CommandRecord,
    ConfigFlag,
    RunParser,
    TypedFlag,
    allow_classes,
    reject_sizes,
)
from vaekit.cli.saved_config import SaveRunConfig, to_plain
from vaekit.cli.seed_runs import SeedRuns
from vaekit.cli.start_checkpoint import check_checkpoint
from vaekit.cli.training_messages import finish_training, print_subject
from vaekit.cli.wandb_files import take_over_checkpoints
from vaekit.data.data_module import DataModule
from vaekit.exceptions import ConfigError, VaekitError
from vaekit.models import VAE


class VaekitCLI(LightningCLI):
    """Training commands.

    Parameters
    ----------
    arguments : list of str
        Command and flags.
    group : str, optional
        Group of the run in Weights & Biases, if it is one of several.
    command : list of str, optional
        The command as the user gave it, for the report. None: ``arguments``.

    Raises
    ------
    ConfigError
        If the configuration names a class, key or value that does not exist or is not allowed.
    """

    parser: RunParser
    writes = True  # to the run directory
    has_started = False  # the loggers

    def __init__(self, arguments: list[str], group: str | None = None, command: list[str] | None = None) -> None:
        self.record, self._command = CommandRecord(), arguments[0]
        self.arguments, self.group, self.command = arguments, group, command or arguments
        self.lock: FileLock | None = None
        allow_classes()
        try:
            with record_warnings() as self.warnings:
                super().__init__(  # runs the command
                    model_class=VAE,
                    datamodule_class=DataModule,
                    subclass_mode_model=True,
                    subclass_mode_data=True,
                    save_config_callback=SaveRunConfig,
                    save_config_kwargs={"save_to_log_dir": False},
                    trainer_defaults={"enable_model_summary": False, "num_sanity_val_steps": 0},
                    seed_everything_default=0,
                    load_from_checkpoint_support=False,
                    auto_configure_optimizers=False,
                    parser_class=RunParser,
                    parser_kwargs={"exit_on_error": False, "add_help": False},
                    args=arguments,
                )
        except (VaekitError, argparse.ArgumentError) as error:
            message = " ".join(str(error).split())
            if in_sweep() and self.writes and not self.has_started:
                record_failure(message)
            if isinstance(error, VaekitError):
                raise
            raise ConfigError(message[:300]) from None
        finally:
            if self.lock is not None:
                unlock_run(self.lock)

    @override
    def init_parser(self, **kwargs: Any) -> RunParser:
        parser = RunParser(**kwargs)
        parser.record = self.record
        parser.add_argument("-h", "--help", action=HelpFlag)
        parser.add_argument("-c", "--config", action=ConfigFlag, help="configuration file, or its YAML text")
        return parser

    @override
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the requested subcommand only: a parser of each of the others would take as much time."""
        return {self._command: LightningCLI.subcommands()[self._command]}

    @override
    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> RunParser:
        kwargs = {"exit_on_error": False, "add_help": False, **kwargs}
        parser = cast(RunParser, super()._prepare_subcommand_parser(klass, subcommand, **kwargs))
        for action in parser._actions:
            if isinstance(action, ActionTypeHint):
                action.__class__ = TypedFlag
        return parser

    @override
    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.config = parser.parse_args(args)

    @override
    def add_arguments_to_parser(self, parser: Any) -> None:
        """Link the data's sizes to the model, so that no configuration repeats them."""
        for argument, attribute in FROM_DATA.items():
            parser.link_arguments(f"data.{attribute}", f"model.init_args.{argument}", apply_on="instantiate")
        if self._command == "fit":
            parser.add_argument("--seeds", type=int, default=1, help=SEEDS_HELP)
            parser.add_argument("--color", action="append", help=COLOR_HELP)
            parser.add_argument("--figure", type=FigureFormat, help=FIGURE_HELP)

    @override
    def _parse_ckpt_path(self) -> None:
        """Skip the checkpoint's arguments, which Lightning's method would silently prefer."""

    @override
    def _set_seed(self) -> None:
        check_seed(self._get(self.config, "seed_everything"), "seed_everything")
        super()._set_seed()

    @override
    def before_instantiate_classes(self) -> None:
        """Check the parsed configuration and prepare the run directory, before data are read."""
        config = self.config[self.subcommand]
        check_classes(config)
        check_trainer_values(vars(config.trainer))
        sizes = getattr(config.model, "init_args", None) or {}
        pass_observed_key(config)
        reject_sizes([name for name in FROM_DATA if sizes.get(name)], "a file that the configuration names")
        self.directory = member_directory(Path(config.trainer.default_root_dir or "runs/vaekit").expanduser())
        num_seeds = config.pop("seeds", 1)  # is not part of the configuration of a run
        move_figure_flags(config)
        check_minimum(1, seeds=num_seeds)
        num_seeds = 1 if config.trainer.fast_dev_run else num_seeds
        self.seeds = range(config.seed_everything, config.seed_everything + num_seeds)
        if num_seeds > 1:
            SeedRuns(self.directory, self.seeds).check_start(config.get("ckpt_path"))
        else:
            self._num_steps = check_checkpoint(config, self.directory, self.subcommand)
        if self.writes and self.subcommand == "fit" and not config.trainer.fast_dev_run and may_be_first_process():
            self.directory, self.lock = claim(self.directory, resumes=config.get("ckpt_path") is not None)
        config.trainer.default_root_dir = str(self.directory)
        place_loggers(config.trainer.logger, self.directory)
        check_destinations(config.trainer, self.record.flags, self.directory)

    @override
    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except VaekitError:
            raise
        except ValueError as error:
            if "Does not validate against" not in str(error):  # jsonargparse checks linked arguments only here
                raise
            self._subcommand_parsers[self._command].error(str(error), error)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Return the trainer with the callbacks of each run, and with Weights & Biases if no logger is configured."""
        config = self.config[self.subcommand].trainer
        configured = self._get(self.config_init, "trainer").get("callbacks")
        plain = to_plain(self._parser(self.subcommand), self.config[self.subcommand])
        defaults = [
            RunRecord(self.warnings, plain, self.command),
            *run_callbacks(progress=config.enable_progress_bar is not False),
        ]
        kwargs["callbacks"] = add_defaults(configured, defaults)
        if config.logger in (None, True):
            kwargs["logger"] = default_logger(self.directory) if self.subcommand == "fit" else False
        with translate_setting_errors():
            trainer = super().instantiate_trainer(**kwargs)
        log_model = None if self.record.has_logger_argument("log_model") else not in_sweep()
        complete_loggers(trainer.loggers, self._wandb_name(), log_model)
        return trainer

    @property
    def run_name(self) -> str:
        """Name of the last configuration file, or else of the run directory."""
        files = [name for name in self.record.config_names if name != "the configuration"]
        return Path(files[-1]).stem if files else run_label(self.directory)

    def _wandb_name(self) -> str:
        """Return the name of the directory; the runs of a sweep share it and are named by their settings."""
        if not in_sweep():
            return run_label(self.directory)
        estimators = sorted({type(estimator).__name__ for estimator in self.model.estimators.values()})
        return " ".join([self.run_name, *estimators, f"seed {self._get(self.config, 'seed_everything')}"])

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        if len(self.seeds) > 1:
            self._train_seeds()
            return
        check_wandb_files(self.trainer.loggers)
        try:
            with (
                translate_write_errors(self.trainer, self.directory),
                marked_run(self.trainer.loggers, finishes=False),
                translate_errors(self.trainer),
            ):
                super()._run_subcommand(subcommand)
        except SystemExit:  # raised by Lightning after Ctrl-C
            if not self.trainer.interrupted:
                raise
            last = self.directory / "last.ckpt"
            if subcommand == "fit" and last.is_file() and self.trainer.is_global_zero:
                print(f"Training interrupted; saved {last}. Resume with --ckpt_path last", file=sys.stderr)
            raise KeyboardInterrupt from None

    def _train_seeds(self) -> None:
        """Train one run per seed, each in its own directory and with its own data, model and trainer."""
        config, runs = self.config[self.subcommand], SeedRuns(self.directory, self.seeds)
        runs.check_trainer(self.trainer)
        resumes, is_first = config.ckpt_path is not None, self.trainer.is_global_zero
        plain = to_plain(self._parser(self.subcommand), config)
        if not resumes and is_first:
            report_archive(self.directory)
        latents = self.model.latents.values()
        has_states = self.model.networks.likelihood.uses_size_factor and any(x.has_normal_posterior for x in latents)
        del self.model, self.datamodule, self.trainer
        group = run_label(self.directory)

        def train(flags: list[str]) -> pl.Trainer:
            return VaekitCLI([*self.arguments, *flags], group, [*self.command, *flags]).trainer

        runs.train(train, plain, resumes, is_first)
        if is_first:
            print(runs.summary())
            if has_states:
                print(f"Next: vaekit states {self.directory} -o states.h5ad")

    def before_fit(self) -> None:
        """Check model and data, archive an earlier run, and print the data and latents."""
        if self.trainer.max_epochs == -1 and self.trainer.max_steps == -1:
            self.model.objective.check_steps(float("inf"))
        self.model.networks.likelihood.check(self.datamodule.example)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, FigureWriter):
                callback.read_columns(self.datamodule)
        if not self.trainer.is_global_zero:
            return
        fast = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if not fast and self.lock is None:  # an unknown launcher: may_be_first_process could not distinguish the ranks
            self.directory, self.lock = claim(self.directory, resumes=True)
        for pattern in ("*", "figures/**/*"):
            remove_partial_files(self.directory, pattern)
        if self._num_steps is None and not fast:
            report_archive(self.directory)
        group_runs(self.trainer.loggers, self.group)
        self._checkpoint_loggers = take_over_checkpoints(self.trainer.loggers)
        self.trainer.loggers = continue_run(self.trainer.loggers, self.directory, self._num_steps)
        start_loggers(self.trainer)
        self.has_started = True
        print_subject(self.datamodule, self.model)

    def after_fit(self) -> None:
        """Write the report, complete the loggers, and print the files that were written."""
        if not self.trainer.is_global_zero:
            return
        finish_training(self.trainer, self.model, self.datamodule, self.directory, self._checkpoint_loggers)

    def predict(self, model: VAE, **kwargs: Any) -> None:
        """Write the posterior means or probabilities of each latent, of all observations, to ``predictions.pt``."""
        write_predictions(self.trainer, self.directory, lambda: self.trainer.predict(model, **kwargs))


def run(arguments: list[str]) -> None:
    """Run fit, validate, test or predict."""
    silence_libraries()
    torch.set_float32_matmul_precision("high")
    is_fit = arguments[0] == "fit"
    VaekitCLI(["fit", *complete_arguments(arguments[1:])] if is_fit else arguments, command=arguments)
