"""Removal of directories from values that leave the machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from vaekit._core.urls import hide_credentials

MATRIX_ARGUMENTS = {"layer", "matrix"}  # whose paths are those within a file, such as "/layers/counts"
_DELIMITER = r"\s'\"\[\](),;="
_DIRECTORIES = re.compile(  # of an absolute path within a text, before the name of the file
    rf"(?<![^{_DELIMITER}])(?:[A-Za-z]:)?[/\\](?:[^{_DELIMITER}/\\]+[/\\])*(?=[^{_DELIMITER}/\\])"
)


def hide_directories(value: Any, directories: Iterable[str] = ()) -> Any:
    """Return plain data with the name of the file in place of each absolute path; relative paths stay.

    URLs stay without user name, password and query.

    Parameters
    ----------
    value : object
        Text, number, or mappings and lists of these.
    directories : iterable of str
        Directories that texts may contain. Within a text, others are found only if their names have no spaces.

    Examples
    --------
    >>> hide_directories({"path": "/home/ada/cells.h5ad", "root": "data", "layer": None})
    {'path': 'cells.h5ad', 'root': 'data', 'layer': None}
    >>> hide_directories(["vaekit fit --data.path=/home/ada/cells.h5ad -c mine.yaml", "val/elbo"])
    ['vaekit fit --data.path=cells.h5ad -c mine.yaml', 'val/elbo']
    """
    if isinstance(value, Mapping):
        return {
            name: item if name in MATRIX_ARGUMENTS else hide_directories(item, directories)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(hide_directories(item, directories) for item in value)
    if isinstance(value, PurePath):
        value = str(value)
    if not isinstance(value, str):
        return value
    value = hide_credentials(value)
    if (kind := _path_type(value)) is not None:
        return kind(value).name
    for directory in sorted(directories, key=len, reverse=True):
        value = value.replace(f"{directory}/", "")
    home = str(Path.home())
    text = _DIRECTORIES.sub("", value)
    return text.replace(home, "~") if len(home) > 1 else text


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
    kind = _path_type(value) if isinstance(value, str) else None
    return set() if kind is None else {str(kind(value).parent)} - {"/"}


def _path_type(text: str) -> type[PurePath] | None:
    """Return the class of an absolute path; None for other texts, also those that begin with a path and a colon."""
    kinds = (PurePosixPath, PureWindowsPath)
    return None if re.search(r"\n|[:,;] ", text) else next((kind for kind in kinds if kind(text).is_absolute()), None)
