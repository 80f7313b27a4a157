"""Configurations as plain data, looked at before the parser imports what they name."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from jsonargparse import Namespace

from vaekit.class_paths import ALLOWED, check_all, trusted
from vaekit.exceptions import ConfigError

MAX_BYTES = 2**20  # of a configuration, which has some thousand


def check_arguments(arguments: list[str]) -> None:
    """Check the class paths of all configurations that a command line gives, and say what one takes from another.

    Lightning's parser is told the same rule, since flags, strings and files within files are known to it alone.

    Raises
    ------
    ConfigError
        If a configuration cannot be read, is too large, or names a class that is not allowed.
    """
    # lightning_fabric is the half of Lightning in which some classes of pytorch_lightning are defined
    allowed = [*ALLOWED, "lightning_fabric", *trusted()]
    jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)
    before: list[tuple[str, Any]] = []
    for text in configs(arguments):
        name, config = read(text)
        check_all(config, name)
        for earlier, old in before:
            for lost in replaced(old, config):
                print(f"warning: {name} replaces {lost} of {earlier}; a flag changes a part of it", file=sys.stderr)
        before.append((name, config))


def configs(arguments: list[str]) -> Iterator[str]:
    """Yield the values of ``--config``."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-c"):
            if not equals and i + 1 == len(arguments):
                raise ConfigError(f"{name} has no value: name a file, such as --config configs/pbmc_mixed.yaml")
            yield value if equals else arguments[i + 1]


def read(text: str) -> tuple[str, Any]:
    """Return what to call a configuration, given as a path or as its own text, and its content as plain data.

    Raises
    ------
    ConfigError
        If there is no such file, or it is no YAML.
    """
    name, content = "the configuration", text
    if "{" not in text and "\n" not in text:
        name = text
        try:
            with Path(text).expanduser().open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
            if len(raw) > MAX_BYTES:
                raise ConfigError(f"{name} has more than {MAX_BYTES} bytes, where a configuration has some thousand")
            content = raw.decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{name} is no text ({error.reason}); a YAML file is needed") from None
        except OSError as error:
            raise ConfigError(f"the configuration {name} cannot be read: {error.strerror}") from None
    try:
        found = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is of a date such as 2026-99-99
        raise ConfigError(f"{name} is no valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{name} is nested too deeply for a configuration") from None
    if not isinstance(found, Mapping):
        raise ConfigError(
            f"{name} holds {'nothing' if found is None else 'a ' + type(found).__name__}, and a mapping with keys "
            "such as model, data and trainer is needed"
        )
    return name, found


def replaced(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Yield what is lost of a mapping of components (latents by name) where a later configuration has another one.

    Examples
    --------
    >>> old = {"model": {"init_args": {"latents": {"y": {"class_path": "Categorical"}, "z": {}}}}}
    >>> new = {"model": {"init_args": {"latents": {"z": {"class_path": "Gaussian"}}}}}
    >>> list(replaced(old, new))
    ["'y', 'z' in model.latents"]
    """
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return
    for name in old.keys() & new.keys():
        below = f"{key}.{name}".removeprefix(".")
        if key.endswith("init_args") and _is_by_name(old[name]) and _is_by_name(new[name]):
            yield f"{', '.join(map(repr, old[name]))} in {below.replace('.init_args', '')}"
        else:
            yield from replaced(old[name], new[name], below)


def _is_by_name(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and not {"class_path", "init_args"} & value.keys()


def check_parsed(config: Any, key: str = "") -> None:
    """Check that a parsed configuration calls nothing but classes.

    The parser also takes functions, such as ``LightningModule.load_from_checkpoint`` in the place of a model: these
    could be given arguments of an attacker's choice.

    Raises
    ------
    ConfigError
        If something in it is a function, or a class path names one.
    """
    if isinstance(config, Namespace | argparse.Namespace):
        config = vars(config)
    if isinstance(config, Mapping):
        path = config.get("class_path")
        if isinstance(path, str) and "." in path and not inspect.isclass(_found(path)):
            raise ConfigError(f"{key}: {path!r} is no class; only classes are called")
        for name, value in config.items():
            check_parsed(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list | tuple | set):
        for i, value in enumerate(config):
            check_parsed(value, f"{key}[{i}]")
    elif inspect.isroutine(config):
        raise ConfigError(f"{key}: a configuration can name classes, and not the function {config.__qualname__}")


def _found(path: str) -> Any:
    """Return what a class path that the parser has followed already leads to."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)
