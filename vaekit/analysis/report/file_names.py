"""Names of files instead of their paths: readers of a report need not know the directories of its author."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

# an absolute path of at least two parts, or one in the home directory, within a text
PATH = re.compile(r"(?<![\w.:/\\~-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\:,;'\"()=]+[/\\])+(?=[^\s/\\])|(?<![\w/])~[/\\]")
MATRICES = ("/layers/", "/raw/", "/X")  # paths within a file of cells


def without_directories(value: Any, directories: Iterable[str] = ()) -> Any:
    """Return plain data in which absolute paths are reduced to the names of the files; relative paths stay.

    Parameters
    ----------
    value : object
        Text, number, or mappings and lists of these.
    directories : iterable of str
        Directories that texts may contain. Others are found if their names do not contain spaces.

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
        return {key: without_directories(item, directories) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_directories(item, directories) for item in value]
    if not isinstance(value, str) or value.startswith(MATRICES):
        return value
    for directory in sorted(directories, key=len, reverse=True):
        value = value.replace(f"{directory}/", "")
    if is_path(value):
        return file_name(value)
    flag, equals, argument = value.partition("=")
    if equals and is_path(argument):
        return f"{flag}={file_name(argument)}"
    return PATH.sub("", value)


def find_directories(value: Any) -> set[str]:
    """Return the directories of all absolute paths in plain data.

    Examples
    --------
    >>> find_directories({"path": ["/home/ada/my data/cells.h5ad"], "layer": "/X", "epochs": 3})
    {'/home/ada/my data'}
    """
    if isinstance(value, Mapping):
        return set().union(*map(find_directories, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(find_directories, value))
    found = isinstance(value, str) and not value.startswith(MATRICES) and is_path(value)
    return {str(PurePosixPath(value).parent)} - {"/"} if found else set()


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
