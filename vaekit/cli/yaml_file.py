"""YAML as plain data: keys are unique, and errors do not quote a file that may contain a secret."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml

from vaekit.exceptions import ConfigError

MAX_BYTES = 2**20  # of a configuration, which has some thousand
_QUOTED = re.compile(r"\s*(?:'[^']*'|\"[^\"]*\")")


def read_text(path: Path) -> str:
    """Return the text of a configuration file.

    Raises
    ------
    ConfigError
        If the path is not a regular file (a named pipe would block), or the file is too large or not text.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} is not a regular file. Pass a YAML file.")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a ValueError is of a null character in the name
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"the configuration {path} cannot be read: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path} has more than {MAX_BYTES} bytes, where a configuration has some thousand")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text ({error.reason}); a YAML file is needed") from None


def parse(text: str, name: str) -> Any:
    """Return YAML text as plain data.

    Parameters
    ----------
    text
        The YAML text.
    name
        Name of its source, for the message.

    Raises
    ------
    ConfigError
        If the text is not valid YAML, or a mapping repeats a key.
    """
    try:
        check_unique(text, name)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is of a date such as 2026-99-99
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{name} is no valid YAML: {_without_content(error)}") from None
    except RecursionError:
        raise ConfigError(f"{name} is nested too deeply for a configuration") from None


def check_unique(text: str, name: str) -> None:
    """Check that no mapping repeats a key, at any depth and regardless of quotes.

    A dotted key such as ``trainer.max_epochs`` counts as a repetition of ``trainer`` in the same mapping.

    Raises
    ------
    ConfigError
        If one does: YAML would keep the last value only.
    yaml.YAMLError
        If the text is not valid YAML.

    Examples
    --------
    >>> check_unique("a: {b: 1, c: 2, 'b': 3}", "my.yaml")
    Traceback (most recent call last):
        ...
    vaekit.exceptions.ConfigError: my.yaml, line 1 repeats the key 'b' of line 1. Keep one of them.
    """
    waiting, visited = [yaml.compose(text, yaml.SafeLoader)], set()
    while waiting:
        node = waiting.pop()
        if id(node) in visited or not isinstance(node, yaml.CollectionNode):
            continue
        visited.add(id(node))  # an alias leads to a node that was visited
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            waiting += [key, value]
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


def _without_content(error: Exception) -> str:
    """Return the problem and its place, without words of the file."""
    mark = getattr(error, "problem_mark", None)
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
    return _QUOTED.sub("", problem) + place
