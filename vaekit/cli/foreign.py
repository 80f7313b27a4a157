"""Limits of a configuration: it cannot choose the destination of credentials or files.

A configuration, or a file that it names, may be somebody else's, and so may the working directory. The flags of a
command line are the user's own, and so are environment variables such as ``WANDB_BASE_URL``: their settings are not
checked. A configuration may name an account on the user's own server (``entity``, ``project``).
"""

from __future__ import annotations

import argparse
import configparser
import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy

from vaekit._core.class_paths import trusted
from vaekit.cli.raw_config import found_class
from vaekit.exceptions import ConfigError

_FILES = {"save_dir", "name", "version", "prefix"}
ARGUMENTS: Mapping[str, set[str] | None] = {  # of the classes that reach a network or write files; None: all
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
_LEVELS = ("init_args", "dict_kwargs")
Leaf = tuple[str, Any]


def check_trainer(trainer: Any, arguments: list[str], folder: Path) -> None:
    """Check the settings of the trainer that come from configurations.

    Parameters
    ----------
    trainer
        Parsed arguments of the trainer, before its objects are created.
    arguments
        The command line.
    folder
        The run directory, the only place where a configuration may have files written.

    Raises
    ------
    ConfigError
        If a configuration, without ``--trust pytorch_lightning``, names a logger, profiler or strategy, or an argument
        of one, that is not known to be harmless; or a file outside the run directory.
    """
    if "pytorch_lightning" in trusted():
        return
    own = set(_given(arguments))
    for key, cls, known, value in _settings(trainer, "trainer"):
        if (key, _plain(value)) in own:
            continue
        if key.endswith(".class_path"):
            place, name = key.removesuffix(".class_path"), str(value).rpartition(".")[2]
            limited = cls is None or (issubclass(cls, LIMITED) and name not in ARGUMENTS)
            if limited and (place, name) not in own:
                raise _refused(place, f"a {name}")
        elif not known or (key == "trainer.model_registry" and value is not None):
            raise _refused(key, "where credentials or data go")
        elif isinstance(value, str | PurePath) and _leads_out(key.rpartition(".")[2], str(value), folder):
            raise _refused(key, f"a place outside the run directory {folder}")


def check_wandb_files(loggers: Iterable[Logger]) -> None:
    """Check that no ``wandb/settings`` file of the working directory, which W&B reads, sets another server or key.

    ``wandb init`` writes the server into it: one that the user's own settings or ``WANDB_BASE_URL`` name is accepted.

    Parameters
    ----------
    loggers
        Loggers of the run; without an online one of W&B the files have no effect.

    Raises
    ------
    ConfigError
        If one does, without ``--trust pytorch_lightning``.
    """
    online = any(isinstance(logger, WandbLogger) and not logger._offline for logger in loggers)
    if not online or os.environ.get("WANDB_MODE") in ("offline", "disabled") or "pytorch_lightning" in trusted():
        return
    config = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    servers = [WANDB_SERVER, _wandb_file(config / "settings").get("base_url", WANDB_SERVER).rstrip("/")]
    for name in ("wandb", ".wandb"):
        path = Path(os.environ.get("WANDB_DIR") or ".").expanduser() / name / "settings"
        for key, value in _wandb_file(path).items():
            if key == "base_url" and (os.environ.get("WANDB_BASE_URL") or value.rstrip("/") in servers):
                continue
            if key not in WANDB_KEYS:
                raise ConfigError(
                    f"{path} sets {key!r}, and W&B would send your credentials or data accordingly. Remove the line, "
                    "set the environment variable WANDB_BASE_URL to your server, or, if you trust the directory, pass "
                    "--trust pytorch_lightning."
                )


def _wandb_file(path: Path) -> dict[str, str]:
    """Return the keys and values of a settings file of W&B; none if there is no such file."""
    parser = configparser.ConfigParser(interpolation=None, strict=False, default_section="")
    try:
        parser.read_string(path.read_text())
    except OSError:
        return {}
    except (configparser.Error, UnicodeDecodeError):
        return {"a line that is not valid": ""}
    return {key: value for section in parser.sections() for key, value in parser[section].items()}


def _refused(key: str, what: str) -> ConfigError:
    return ConfigError(
        f"{key}: a configuration may not set {what} unless it is trusted. Pass it as a flag, --{key} VALUE, or, if you "
        "trust the configuration, pass --trust pytorch_lightning."
    )


def _settings(
    value: Any, key: str, cls: type | None = None, known: bool = True
) -> Iterator[tuple[str, Any, bool, Any]]:
    """Yield key, class, whether its argument is known to be harmless, and value of each setting."""
    if isinstance(value, Namespace | argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        cls = found_class(value["class_path"])
        yield f"{key}.class_path", cls, True, value["class_path"]
        allowed = ARGUMENTS.get(cls.__name__, set() if issubclass(cls, LIMITED) else None) if cls is not None else None
        defaults = {} if cls is None else inspect.signature(cls).parameters
        for level in _LEVELS:
            given = value.get(level) or {}
            for name, item in (vars(given) if isinstance(given, argparse.Namespace) else dict(given)).items():
                if item is None or (name in defaults and item == defaults[name].default):
                    continue
                yield from _settings(item, f"{key}.{name}", None, known and (allowed is None or name in allowed))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _settings(item, f"{key}.{name}", None, known)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _settings(item, key, None, known)
    else:
        yield key, cls, known, value


def _given(arguments: list[str]) -> Iterator[Leaf]:
    """Yield keys and values that flags set directly, without the content of files that they name."""
    for i, argument in enumerate(arguments):
        name, equals, text = argument.partition("=")
        if not name.startswith("--trainer"):
            continue
        text = text if equals else "".join(arguments[i + 1 : i + 2])
        key = ".".join(part for part in name.removeprefix("--").rstrip("+").split(".") if part not in _LEVELS)
        yield key, text
        try:
            value = get_loader("yaml")(text)
        except (yaml.YAMLError, ValueError, RecursionError):  # the parser reports the problem
            continue
        yield from _leaves(value, key)


def _leaves(value: Any, key: str) -> Iterator[Leaf]:
    """Yield keys and values of plain data; a class also by its bare name, as the value of what it is given to."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, key if name in _LEVELS else f"{key}.{name}".removesuffix(".class_path"))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, key)
    else:
        yield key, _plain(value)
        yield key, str(value).rpartition(".")[2]


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _leads_out(name: str, value: str, folder: Path) -> bool:
    """Return whether a value leads out of the run directory, or to another machine."""
    if name == "default_root_dir":
        return False
    if "://" in value:
        return True
    if name != "sub_dir" and name.endswith(("dir", "path", "folder")):
        return not Path(value).resolve().is_relative_to(folder.resolve())
    return value.startswith(("/", "~", "\\")) or ".." in PurePath(value.replace("\\", "/")).parts
