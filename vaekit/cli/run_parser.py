"""Parser of the training commands: checks of configurations and flags, short forms, and errors that name a key."""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml
from jsonargparse import ActionConfigFile
from jsonargparse._typehints import ActionTypeHint  # has no public name
from pytorch_lightning.cli import LightningArgumentParser
from typing_extensions import override

from vaekit._core.class_paths import ALLOWED, check_class_paths, trusted
from vaekit.cli import fit_help
from vaekit.cli.class_defaults import expand_class_defaults, replace_short_names, resolve_estimator_key
from vaekit.cli.config_diagnosis import FROM_DATA, diagnose, merge_configs, merge_flag
from vaekit.cli.config_files import load_yaml, read_config
from vaekit.cli.foreign import LEVELS
from vaekit.cli.logger import RUN_DIRECTORY
from vaekit.cli.packaged_configs import resolve_config
from vaekit.exceptions import ConfigError, VaekitError
from vaekit.models.checkpoint import read_checkpoint

_load_yaml = jsonargparse.get_loader("yaml")

SHORT_FORMS = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
SHORT_FORMS.add_argument("--config", "-c", action="append")
SHORT_FORMS.add_argument("--ckpt_path")


def with_config(arguments: list[str], checkpoint: str | None = None) -> list[str]:
    """Return the arguments, with the configuration of a checkpoint if they name none.

    Parameters
    ----------
    arguments : list of str
        Flags of fit, validate, test or predict.
    checkpoint : str, optional
        Path of the checkpoint. None: the value of ``--ckpt_path``.
    """
    with contextlib.suppress(argparse.ArgumentError):  # the parser reports a flag without a value
        options, _ = SHORT_FORMS.parse_known_args(arguments)
        checkpoint = checkpoint or options.ckpt_path
        if checkpoint is not None and not options.config:
            return ["--config", checkpoint_config(checkpoint), *arguments]
    return arguments


def checkpoint_config(path: str) -> str:
    """Return, as JSON, the configuration of model and data that a checkpoint was trained with.

    Raises
    ------
    ConfigError
        If the checkpoint does not contain the configuration of its data.
    """
    checkpoint = read_checkpoint(path)
    model = {name: value for name, value in checkpoint["hyper_parameters"].items() if name not in FROM_DATA}
    if not checkpoint.get("data_registry"):
        raise ConfigError(f"{path} does not contain the configuration of its data. Pass --config FILE.yaml.")
    data = dict(checkpoint["data_registry"]["config"])
    data["init_args"] = {name: value for name, value in data["init_args"].items() if name != "adata"}
    return json.dumps(
        {
            "model": {"class_path": model.pop("_class_path"), "init_args": model},
            "data": data,
            "trainer": {"default_root_dir": str(Path(path).parent)},
        }
    )


class CommandRecord:
    """Configurations and flags of one command line, in their order.

    Attributes
    ----------
    config_names : list of str
        Names of the configurations.
    flags : list of (key, value)
        Typed flags as text.
    merged : dict
        All of them as one configuration.
    """

    def __init__(self) -> None:
        self.config_names: list[str] = []
        self.flags: list[tuple[str, str]] = []
        self.merged: dict[str, Any] = {}

    def add_config(self, text: str) -> str:
        """Check a configuration as plain data, before the parser imports its classes, and record it.

        Returns
        -------
        str
            The same text, or the configuration as JSON if short names of classes were replaced in it.
        """
        name, original = read_config(text)
        config = replace_short_names(original)
        check_class_paths(config, name)
        model = config.get("model")
        for level in LEVELS:
            reject_sizes(model.get(level) if isinstance(model, Mapping) else None, name)
        replaced: list[str] = []
        self.merged = merge_configs(self.merged, config, replaced)
        for components in replaced:
            earlier = ", ".join(self.config_names)
            print(f"warning: {name} replaces {components} of {earlier}. Flags change single keys.", file=sys.stderr)
        self.config_names.append(name)
        return text if config is original else json.dumps(config)

    def add_flag(self, key: str, text: str) -> tuple[str, str]:
        """Check a flag and record it; return the key and value for the parser."""
        if text.startswith(("{", "[")):
            with contextlib.suppress(yaml.YAMLError, RecursionError):  # the parser reports the problem
                load_yaml(text, f"--{key}")
        self.flags.append((key, text))
        value = text
        if key.startswith("model."):
            parent, _, name = key.rpartition(".")
            reject_sizes([name] if parent in ("model", "model.init_args", "model.dict_kwargs") else None, f"--{key}")
            key = resolve_estimator_key(key, self.merged)
            value = expand_class_defaults(key, text)
            if value != text:
                self._reject_undone(key)
        elif key == "trainer.logger" and text.rpartition(".")[2] in ("CSVLogger", "TensorBoardLogger", "WandbLogger"):
            value = text = json.dumps({"class_path": text, "init_args": {"save_dir": RUN_DIRECTORY}})
        self.merged = merge_flag(self.merged, key, _load_value(text))
        return key, value

    @property
    def has_logger(self) -> bool:
        """Whether a configuration or flag names a logger."""
        trainer = self.merged.get("trainer")
        return isinstance(trainer, Mapping) and trainer.get("logger") not in (None, True)

    def has_logger_argument(self, name: str) -> bool:
        """Return whether a configuration or flag sets an argument of a logger."""
        trainer = self.merged.get("trainer")
        return isinstance(trainer, Mapping) and _contains_key(trainer.get("logger"), name)

    def _reject_undone(self, key: str) -> None:
        for earlier, _ in self.flags[:-1]:
            if resolve_estimator_key(_without_levels(earlier), self.merged).startswith(f"{_without_levels(key)}."):
                raise ConfigError(
                    f"--{self.flags[-1][0]} resets the class to its defaults and would undo --{earlier}. Swap them."
                )


