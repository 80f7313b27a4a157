"""Names of files instead of their paths: readers of a report need not know the directories of its author."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

# an absolute path of at least two parts, or one in the home directory, within a text
PATH = re.compile(r"(?<![\w.:/\\~-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\:,;'\"()=]+[/\\])+(?=[^\s/\\])|(?<![\w/])~[/\\]")
MATRICES = ("/layers/", "/raw/", "/X")  # paths within a file of cells


def without_directories(value: Any) -> Any:
    """Return plain data in which absolute paths are reduced to the names of the files; relative paths stay.

    Examples
    --------
    >>> without_directories({"path": "/home/ada/cells.h5ad", "layer": "/layers/counts", "epochs": 3})
    {'path': 'cells.h5ad', 'layer': '/layers/counts', 'epochs': 3}
    >>> without_directories("/data/a b/cells.h5ad"), without_directories("runs/a")
    ('cells.h5ad', 'runs/a')
    >>> without_directories("read /home/ada/x/cells.h5ad: 3 cells are empty; see https://vaekit.org/a/b")
    'read cells.h5ad: 3 cells are empty; see https://vaekit.org/a/b'
    """
    if isinstance(value, Mapping):
        return {key: without_directories(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_directories(item) for item in value]
    if not isinstance(value, str) or value.startswith(MATRICES):
        return value
    if is_path(value):
        return file_name(value)
    flag, equals, argument = value.partition("=")
    if equals and is_path(argument):
        return f"{flag}={file_name(argument)}"
    return PATH.sub("", value)


def is_path(text: str) -> bool:
    """Return whether a text is an absolute path, or one in the home directory."""
    begins = text.startswith(("/", "~/", "\\\\")) or re.match(r"[A-Za-z]:[/\\]", text) is not None
    return begins and not re.search(r"[\n:;,](?![/\\])", text)


def file_name(path: str) -> str:
    r"""Return the last part of a path of any system.

    Examples
    --------
    >>> file_name("/home/ada/cells.h5ad"), file_name("C:\\Users\\ada\\cells.h5ad"), file_name("runs/a/")
    ('cells.h5ad', 'cells.h5ad', 'a')
    """
    return PureWindowsPath(path).name or PurePosixPath(path).name or path
