"""Configuration files as plain data: keys are unique, and errors never quote a file that may contain a secret."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from vaekit.exceptions import ConfigError

MAX_BYTES = 2**20  # a configuration has a few thousand
_QUOTED = re.compile(r"\s*(?:'[^']*'|\"[^\"]*\")")


def read_config(text: str) -> tuple[str, Mapping[str, Any]]:
    """Return the name of a configuration and its content as plain data.

    Parameters
    ----------
    text : str
        File path, or the YAML text itself.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not valid YAML, repeats a key, or does not contain a mapping.
    """
    inline = "{" in text or "\n" in text
    name = "the configuration" if inline else text
    content = text if inline else _read_text(Path(text).expanduser())
    try:
        check_unique(content, name)
        config = yaml.safe_load(content)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # safe_load raises ValueError for a date such as 2026-99-99
        raise ConfigError(f"{name} is not valid YAML: {_describe(error)}.") from None
    except RecursionError:
        raise ConfigError(f"{name} is nested too deeply for a configuration.") from None
    if not isinstance(config, Mapping):
        content = "is empty" if config is None else f"contains a {type(config).__name__}"
        raise ConfigError(f"{name} {content}. A configuration is a mapping with the keys model, data and trainer.")
    return name, config


def _read_text(path: Path) -> str:
    """Return the text of a regular file; reading a named pipe would block."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} is not a regular file. Pass a YAML file.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:  # a null character in the name raises ValueError
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} has more than {MAX_BYTES} bytes, too many for a configuration.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text ({error.reason}). Pass a YAML file.") from None


def check_unique(text: str, name: str) -> None:
    """Check that no mapping repeats a key, at any depth and regardless of quotes.

    A dotted key such as ``trainer.max_epochs`` counts as a repetition of ``trainer`` in the same mapping.

    Raises
    ------
    ConfigError
        If a key is repeated: YAML would keep its last value only.
    yaml.YAMLError
        If the text is not valid YAML.

    Examples
    --------
    >>> check_unique("a: {b: 1, c: 2, 'b': 3}", "my.yaml")
    Traceback (most recent call last):
        ...
    vaekit.exceptions.ConfigError: my.yaml, line 1 repeats the key 'b' of line 1. Keep one of them.
    """
    pending, visited = [yaml.compose(text, yaml.SafeLoader)], set()
    while pending:
        node = pending.pop()
        if id(node) in visited or not isinstance(node, yaml.CollectionNode):
            continue
        visited.add(id(node))  # an alias refers to a node that is visited once
        if isinstance(node, yaml.SequenceNode):
            pending += node.value
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            pending += [key, value]
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ConfigError(
                    f"{name}, line {line} repeats the key {key.value!r} of line {lines[key.value]}. Keep one of them."
                )
            lines[key.value] = line
        for key, line in lines.items():
            parents = [key[: match.start()] for match in re.finditer(r"\.", key)]
            if above := next((parent for parent in parents if parent in lines), None):
                raise ConfigError(
                    f"{name}, line {line} repeats with {key!r} the key {above!r} of line {lines[above]}. "
                    "Keep one of them."
                )


def _describe(error: Exception) -> str:
    """Return the problem and its position, without words of the file."""
    mark = getattr(error, "problem_mark", None)
    position = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
    return _QUOTED.sub("", problem) + position


def replaced_components(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Yield the components by name (such as latents) that a later configuration replaces.

    Examples
    --------
    >>> old = {"model": {"init_args": {"latents": {"y": {"class_path": "Categorical"}, "z": {}}}}}
    >>> new = {"model": {"init_args": {"latents": {"z": {"class_path": "Gaussian"}}}}}
    >>> list(replaced_components(old, new))
    ["'y', 'z' in model.latents"]
    """
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return
    for name in old.keys() & new.keys():
        path = f"{key}.{name}".removeprefix(".")
        if key.endswith("init_args") and _are_named(old[name]) and _are_named(new[name]):
            yield f"{', '.join(map(repr, old[name]))} in {path.replace('.init_args', '')}"
        else:
            yield from replaced_components(old[name], new[name], path)


def _are_named(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and not {"class_path", "init_args"} & value.keys()