def _contains_key(value: Any, name: str) -> bool:
    """Return whether a mapping, or one that it contains, has a key."""
    if isinstance(value, Mapping):
        return name in value or any(_contains_key(item, name) for item in value.values())
    return isinstance(value, list) and any(_contains_key(item, name) for item in value)


def _load_value(text: str) -> Any:
    """Return the value of a flag as plain data, or the text itself if it is not valid YAML."""
    with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
        return _load_yaml(text) if text else text
    return text


def _without_levels(key: str) -> str:
    return key.replace(".init_args", "")


def reject_sizes(arguments: Any, source: str) -> None:
    """Raise an error if the arguments of a model contain a size that the data determine.

    Parameters
    ----------
    arguments : Any
        Arguments by name, or their names.
    source : str
        Their place, for the message.

    Raises
    ------
    ConfigError
        If they do: the value would have no effect.
    """
    for name in FROM_DATA:
        if isinstance(arguments, Mapping | list) and name in arguments:
            raise ConfigError(f"{source}: model.{name} cannot be set: the data determine it. Omit it.")


class ConfigFlag(ActionConfigFile):
    """Action of ``--config``: check the file as plain data before the parser imports its classes."""

    @override
    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        values = resolve_config(values)
        values = parser.record.add_config(values)
        super().__call__(parser, cfg, values, option_string)


class TypedFlag(ActionTypeHint):
    """Action of a flag with a type: a flag that names a class resets this component to its defaults."""

    @override
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not args:
            return super().__call__(**kwargs)
        parser, cfg, text, flag = args
        if flag.startswith("--trainer.logger.") and not parser.record.has_logger:  # an argument of the default logger
            self(parser, cfg, "WandbLogger", "--trainer.logger")
        key, text = parser.record.add_flag(flag.removeprefix("--"), text)
        return super().__call__(parser, cfg, text, f"--{key}")


class RunParser(LightningArgumentParser):
    """Parser of fit, validate, test or predict. Errors name the key, the value and the nearest valid name.

    Attributes
    ----------
    record : CommandRecord or None
        Shared by the parser of a command and its parent. jsonargparse's parsers of single classes do not have one.
    """

    record: CommandRecord | None = None
    subcommand: str  # set by LightningCLI

    @override
    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        """Use the configuration of the checkpoint if ``validate``, ``test`` or ``predict`` does not name one."""
        if getattr(self, "subcommand", "fit") != "fit":
            args = with_config(args)
        return super().parse_args(args, *rest, **kwargs)

    def short_help(self) -> str:
        """Return the help of the command on one screen."""
        return fit_help.short_help(self.subcommand)

    def full_help(self) -> str:
        """Return the help with all flags."""
        return fit_help.full_help(self.subcommand)

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if self.record is None:
            super().error(message, ex)
        cause: BaseException | None = ex
        while cause is not None:  # an error of vaekit may be wrapped in several of jsonargparse
            if isinstance(cause, VaekitError):
                raise cause
            cause = cause.__cause__ or cause.__context__
        raise ConfigError(self._explain(" ".join(message.split()), ex)) from None

    def _explain(self, message: str, error: Exception | None) -> str:
        assert self.record is not None
        argument = getattr(error, "argument_name", None)
        if "ambiguous option" in message:
            return f"{message[:300]}. Write the full name."
        if argument is not None:  # argparse's own error: the flag has no value
            return f"{argument} or a key below it has no value. Write --KEY=VALUE if the value begins with a hyphen."
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0]  # argparse reports them as text only
        config = self.record.merged
        if unknown.startswith("--"):
            key, _, text = unknown[2:].partition("=")
            config = merge_flag(config, key, _load_value(text))
        if problem := diagnose(config):
            return problem
        if unknown:
            return f"argument {unknown!r} not found. Keys are set by --model.KEY, --data.KEY and --trainer.KEY."
        return message[:300]


def allow_classes() -> None:
    """Allow jsonargparse to follow class paths of allowed and trusted packages only, and reject repeated keys."""
    # lightning_fabric defines some classes of pytorch_lightning
    allowed = [*ALLOWED, "lightning_fabric", *trusted()]
    jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)
    jsonargparse.set_loader("yaml", _load, exceptions=(yaml.YAMLError,))


def _load(text: str) -> Any:
    """Return the YAML of a flag or a nested file as plain data, and reject a repeated key."""
    if text.startswith("{'"):  # jsonargparse formats a dictionary in a dictionary as Python, in which None is not YAML
        with contextlib.suppress(ValueError, SyntaxError):
            return ast.literal_eval(text)
    if ":" in text:
        load_yaml(text, "a value, or a file that it names,")
    value = _load_yaml(text)
    return text if value is None and text.lstrip().startswith(("#", "&")) else value  # a column, such as "#cells"
