"""Configurations as plain data, looked at before the parser imports what they name."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from jsonargparse import Namespace

from vaekit._core.class_paths import ALLOWED, check_class_paths, trusted
from vaekit.cli.yaml_file import check_unique, parse, read_text
from vaekit.exceptions import ConfigError

LINKED = ("features", "covariates")  # of a model, from the data
LEVELS = ("init_args", "dict_kwargs")


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
    jsonargparse.set_loader("yaml", _load, exceptions=(yaml.YAMLError,))
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key.startswith("--model."):
            refuse_sizes([key.rpartition(".")[2]] if key.count(".") == 1 or key.split(".")[1] in LEVELS else [], key)
        if argument.startswith(("{", "[")) or (equals and value.startswith(("{", "["))):
            with contextlib.suppress(yaml.YAMLError, RecursionError):  # the parser reports the problem
                check_unique(value if equals and key.startswith("--") else argument, "the value of a flag")
    before: list[tuple[str, Any]] = []
    for text in configs(arguments):
        name, config = read(text)
        check_class_paths(config, name)
        model = config.get("model")
        for level in ("init_args", "dict_kwargs"):
            refuse_sizes(model.get(level) if isinstance(model, Mapping) else None, name)
        for earlier, old in before:
            for lost in replaced(old, config):
                print(f"warning: {name} replaces {lost} of {earlier}; a flag changes a part of it", file=sys.stderr)
        before.append((name, config))


_load_yaml = jsonargparse.get_loader("yaml")


def _load(text: str) -> Any:
    """Return the YAML of a flag or a nested file as plain data, and reject a repeated key."""
    if ":" in text:
        check_unique(text, "a value or a file that is named in it")
    return _load_yaml(text)


def refuse_sizes(given: Any, where: str) -> None:
    """Raise an error if the arguments of a model contain those that come from the data.

    Parameters
    ----------
    given
        Arguments by name, or their names.
    where
        What contains them, for the message.

    Raises
    ------
    ConfigError
        If they do: the value would have no effect.
    """
    for name in LINKED:
        if isinstance(given, Mapping | list) and name in given:
            raise ConfigError(
                f"{where}: model.{name} cannot be set, it comes from the data (data.{name}). Leave it out."
            )


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
        If there is no such file, it is not YAML, or it repeats a key.
    """
    inline = "{" in text or "\n" in text
    name = "the configuration" if inline else text
    found = parse(text if inline else read_text(Path(text).expanduser()), name)
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
        if isinstance(path, str) and "." in path and not inspect.isclass(found_class(path)):
            raise ConfigError(f"{key}: {path!r} is no class; only classes are called")
        for name, value in config.items():
            check_parsed(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list | tuple | set):
        for i, value in enumerate(config):
            check_parsed(value, f"{key}[{i}]")
    elif inspect.isroutine(config):
        raise ConfigError(f"{key}: a configuration can name classes, and not the function {config.__qualname__}")


def found_class(path: str) -> Any:
    """Return what a class path that the parser has followed already leads to."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)
