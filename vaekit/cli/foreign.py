"""Limits of a configuration: it cannot call functions, or choose the destination of credentials or files.

A configuration, or a file that it names, may be somebody else's, and so may the working directory. The flags of a
command line are the user's own, and so are environment variables such as ``WANDB_BASE_URL``: their settings are not
checked. A configuration may name an account on the user's own server (``entity``, ``project``).
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import inspect
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml
from jsonargparse import get_loader
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy

from vaekit._core.class_paths import trusted
from vaekit.exceptions import ConfigError

LEVELS = ("init_args", "dict_kwargs")  # of a class in a configuration; flags omit them
_FILES = {"save_dir", "name", "version", "prefix"}
HARMLESS: Mapping[str, set[str] | None] = {  # arguments of classes that use the network or write files; None: all
    "WandbLogger": {*_FILES, "entity", "project", "id", "offline", "mode", "log_model", "checkpoint_name", "group",
                    "job_type", "notes", "tags", "resume", "dir"},
    "CSVLogger": {*_FILES, "flush_logs_every_n_steps"},
    "TensorBoardLogger": {*_FILES, "sub_dir", "log_graph", "default_hp_metric", "max_queue", "flush_secs"},
    **dict.fromkeys(("SimpleProfiler", "AdvancedProfiler", "PassThroughProfiler", "PyTorchProfiler")),
    **dict.fromkeys(("SingleDeviceStrategy", "DDPStrategy", "FSDPStrategy")),
}  # fmt: skip
LIMITED = (Logger, Profiler, Strategy)
WANDB_KEYS = {"entity", "project", "mode", "disabled"}  # of a settings file: harmless
WANDB_SERVER = "https://api.wandb.ai"


def loaded_object(path: str) -> Any:
    """Return the object of a class path if its module is loaded, else None, without importing it."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def check_classes(config: Any, key: str = "") -> None:
    """Check that a parsed configuration calls nothing but classes.

    The parser also accepts functions, such as ``LightningModule.load_from_checkpoint`` as a model, and would call them
    with arguments of an attacker's choice.

    Raises
    ------
    ConfigError
        If a value is a function, or a class path names one.
    """
    config = vars(config) if isinstance(config, argparse.Namespace) else config
    if isinstance(config, Mapping):
        path = config.get("class_path")
        if isinstance(path, str) and "." in path and not inspect.isclass(loaded_object(path)):
            raise ConfigError(f"{key}: {path!r} is not a class. Only classes are called.")
        for name, value in config.items():
            check_classes(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list | tuple | set):
        for index, value in enumerate(config):
            check_classes(value, f"{key}[{index}]")
    elif inspect.isroutine(config):
        raise ConfigError(f"{key}: a configuration may name classes, but not the function {config.__qualname__}.")


def check_destinations(trainer: Any, flags: Iterable[tuple[str, str]], directory: Path) -> None:
    """Check the settings of the trainer that come from configurations.

    Parameters
    ----------
    trainer : Namespace
        Parsed arguments of the trainer, before its objects are created.
    flags : iterable of (key, value)
        Flags of the command line: settings that are the user's own.
    directory : Path
        The run directory, the only place to which a configuration may have files written.

    Raises
    ------
    ConfigError
        If a configuration, without ``--trust pytorch_lightning``, names a logger, profiler or strategy, or an argument
        of one, that is not listed as harmless; or a file outside the run directory.
    """
    if "pytorch_lightning" in trusted():
        return
    user_settings = {(key, name) for flag, text in flags for key, _, _, value in _settings(*_load_flag(flag, text))
                     for name in (str(value), str(value).rpartition(".")[2])}  # fmt: skip
    for key, cls, harmless, value in _settings(trainer, "trainer"):
        name = str(value).rpartition(".")[2] if cls is not None else str(value)
        if (key, name) in user_settings:
            continue
        if cls is not None:
            if not inspect.isclass(cls) or (issubclass(cls, LIMITED) and name not in HARMLESS):
                raise _forbidden(key, f"a {name}")
        elif not harmless or (key == "trainer.model_registry" and value is not None):
            raise _forbidden(key, "the destination of credentials or data")
        elif isinstance(value, str | PurePath) and _leads_out(key.rpartition(".")[2], str(value), directory):
            raise _forbidden(key, f"a path outside the run directory {directory}")


