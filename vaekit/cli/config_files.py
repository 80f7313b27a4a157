"""Configuration files as plain data: keys are unique, and errors never quote a file that may contain a secret."""

from __future__ import annotations

import itertools
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

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
        config = load_yaml(content, name)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2026-99-99 raises ValueError
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


def load_yaml(text: str, name: str) -> Any:
    """Return YAML as plain data, and reject repeated keys, at any depth and regardless of quotes.

    A dotted key such as ``trainer.max_epochs`` counts as a repetition of ``trainer`` in the same mapping.

    Raises
    ------
    ConfigError
        If a key is repeated: YAML would keep its last value only.
    yaml.YAMLError
        If the text is not valid YAML.

    Examples
    --------
    >>> load_yaml("a: {b: 1, c: 2, 'b': 3}", "my.yaml")
    Traceback (most recent call last):
        ...
    vaekit.exceptions.ConfigError: my.yaml, line 1 repeats the key 'b' of line 1. Keep one of them.
    """
    loader = _UniqueKeyLoader(text)
    loader.document = name
    return loader.get_single_data()


class _UniqueKeyLoader(yaml.SafeLoader):
    """Loader that raises an error for a repeated key."""

    document: str

    @override
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        nodes = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        lines: dict[str, int] = {}
        for key in (key for key in nodes if key.tag != "tag:yaml.org,2002:merge"):
            if key.value in lines:
                raise self._repetition(key, repr(key.value), lines[key.value])
            lines[key.value] = key.start_mark.line + 1
        for key in nodes:
            parents = itertools.accumulate(key.value.split(".")[:-1], "{}.{}".format)
            if parent := next((parent for parent in parents if parent in lines), None):
                raise self._repetition(key, f"{parent!r} as {key.value!r}", lines[parent])
        return super().construct_mapping(node, deep)

    def _repetition(self, key: Any, description: str, line: int) -> ConfigError:
        return ConfigError(
            f"{self.document}, line {key.start_mark.line + 1} repeats the key {description} of line {line}. Keep one "
            "of them."
        )


def _describe(error: Exception) -> str:
    """Return the problem and its position, without words of the file."""
    mark = getattr(error, "problem_mark", None)
    position = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
    return _QUOTED.sub("", problem) + position
