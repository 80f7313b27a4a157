"""Removal of directories from values that leave the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

MATRIX_ARGUMENTS = {"layer", "matrix"}  # whose paths are those within a file, such as "/layers/counts"
_DELIMITER = r"\s'\"\[\](),;="
_DIRECTORIES = re.compile(  # of an absolute path within a text, before the name of the file
    rf"(?<![^{_DELIMITER}])(?:[A-Za-z]:)?[/\\](?:[^{_DELIMITER}/\\]+[/\\])*(?=[^{_DELIMITER}/\\])"
)


def hide_directories(value: Any) -> Any:
    """Return plain data with the name of the file in place of each absolute path; relative paths stay.

    Examples
    --------
    >>> hide_directories({"path": "/home/ada/cells.h5ad", "root": "data", "layer": None})
    {'path': 'cells.h5ad', 'root': 'data', 'layer': None}
    >>> hide_directories(["vaekit fit --data.path=/home/ada/cells.h5ad -c mine.yaml", "val/elbo"])
    ['vaekit fit --data.path=cells.h5ad -c mine.yaml', 'val/elbo']
    """
    if isinstance(value, Mapping):
        return {name: item if name in MATRIX_ARGUMENTS else hide_directories(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(hide_directories, value))
    if isinstance(value, PurePath):
        value = str(value)
    if not isinstance(value, str):
        return value
    for kind in (PurePosixPath, PureWindowsPath):
        if "\n" not in value and kind(value).is_absolute():
            return kind(value).name
    home = str(Path.home())
    text = _DIRECTORIES.sub("", value)
    return text.replace(home, "~") if len(home) > 1 else text