def check_wandb_files(loggers: Iterable[Logger]) -> None:
    """Check that no ``wandb/settings`` file of the working directory, which W&B reads, sets another server or key.

    ``wandb init`` writes the server into it: the server of the user's own settings or of ``WANDB_BASE_URL`` is
    accepted.

    Parameters
    ----------
    loggers : iterable of Logger
        Loggers of the run. The files have no effect unless one of them is an online W&B logger.

    Raises
    ------
    ConfigError
        If a file does so, without ``--trust pytorch_lightning``.
    """
    modes = [
        "offline" if logger._offline else logger._wandb_init.get("mode") or os.environ.get("WANDB_MODE")
        for logger in loggers
        if isinstance(logger, WandbLogger)
    ]
    if {"offline", "disabled"}.issuperset(modes) or "pytorch_lightning" in trusted():
        return
    servers = [WANDB_SERVER, _user_server()]
    for name in ("wandb", ".wandb"):
        path = Path(os.environ.get("WANDB_DIR") or ".").expanduser() / name / "settings"
        for key, value in _read_settings(path).items():
            if key == "base_url" and (os.environ.get("WANDB_BASE_URL") or value.rstrip("/") in servers):
                continue
            if key not in WANDB_KEYS:
                raise ConfigError(
                    f"{path} sets {key!r}, and W&B would send your credentials or data accordingly. Remove the line, "
                    "set the environment variable WANDB_BASE_URL to your server, or, if you trust the directory, pass "
                    "--trust pytorch_lightning."
                )


def wandb_server() -> str:
    """Return the address of the user's W&B server, from the environment or the user's own settings."""
    return os.environ.get("WANDB_BASE_URL") or _user_server()


def _user_server() -> str:
    config = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    return _read_settings(config / "settings").get("base_url", WANDB_SERVER).rstrip("/")


def _read_settings(path: Path) -> dict[str, str]:
    """Return the keys and values of a W&B settings file; empty if the file does not exist."""
    parser = configparser.ConfigParser(interpolation=None, strict=False, default_section="")
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except (configparser.Error, UnicodeDecodeError):
        return {"a line that is not valid": ""}
    return {key: value for section in parser.sections() for key, value in parser[section].items()}


def _forbidden(key: str, setting: str) -> ConfigError:
    return ConfigError(
        f"{key}: a configuration may not set {setting} unless it is trusted. Pass it as a flag, --{key} VALUE, or, if "
        "you trust the configuration, pass --trust pytorch_lightning."
    )


def _load_flag(key: str, text: str) -> tuple[Any, str]:
    """Return the value of a flag as plain data, without the content of files that it names, and its full key."""
    value: Any = text
    with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):  # the parser reports the problem
        value = get_loader("yaml")(text)
    parts = key.removesuffix("+").removesuffix(".class_path").split(".")
    return value, ".".join(part for part in parts if part not in LEVELS)


def _settings(value: Any, key: str, harmless: bool = True) -> Iterator[tuple[str, Any, bool, Any]]:
    """Yield the key, class, whether it is listed as harmless, and value of each setting.

    The class is None unless the value is a class path; it is a string if the class is not loaded.
    """
    value = vars(value) if isinstance(value, argparse.Namespace) else value
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        path = value["class_path"]
        cls = loaded_object(path)
        yield key, path if cls is None else cls, True, path
        allowed = HARMLESS.get(cls.__name__, set() if issubclass(cls, LIMITED) else None) if cls is not None else None
        defaults = {} if cls is None else inspect.signature(cls).parameters
        for level in LEVELS:
            arguments = value.get(level) or {}
            for name, item in (vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments).items():
                if item is not None and not (name in defaults and item == defaults[name].default):
                    yield from _settings(item, f"{key}.{name}", harmless and (allowed is None or name in allowed))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _settings(item, f"{key}.{name}", harmless)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _settings(item, key, harmless)
    else:
        yield key, None, harmless, value


def _leads_out(name: str, value: str, directory: Path) -> bool:
    """Return whether a value leads out of the run directory, or to another machine."""
    if name == "default_root_dir":
        return False
    if "://" in value:
        return True
    if name != "sub_dir" and name.endswith(("dir", "path", "folder")):
        return not Path(value).resolve().is_relative_to(directory.resolve())
    path = PurePath(value.replace("\\", "/"))
    return value.startswith(("/", "~", "\\")) or bool(path.drive) or ".." in path.parts
