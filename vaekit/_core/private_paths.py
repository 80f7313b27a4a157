"""Removal of directories from values that leave the machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from vaekit._core.urls import hide_credentials

MATRIX_ARGUMENTS = {"layer", "matrix"}  # whose paths are those within a file, such as "/layers/counts"
DATA_ARGUMENTS = {"path", "root"}  # whose relative paths have directories of the user, too
_FLAG = re.compile(r"(--?[\w.+-]+)(=?)(.*)")  # of a command line, with its value after an equals sign
_DELIMITER = r"\s'\"\[\](),;="
_DIRECTORIES = re.compile(  # of an absolute path within a text, before the name of the file
    rf"(?<![^{_DELIMITER}])(?:[A-Za-z]:)?[/\\](?:[^{_DELIMITER}/\\]+[/\\])*(?=[^{_DELIMITER}/\\])"
)


def hide_directories(value: Any, directories: Iterable[str] = ()) -> Any:
    """Return plain data with the name of the file in place of each absolute path, and of each relative path of data.

    Other relative paths stay, such as ``runs/blood``. The path of a matrix within a file stays, also as the value of a
    flag: ``--layer /layers/counts``. URLs stay, without user name, password and query.

    Parameters
    ----------
    value : object
        Text, number, or mappings and lists of these. A list may be a command line.
    directories : iterable of str
        Directories that texts may contain (:func:`find_directories`). Within a text, others are found only if they are
        absolute and their names have no spaces.

    Examples
    --------
    >>> hide_directories({"path": "/home/ada/cells.h5ad", "root": "data", "layer": None})
    {'path': 'cells.h5ad', 'root': 'data', 'layer': None}
    >>> hide_directories(["vaekit fit --data.path=/home/ada/cells.h5ad -c mine.yaml", "val/elbo"])
    ['vaekit fit --data.path=cells.h5ad -c mine.yaml', 'val/elbo']
    >>> hide_directories(["fit", "/home/ada/my cells/a.h5ad", "--layer", "/raw/X"])
    ['fit', 'a.h5ad', '--layer', '/raw/X']
    """
    if isinstance(value, Mapping):
        return {name: _hide_in_argument(name, item, directories) for name, item in value.items()}
    if isinstance(value, list | tuple):
        before = [None, *value]  # the flag of a value in a command line
        return type(value)(
            item if _names_matrix(flag) else hide_directories(item, directories)
            for flag, item in zip(before, value, strict=False)
        )
    if isinstance(value, PurePath):
        value = str(value)
    if not isinstance(value, str):
        return value
    if (flag := _FLAG.fullmatch(value)) is not None and flag[2]:
        return value if _names_matrix(flag[1]) else f"{flag[1]}={hide_directories(flag[3], directories)}"
    value = hide_credentials(value)
    if (kind := _path_type(value)) is not None:
        return kind(value).name
    for directory in sorted(directories, key=len, reverse=True):
        value = re.sub(rf"(?<![^{_DELIMITER}]){re.escape(directory)}[/\\]", "", value)
    home = str(Path.home())
    text = _DIRECTORIES.sub("", value)
    return text.replace(home, "~") if len(home) > 1 else text


def _names_matrix(flag: Any) -> bool:
    """Return whether a flag, such as ``--data.layer``, is that of a matrix within a file."""
    return isinstance(flag, str) and flag.startswith("-") and flag.rpartition(".")[2].lstrip("-") in MATRIX_ARGUMENTS


def _hide_in_argument(name: str, value: Any, directories: Iterable[str]) -> Any:
    """Return the value of an argument without directories."""
    if name in MATRIX_ARGUMENTS:
        return value
    if name in DATA_ARGUMENTS and isinstance(value, list | tuple):
        return type(value)(_hide_in_argument(name, item, directories) for item in value)
    if name in DATA_ARGUMENTS and isinstance(value, str) and "://" not in value:
        return (_path_type(value) or PurePath)(value).name
    return hide_directories(value, directories)


def find_directories(value: Any) -> set[str]:
    """Return the directories of all absolute paths in plain data, and of relative paths of data.

    Examples
    --------
    >>> find_directories({"path": ["/home/ada/my data/cells.h5ad"], "layer": "/X", "epochs": 3})
    {'/home/ada/my data'}
    >>> find_directories({"path": "donor 7/cells.h5ad", "default_root_dir": "runs/a"})
    {'donor 7'}
    """
    if isinstance(value, Mapping):
        found = set().union(*map(find_directories, value.values()))
        for name in DATA_ARGUMENTS & value.keys():
            paths = value[name] if isinstance(value[name], list | tuple) else [value[name]]
            found |= {str(PurePath(path).parent) for path in paths if isinstance(path, str) and "://" not in path}
        return found - {"/", "."}
    if isinstance(value, list | tuple):
        return set().union(*map(find_directories, value))
    kind = _path_type(value) if isinstance(value, str) else None
    return set() if kind is None else {str(kind(value).parent)} - {"/"}


def _path_type(text: str) -> type[PurePath] | None:
    """Return the class of an absolute path; None for other texts, also those that begin with a path and a colon."""
    kinds = (PurePosixPath, PureWindowsPath)
    return None if re.search(r"\n|[:,;] ", text) else next((kind for kind in kinds if kind(text).is_absolute()), None)
